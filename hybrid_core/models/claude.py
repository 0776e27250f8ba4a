"""A constitutional decoder: it writes text and says of every text how harmless and how helpful it is.

This is *not* Anthropic's architecture, which is not public; the entry bears the name that the project's document gave
it, and everything in it is our own. A plain decoder over bytes gets two critique heads on its last hidden states. They
are trained on answers labelled by written rules (`constitution/rules.py`), and the generation loop
(`constitution/revision.py`) lets the decoder revise what its heads reject. Heads and logits come from one forward pass,
so an optimized model keeps both.

Idea: Bai et al. 2022, Constitutional AI (arXiv 2212.08073). Dimensions of `full`: the project's document.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.models.base import Task
from hybrid_core.models.checkpoints import CHECKPOINTS
from hybrid_core.models.constitution.rules import RULES, VALUES
from hybrid_core.models.language import RANDOM_WEIGHTS, DecoderShape, DenseDecoder, DenseEntry
from hybrid_core.models.parts.blocks import Cache
from hybrid_core.models.tasks.constitutional import ConstitutionalTask, held_out_dialogue_bytes
from hybrid_core.records import Workload

NOT_ANTHROPIC = "Anthropic's architecture is not public and this is not it: it is our own decoder"
SHAPES = {
    "tiny": DecoderShape(dim=160, layers=4, heads=6, kv_heads=3, head_dim=32, hidden=432, max_length=512),
    "small": DecoderShape(dim=640, layers=9, heads=10, kv_heads=2, head_dim=64, hidden=1792),
    "full": DecoderShape(
        dim=8192,
        layers=80,
        heads=64,
        kv_heads=8,
        head_dim=128,
        hidden=58_880,
        vocabulary=100_352,
        max_length=200_000,
    ),
}


class ConstitutionalDecoder(DenseDecoder):
    """Tokens in; out come the logits of the next token and, at every token, the critique of the text so far."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__(shape)
        self.critique = nn.Linear(shape.dim, len(VALUES))
        nn.init.normal_(self.critique.weight, std=0.02)
        nn.init.zeros_(self.critique.bias)

    def forward(  # type: ignore[override]  # two outputs where a plain decoder has one
        self, tokens: Tensor, cache: Cache | None = None, padding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens (batch, new) to logits (batch, new, vocabulary) and critique (batch, new, 2).

        The critique is the probability that the answer being written turns out harmless, and helpful; it is complete
        at the newline that ends the answer.
        """
        hidden = self.hidden(tokens, cache, padding)
        return self.head(hidden), torch.sigmoid(self.critique(hidden).float())


class ClaudeEntry(DenseEntry):
    """The registry's entry."""

    name = "claude"
    family = "claude"
    title = "Constitutional decoder (our own, not Anthropic's)"
    description = (
        f"A decoder with two critique heads, harmlessness and helpfulness, and a loop that revises what they reject. "
        f"{NOT_ANTHROPIC}. The tiny size is trained on generated dialogues labelled by {len(RULES)} written rules."
    )
    architecture = (
        f"{NOT_ANTHROPIC}: RMSNorm, grouped-query attention, rotary positions and SwiGLU over bytes, with a linear "
        "layer of two sigmoid outputs (harmless, helpful) on the last hidden state of every token."
    )
    sources = ("Bai et al. 2022, Constitutional AI: Harmlessness from AI Feedback, arXiv 2212.08073 (the idea)",)
    checkpoint = CHECKPOINTS / "claude-tiny.safetensors"
    shapes = SHAPES

    def make(self, size: str) -> nn.Module:
        """The decoder of this size."""
        return ConstitutionalDecoder(self.shapes[size])

    def parameters(self, size: str) -> int:
        """The decoder and its critique heads: a weight for each dimension and a bias, twice.

        >>> ClaudeEntry().parameters("tiny")
        1281762
        """
        return super().parameters(size) + len(VALUES) * (self.shapes[size].dim + 1)

    def workloads(self, size: str) -> tuple[Workload, ...]:
        """Within the 256 bytes that the tiny size was trained on at once."""
        if size != "tiny":
            return super().workloads(size)
        return (
            Workload("prefill", "prefill", batch=4, length=256),
            Workload("decode", "decode", batch=1, length=192, new_tokens=16),
        )

    def held_out_text(self) -> Tensor:
        """Held-out dialogues."""
        return held_out_dialogue_bytes()

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """Logits and critique; for decode of the new tokens, read one by one after the context."""
        if workload.kind == "decode":
            return decode(model, *inputs)
        outputs: tuple[Tensor, Tensor] = model(*inputs)
        return outputs

    def trained_task(self) -> Task | None:
        """Next byte, violations and critique on held-out dialogues.

        A quarter of the questions that the published figures ask: writing answers takes longer than everything else
        that is measured of a candidate.
        """
        return ConstitutionalTask(questions=16, critique_rows=32, untouched=lambda: self.build("tiny", seed=0))

    def card(self, size: str) -> dict[str, Any]:
        """The constitution, beside length and vocabulary."""
        rules = [{"id": rule.id, "value": rule.value, "sentence": rule.sentence} for rule in RULES]
        return {**super().card(size), "constitution": rules}

    def limits(self, size: str) -> list[str]:
        """What it is not, and what the weights of this size know."""
        if size == "full":
            return [
                f"{NOT_ANTHROPIC}; no parameter count was published, so none stands beside ours",
                "its dimensions are those of the project's document; random weights, for speed and memory only, where "
                "it fits",
            ]
        if size == "small":
            return [NOT_ANTHROPIC, RANDOM_WEIGHTS]
        return [
            NOT_ANTHROPIC,
            "knows short generated questions about some 160 things and nothing else: no assistant",
            f"its constitution has {len(RULES)} simple rules about wording; keeping them does not make a text safe",
            "its critique heads know the phrasings they were trained on: an insult put in other words can pass them",
            "of held-out answers that break one rule the heads miss 25 of 39 about another thing and 33 of 45 with a "
            "word said twice, none of 299 others",
            "trained on up to 256 bytes at once: its answers get worse beyond",
        ]


def decode(model: nn.Module, context: Tensor, next_tokens: Tensor) -> tuple[Tensor, Tensor]:
    """As `decoder.decode`, for a model with two outputs: logits and critique of the new tokens."""
    make_cache: Any = model.cache_factory
    cache = make_cache(context.shape[0], context.shape[1] + next_tokens.shape[1])
    model(context, cache=cache)
    steps = [model(token, cache=cache) for token in torch.split(next_tokens, 1, dim=1)]
    return torch.cat([logits for logits, _ in steps], dim=1), torch.cat([critique for _, critique in steps], dim=1)
