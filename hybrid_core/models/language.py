"""The entries of decoders: how they are sized, fed with real text, timed and judged.

Bytes are the vocabulary of every size that runs, so a model needs no tokenizer and no download, and its quality is a
plain question: how often is the most likely next byte the right one? `full` has the published vocabulary and is for the
card: what it weighs, what its cache costs, where it fits.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.models.base import RegistryEntry, Task, check_size
from hybrid_core.models.parts.blocks import DecoderLayer
from hybrid_core.models.parts.decoder import Decoder, decode
from hybrid_core.models.parts.rotary import Llama3Scaling, rotary_table
from hybrid_core.models.tasks.next_byte import NextByteTask, held_out_bytes
from hybrid_core.records import Workload

BYTES = 256
RANDOM_WEIGHTS = "random weights: for speed and memory only, its outputs mean nothing"


@dataclass(frozen=True)
class DecoderShape:
    """The dimensions of one size of a dense decoder with grouped-query attention."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocabulary: int = BYTES
    max_length: int = 2048
    theta: float = 10_000.0
    rope: Llama3Scaling | None = None
    qkv_bias: bool = False
    norm_eps: float = 1e-5

    @property
    def parameters(self) -> int:
        """The count in closed form; input embedding and output head are two matrices.

        >>> DecoderShape(dim=192, layers=4, heads=6, kv_heads=2, head_dim=32, hidden=512).parameters
        1672896
        """
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.dim * queries + 2 * self.dim * keys + (queries + 2 * keys if self.qkv_bias else 0)
        layer = attention + 3 * self.dim * self.hidden + 2 * self.dim
        return self.layers * layer + self.dim + 2 * self.vocabulary * self.dim

    @property
    def cache_values_per_token(self) -> int:
        """One key and one value of every layer and key/value head."""
        return 2 * self.layers * self.kv_heads * self.head_dim


class DenseDecoder(Decoder):
    """A decoder of equal layers, described by its shape: the form of Llama and of Qwen2."""

    def __init__(self, shape: DecoderShape) -> None:
        layers = (
            DecoderLayer(
                shape.dim, shape.heads, shape.kv_heads, shape.head_dim, shape.hidden, shape.qkv_bias, shape.norm_eps
            )
            for _ in range(shape.layers)
        )
        table = rotary_table(shape.head_dim, shape.max_length, shape.theta, shape.rope)
        super().__init__(shape.vocabulary, shape.dim, layers, table, shape.norm_eps)
        self.shape = shape


class LanguageEntry(RegistryEntry):
    """A decoder that reads bytes: one pass over a text, decoding with a cache, next-byte accuracy."""

    tiny_prefill = 512
    tiny_context = 256
    small_prefill = 128
    small_context = 64
    new_tokens = 16

    @abstractmethod
    def max_length(self, size: str) -> int:
        """Tokens that fit into the rotary table."""

    @abstractmethod
    def vocabulary(self, size: str) -> int:
        """How many tokens there are."""

    def workloads(self, size: str) -> tuple[Workload, ...]:
        """One pass over a text (prefill) and decoding with a cache."""
        check_size(self.name, self.sizes, size)
        tiny = size == "tiny"
        length, context = (self.tiny_prefill, self.tiny_context) if tiny else (self.small_prefill, self.small_context)
        return (
            Workload("prefill", "prefill", batch=1, length=length),
            Workload("decode", "decode", batch=1, length=context, new_tokens=self.new_tokens if tiny else 4),
        )

    def make_inputs(self, size: str, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Held-out text from random places: (tokens,), for decode (context, next tokens); all int64."""
        check_size(self.name, self.sizes, size)
        text, length = self.held_out_text(), workload.length + workload.new_tokens
        starts = torch.randint(len(text) - length + 1, (workload.batch, 1), generator=generator)
        tokens = text[starts + torch.arange(length)]
        if workload.kind == "decode":
            return tokens[:, : workload.length].contiguous(), tokens[:, workload.length :].contiguous()
        return (tokens,)

    def held_out_text(self) -> Tensor:
        """What inputs are cut from, int64 bytes."""
        return held_out_bytes()

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """Logits (batch, tokens, vocabulary); for decode of the new tokens, read one by one after the context."""
        if workload.kind == "decode":
            return decode(model, *inputs)
        logits: Tensor = model(*inputs)
        return logits

    def trained_task(self) -> Task | None:
        """Next-byte accuracy."""
        return NextByteTask()

    def card(self, size: str) -> dict[str, Any]:
        """Length and vocabulary."""
        return {"max_length": self.max_length(size), "vocabulary": self.vocabulary(size)}

    def limits(self, size: str) -> list[str]:
        """What the weights of this size know."""
        if size == "full":
            return [
                "the published weights are not shipped: random weights, for speed and memory only, where it fits",
                "its inputs here are bytes; the published tokenizer is not shipped",
            ]
        if size == "small":
            return [RANDOM_WEIGHTS]
        return [
            "predicts Python source only, byte by byte",
            "trained on up to 512 bytes at once: its answers get worse beyond; longer texts are for speed and memory",
        ]


class DenseEntry(LanguageEntry):
    """An entry whose sizes are `DecoderShape`s."""

    shapes: dict[str, DecoderShape]

    def make(self, size: str) -> nn.Module:
        """The decoder of this size."""
        return DenseDecoder(self.shapes[size])

    def parameters(self, size: str) -> int:
        """Closed form."""
        check_size(self.name, self.sizes, size)
        return self.shapes[size].parameters

    def cache_values_per_token(self, size: str) -> int | None:
        """Keys and values of all layers."""
        check_size(self.name, self.sizes, size)
        return self.shapes[size].cache_values_per_token

    def max_length(self, size: str) -> int:
        """From the shape."""
        return self.shapes[size].max_length

    def vocabulary(self, size: str) -> int:
        """From the shape."""
        return self.shapes[size].vocabulary
