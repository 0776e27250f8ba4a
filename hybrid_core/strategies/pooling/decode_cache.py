"""What every replacement of a decode's cache needs: that there is one, how it is filled, proof that it is asked for.

A model with `cache_factory(batch, max_length)` asks for its caches there and fills them with `append(layer, keys,
values)`, which returns everything the layer holds. Replacing the factory replaces the cache, with the model unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.strategies.base import Situation, run_example


@dataclass(frozen=True)
class Filled:
    """What the example leaves in the model's own cache: how many layers, and their bytes at the end."""

    layers: int
    held_bytes: int


def refuse_without_decode(model: nn.Module, situation: Situation) -> str | None:
    """The cheap reasons why there is no cache to replace."""
    if situation.workload.kind != "decode":
        return f"the workload '{situation.workload.name}' is not a decode, so no cache grows that could be preallocated"
    if not callable(getattr(model, "cache_factory", None)):
        return f"{type(model).__name__} has no cache_factory(batch, max_length), so its cache cannot be replaced"
    return None


def watch_own_cache(owner: Any, situation: Situation) -> Filled:
    """Run the example on the model's own kind of cache; raises `StrategyUnsupported` when none is ever filled."""
    original, held = owner.cache_factory, {}

    def watched(batch: int, max_length: int) -> Any:
        cache = original(batch, max_length)
        append = cache.append

        def recording(layer: int, k: Any, v: Any) -> Any:
            everything = append(layer, k, v)
            held[layer] = sum(t.numel() * t.element_size() for t in everything)
            return everything

        cache.append = recording
        return cache

    owner.cache_factory = watched
    try:
        run_example(owner, situation)
    finally:
        owner.cache_factory = original
    if not held:
        raise StrategyUnsupported("the decode never fills a cache made by model.cache_factory, so nothing grows")
    return Filled(max(held) + 1, sum(held.values()))


def made_by_example(owner: Any, situation: Situation, factory: Callable[[int, int], Any]) -> tuple[Any, Any]:
    """Leave `factory` in the model and run the example on it; the first cache it made, filled, and the outputs."""
    made: list[Any] = []

    def recording(batch: int, max_length: int) -> Any:
        made.append(factory(batch, max_length))
        return made[-1]

    owner.cache_factory = recording
    try:
        outputs = run_example(owner, situation)
    finally:
        owner.cache_factory = factory
    return made[0], outputs


def refuse_overflow(start: int, new: int, max_length: int) -> None:
    """Raise `InvalidInput` where the new tokens do not fit."""
    if start + new > max_length:
        raise InvalidInput(
            f"{start} cached + {new} new tokens exceed the {max_length} this cache was made for; "
            "ask cache_factory for a larger max_length"
        )
