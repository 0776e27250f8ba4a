"""A KV cache that is allocated once for the whole decode, instead of a copy that grows with every token.

`torch.cat` holds the old and the new cache at the same moment and copies everything for each token; here each token is
written into its row of a buffer of the final length, and attention reads a view of the filled part. The buffer idea
is the simplest case of what vLLM does with pages (Kwon et al. 2023, arXiv 2309.06180).
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from hybrid_core.strategies.base import Applied, Method, Setting, Situation
from hybrid_core.strategies.pooling.decode_cache import (
    made_by_example,
    refuse_overflow,
    refuse_without_decode,
    watch_own_cache,
)


class StaticCache:
    """Buffers (batch, kv_heads, max_length, head_dim) per layer, filled from the front; made on first use.

    Lengths are kept in a list of plain integers because that is what torch.compile can treat as symbolic.
    """

    def __init__(self, batch: int, max_length: int, *, layers: int) -> None:
        self.batch, self.max_length = batch, max_length
        self._filled = [0] * layers
        self._buffers: list[tuple[Tensor, Tensor] | None] = [None] * layers

    @property
    def length(self) -> int:
        """Tokens held by every layer: the last layer is the last to be filled."""
        return self._filled[-1]

    @property
    def allocated_bytes(self) -> int:
        """What the buffers made so far occupy."""
        return sum(t.numel() * t.element_size() for pair in self._buffers if pair is not None for t in pair)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (batch, kv_heads, new, head_dim) and return views of everything this layer holds."""
        start = self._filled[layer]
        end = start + k.shape[2]
        refuse_overflow(start, k.shape[2], self.max_length)
        held = self._buffers[layer]
        keys, values = (self._buffer(k), self._buffer(v)) if held is None else held
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        self._buffers[layer] = (keys, values)
        self._filled[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def _buffer(self, like: Tensor) -> Tensor:
        return like.new_empty((like.shape[0], like.shape[1], self.max_length, like.shape[3]))


def use_static_cache(model: nn.Module, situation: Situation) -> Applied:
    """Replace `model.cache_factory`; proves on the example that the model asks for the new cache and fills it."""
    filled = watch_own_cache(model, situation)
    cache, _ = made_by_example(model, situation, partial(StaticCache, layers=filled.layers))
    change = (
        f"the cache of {filled.layers} layers is allocated once, {cache.allocated_bytes / 1e6:.2f} MB for "
        f"{cache.max_length} tokens, instead of copied for every token"
    )
    return Applied(model, (change,))


STATIC_CACHE = Method(
    Setting(
        name="static_cache",
        sentence="Keys and values of a decode go into a buffer allocated once, instead of growing copies.",
        stage=50,
        exact=True,
        expected_cost_s=1.0,
        references=("https://arxiv.org/abs/2309.06180",),
    ),
    apply=use_static_cache,
    unsupported=refuse_without_decode,
)
