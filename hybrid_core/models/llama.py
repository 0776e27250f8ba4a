"""A byte-level decoder of the Llama family: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Bytes are the vocabulary, so the model needs no tokenizer and no download, and its quality is a plain question: how
often is the most likely next byte the right one? `tiny` is trained on Python's standard library and shipped
with its weights; `small` has the weight of a real model, random values, and is for speed and memory only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.base import Task, check_size, freeze
from hybrid_core.models.blocks import Cache, DecoderLayer, GrowingCache, RMSNorm, rotary_table
from hybrid_core.models.checkpoints import CHECKPOINTS, load_weights, read_facts
from hybrid_core.models.tasks import NextByteTask, held_out_bytes
from hybrid_core.records import Workload

VOCABULARY = 256
CHECKPOINT = CHECKPOINTS / "llama-tiny.safetensors"


@dataclass(frozen=True)
class LlamaShape:
    """The dimensions of one size."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocabulary: int = VOCABULARY
    max_length: int = 2048
    theta: float = 10_000.0

    @property
    def parameters(self) -> int:
        """The count in closed form; input embedding and output head are two matrices.

        >>> LlamaShape(dim=192, layers=4, heads=6, kv_heads=2, head_dim=32, hidden=512).parameters
        1672896
        """
        attention = 2 * self.dim * self.heads * self.head_dim + 2 * self.dim * self.kv_heads * self.head_dim
        layer = attention + 3 * self.dim * self.hidden + 2 * self.dim
        return self.layers * layer + self.dim + 2 * self.vocabulary * self.dim


SHAPES = {
    "tiny": LlamaShape(dim=192, layers=4, heads=6, kv_heads=2, head_dim=32, hidden=512),
    # The 31 M decoder of the project's feasibility study, with a byte vocabulary.
    "small": LlamaShape(dim=640, layers=8, heads=10, kv_heads=2, head_dim=64, hidden=1792),
}


class Llama(nn.Module):
    """Tokens in, logits out; with a cache, only the new tokens go in."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.dim)
        self.layers = nn.ModuleList(
            DecoderLayer(shape.dim, shape.heads, shape.kv_heads, shape.head_dim, shape.hidden)
            for _ in range(shape.layers)
        )
        self.norm = RMSNorm(shape.dim)
        self.head = nn.Linear(shape.dim, shape.vocabulary, bias=False)
        cos, sin = rotary_table(shape.head_dim, shape.max_length, shape.theta)
        # Not persistent: they follow from the shape, so a checkpoint holds weights only.
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Tokens (batch, new) int64 to logits (batch, new, vocabulary).

        Raises:
            InvalidInput: cached and new tokens together exceed `shape.max_length`.
        """
        start = 0 if cache is None else cache.length
        end = checked_end(start, tokens.shape[1], self.shape.max_length)
        x = self.embedding(tokens)
        mask = causal_mask(start, end, x)
        cos, sin = rows_between(self.cos, self.sin, start, end)
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, mask, index, cache)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def cache_factory(self, batch: int, max_length: int) -> Cache:
        """An empty cache; `batch` and `max_length` matter to caches that reserve their memory, not to this one."""
        del batch, max_length
        return GrowingCache(len(self.layers))

    def _initialise(self) -> None:
        # Projections that write into the residual stream start small so that depth does not raise its variance (GPT-2).
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                into_stream = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * self.shape.layers) ** 0.5 if into_stream else 0.02)


def checked_end(start: int, new: int, max_length: int) -> int:
    """The position after the last new token, refused beyond the rotary table."""
    end = start + new
    if end > max_length:
        raise InvalidInput(
            f"{start} cached + {new} new tokens = {end} exceed max_length={max_length}; shorten the input to at most "
            f"{max_length - start} tokens"
        )
    return end


def causal_mask(start: int, end: int, like: Tensor) -> Tensor:
    """(new, all) with 0 where position start + row may look and -inf where it may not; dtype and device of `like`."""
    mask = torch.full((end - start, end), float("-inf"), dtype=like.dtype, device=like.device)
    return torch.triu(mask, diagonal=start + 1)


class LlamaEntry:
    """The registry's entry."""

    name = "llama"
    family = "llama"
    title = "Byte-level Llama"
    description = (
        "A decoder of the Llama family that reads bytes: RMSNorm, rotary positions, grouped-query attention, SwiGLU. "
        "The tiny size is trained on Python's standard library; the small one has random weights."
    )
    sizes: tuple[str, ...] = ("tiny", "small")

    def workloads(self, size: str) -> tuple[Workload, ...]:
        """One pass over a text, decoding with a cache, and for `tiny` a longer text, where attention weighs more."""
        check_size(self.name, self.sizes, size)
        if size == "small":
            return (
                Workload("prefill", "prefill", batch=1, length=256),
                Workload("decode", "decode", batch=1, length=128, new_tokens=16),
            )
        return (
            Workload("prefill", "prefill", batch=1, length=512),
            Workload("decode", "decode", batch=1, length=256, new_tokens=16),
            Workload("prefill_long", "prefill", batch=1, length=1024),
        )

    def build(self, size: str, seed: int) -> nn.Module:
        """`tiny`: the checkpoint, whatever the seed. `small`: random weights from the seed."""
        check_size(self.name, self.sizes, size)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            model = Llama(SHAPES[size])
        if size == "tiny":
            load_weights(model, CHECKPOINT)
        return freeze(model)

    def make_inputs(self, size: str, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Held-out source text from random places: (tokens,), for decode (context, next tokens); all int64."""
        check_size(self.name, self.sizes, size)
        text, length = held_out_bytes(), workload.length + workload.new_tokens
        starts = torch.randint(len(text) - length + 1, (workload.batch, 1), generator=generator)
        tokens = text[starts + torch.arange(length)]
        if workload.kind == "decode":
            return tokens[:, : workload.length].contiguous(), tokens[:, workload.length :].contiguous()
        return (tokens,)

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits (batch, tokens, vocabulary); for decode of the new tokens, read one by one after the context."""
        if workload.kind == "decode":
            return decode(model, *inputs)
        logits: Tensor = model(*inputs)
        return logits

    def task(self, size: str) -> Task | None:
        """Next-byte accuracy for the trained size; random weights have no quality to keep."""
        check_size(self.name, self.sizes, size)
        return NextByteTask() if size == "tiny" else None

    def facts(self, size: str) -> dict[str, Any]:
        """See `ModelEntry.facts`."""
        check_size(self.name, self.sizes, size)
        shape = SHAPES[size]
        common = {"parameters": shape.parameters, "max_length": shape.max_length, "vocabulary": shape.vocabulary}
        if size == "small":
            limits = ["random weights: for speed and memory only, its outputs mean nothing"]
            return {**common, "trained": False, "quality": None, "limits": limits}
        facts = read_facts(CHECKPOINT)
        limits = [
            "predicts Python source only, byte by byte",
            "trained on up to 512 bytes at once: its answers get worse beyond, so prefill_long is for speed and memory",
        ]
        return {**common, "trained": True, "quality": facts["quality"], "training": facts, "limits": limits}


def decode(model: nn.Module, context: Tensor, next_tokens: Tensor) -> Tensor:
    """Read the context into a fresh cache, then the next tokens one by one; their logits, (batch, new, vocabulary).

    Feeding given tokens instead of the model's own keeps two models comparable after their first disagreement.
    """
    new = next_tokens.shape[1]
    make_cache: Any = model.cache_factory
    cache = make_cache(context.shape[0], context.shape[1] + new)
    model(context, cache=cache)
    return torch.cat([model(next_tokens[:, i : i + 1], cache=cache) for i in range(new)], dim=1)


def rows_between(cos: Tensor, sin: Tensor, start: int, end: int) -> tuple[Tensor, Tensor]:
    """The rotary table of the positions start to end - 1."""
    return cos[start:end], sin[start:end]


# As leaves these do not stop torch.fx.symbolic_trace: one branches on a size, the other slices a tensor by sizes.
torch.fx.wrap("checked_end")
torch.fx.wrap("rows_between")
