"""A KV cache in 8 bits: each token's key and value of each head as int8 with one float32 scale.

A cached number takes a quarter of its bytes, plus four bytes per token and head; everything a layer holds is turned
back into floating point when it is read, which costs time at every step, so this is for memory. The tokens of the
first call are used as they are and rounded only for later calls. Source: Liu et al. 2024, KIVI (arXiv 2402.02750),
which goes down to 2 bits with scales per channel for keys.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Method, Setting, Situation
from hybrid_core.strategies.pooling.decode_cache import (
    made_by_example,
    refuse_overflow,
    refuse_without_decode,
    watch_own_cache,
)

LARGEST = 127
SMALLEST_SCALE = 1e-12  # a token of zeros has no scale of its own


class QuantizedRows:
    """Rows (batch, heads, max_length, width) as int8, with scales (batch, heads, max_length, 1)."""

    def __init__(self, like: Tensor, max_length: int) -> None:
        shape = (like.shape[0], like.shape[1], max_length)
        self.numbers = like.new_zeros((*shape, like.shape[3]), dtype=torch.int8)
        self.scales = like.new_zeros((*shape, 1), dtype=torch.float32)

    def write(self, start: int, end: int, rows: Tensor) -> None:
        """Round the rows; the largest of a row becomes 127."""
        scale = rows.float().abs().amax(-1, keepdim=True).clamp_min(SMALLEST_SCALE) / LARGEST
        self.numbers[:, :, start:end] = torch.round(rows.float() / scale)
        self.scales[:, :, start:end] = scale

    def read(self, end: int, dtype: torch.dtype) -> Tensor:
        """The first `end` rows in floating point."""
        return (self.numbers[:, :, :end] * self.scales[:, :, :end]).to(dtype)

    @property
    def allocated_bytes(self) -> int:
        """Numbers and scales."""
        return self.numbers.numel() + 4 * self.scales.numel()


class QuantizedCache:
    """Keys and values of every layer as int8, allocated once for the whole decode."""

    def __init__(self, batch: int, max_length: int, *, layers: int) -> None:
        self.batch, self.max_length = batch, max_length
        self._filled = [0] * layers
        self._held: list[tuple[QuantizedRows, QuantizedRows] | None] = [None] * layers

    @property
    def length(self) -> int:
        """Tokens held by every layer: the last layer is the last to be filled."""
        return self._filled[-1]

    @property
    def allocated_bytes(self) -> int:
        """What the buffers made so far occupy."""
        return sum(rows.allocated_bytes for pair in self._held if pair is not None for rows in pair)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (batch, kv_heads, new, width) rounded and return everything this layer holds."""
        start, end = self._filled[layer], self._filled[layer] + k.shape[2]
        refuse_overflow(start, k.shape[2], self.max_length)
        held = self._held[layer]
        keys, values = (QuantizedRows(t, self.max_length) for t in (k, v)) if held is None else held
        keys.write(start, end, k)
        values.write(start, end, v)
        self._held[layer], self._filled[layer] = (keys, values), end
        return (k, v) if start == 0 else (keys.read(end, k.dtype), values.read(end, v.dtype))


def use_quantized_cache(model: nn.Module, situation: Situation) -> Applied:
    """Replace `model.cache_factory`; raises where the scales outweigh what the narrow numbers save."""
    filled = watch_own_cache(model, situation)
    cache, _ = made_by_example(model, situation, partial(QuantizedCache, layers=filled.layers))
    if cache.allocated_bytes >= filled.held_bytes:
        raise StrategyUnsupported(
            f"in 8 bits with its scales the cache takes {cache.allocated_bytes} bytes, and {filled.held_bytes} as it "
            "is; its rows are too narrow to gain"
        )
    now, before = cache.allocated_bytes / 1e6, filled.held_bytes / 1e6
    change = (
        f"the cache of {filled.layers} layers holds int8 with one scale per token and head: "
        f"{now:.2f} MB for {cache.max_length} tokens instead of {before:.2f} MB"
    )
    return Applied(model, (change,))


QUANTIZED_CACHE = Method(
    Setting(
        name="quantized_cache",
        sentence="Keys and values of a decode are kept as int8 with a scale per token and head.",
        stage=50,
        exact=False,
        expected_cost_s=1.0,
        references=("https://arxiv.org/abs/2402.02750",),
        on_request=(
            "it rounds the cache and reads it back at every step for a few percent of peak memory; it pays where the "
            "cache outweighs the weights"
        ),
    ),
    apply=use_quantized_cache,
    unsupported=refuse_without_decode,
)
