"""A KV cache that is allocated once for the whole decode, instead of a copy that grows with every token.

`torch.cat` holds the old and the new cache at the same moment and copies everything for each token; here each token is
written into its row of a buffer of the final length, and attention reads a view of the filled part. The buffer idea
is the simplest case of what vLLM does with pages (Kwon et al. 2023, arXiv 2309.06180).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.strategies.base import Applied, Situation, run_example


class StaticCache:
    """Buffers (batch, kv_heads, max_length, head_dim) per layer, filled from the front; made on first use."""

    def __init__(self, batch: int, max_length: int) -> None:
        self.batch, self.max_length = batch, max_length
        self._filled: dict[int, int] = {}
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        """Tokens held by every layer; read before the first `append` of a pass."""
        return min(self._filled.values(), default=0)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (batch, kv_heads, new, head_dim) and return views of everything this layer holds."""
        start = self._filled.get(layer, 0)
        end = start + k.shape[2]
        if end > self.max_length:
            raise InvalidInput(
                f"{start} cached + {k.shape[2]} new tokens = {end} exceed the {self.max_length} the cache was made for; "
                "ask cache_factory for a larger max_length"
            )
        if layer not in self._buffers:
            self._buffers[layer] = (self._buffer(k), self._buffer(v))
        keys, values = self._buffers[layer]
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        self._filled[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def _buffer(self, like: Tensor) -> Tensor:
        return like.new_empty(like.shape[0], like.shape[1], self.max_length, like.shape[3])


def refuse_static_cache(model: nn.Module, situation: Situation) -> str | None:
    """The cheap reasons why a static cache cannot help."""
    if situation.workload.kind != "decode":
        return f"the workload '{situation.workload.name}' is not a decode, so no cache grows that could be preallocated"
    if not callable(getattr(model, "cache_factory", None)):
        return f"{type(model).__name__} has no cache_factory(batch, max_length), so its cache cannot be replaced"
    return None


def use_static_cache(model: nn.Module, situation: Situation) -> Applied:
    """Replace `model.cache_factory`; proves on the example that the model really asks for the new cache."""
    made: list[StaticCache] = []

    def recording(batch: int, max_length: int) -> StaticCache:
        made.append(StaticCache(batch, max_length))
        return made[-1]

    owner: Any = model
    owner.cache_factory = recording
    run_example(model, situation)
    used = [cache for cache in made if cache.length]
    if not used:
        raise StrategyUnsupported("the decode never asks model.cache_factory for a cache, so nothing was replaced")
    owner.cache_factory = StaticCache
    layers, size = len(used[0]._buffers), _bytes(used[0])
    change = f"cache of {layers} layers is one allocation of {size / 1e6:.2f} MB for {used[0].max_length} tokens"
    return Applied(model, (change + " instead of a copy per token",))


def _bytes(cache: StaticCache) -> int:
    return sum(t.numel() * t.element_size() for pair in cache._buffers.values() for t in pair)
