"""A KV cache that is allocated once for the whole decode, instead of a copy that grows with every token.

`torch.cat` holds the old and the new cache at the same moment and copies everything for each token; here each token is
written into its row of a buffer of the final length, and attention reads a view of the filled part. The buffer idea
is the simplest case of what vLLM does with pages (Kwon et al. 2023, arXiv 2309.06180).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.strategies.base import Applied, Method, Setting, Situation, run_example


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
        if end > self.max_length:
            raise InvalidInput(
                f"{start} cached + {k.shape[2]} new tokens exceed the {self.max_length} this cache was made for; "
                "ask cache_factory for a larger max_length"
            )
        held = self._buffers[layer]
        keys, values = (self._buffer(k), self._buffer(v)) if held is None else held
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        self._buffers[layer] = (keys, values)
        self._filled[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def _buffer(self, like: Tensor) -> Tensor:
        return like.new_empty((like.shape[0], like.shape[1], self.max_length, like.shape[3]))


def refuse_static_cache(model: nn.Module, situation: Situation) -> str | None:
    """The cheap reasons why a static cache cannot help."""
    if situation.workload.kind != "decode":
        return f"the workload '{situation.workload.name}' is not a decode, so no cache grows that could be preallocated"
    if not callable(getattr(model, "cache_factory", None)):
        return f"{type(model).__name__} has no cache_factory(batch, max_length), so its cache cannot be replaced"
    return None


def use_static_cache(model: nn.Module, situation: Situation) -> Applied:
    """Replace `model.cache_factory`; proves on the example that the model asks for the new cache and fills it."""
    owner: Any = model
    layers = _layers_used(owner, situation)
    if not layers:
        raise StrategyUnsupported("the decode never fills a cache made by model.cache_factory, so nothing grows")
    made: list[StaticCache] = []

    def recording(batch: int, max_length: int) -> StaticCache:
        made.append(StaticCache(batch, max_length, layers=layers))
        return made[-1]

    owner.cache_factory = recording
    run_example(model, situation)
    owner.cache_factory = partial(StaticCache, layers=layers)
    size, length = made[0].allocated_bytes, made[0].max_length
    change = f"the cache of {layers} layers is allocated once, {size / 1e6:.2f} MB for {length} tokens"
    return Applied(model, (change + ", instead of copied for every token",))


def _layers_used(owner: Any, situation: Situation) -> int:
    """One more than the largest layer number that the decode appends to its own kind of cache; 0 when it never does."""
    original, seen = owner.cache_factory, [-1]

    def watched(batch: int, max_length: int) -> Any:
        cache = original(batch, max_length)
        append = cache.append

        def recording(layer: int, k: Tensor, v: Tensor) -> Any:
            seen.append(layer)
            return append(layer, k, v)

        cache.append = recording
        return cache

    owner.cache_factory = watched
    try:
        run_example(owner, situation)
    finally:
        owner.cache_factory = original
    return max(seen) + 1


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
    unsupported=refuse_static_cache,
)
