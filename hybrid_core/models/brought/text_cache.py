"""Our cache behind the interface that `transformers` decoders expect, so that strategies can replace it.

Decoders of `transformers` call `update(keys, values, layer)` and ask for lengths; our caches have `append` and
`length`. The adapter keeps nothing itself. Layers with a sliding window see all keys and the mask hides the old ones,
which gives the same numbers as forgetting them.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from torch import Tensor

from hybrid_core.models.parts.blocks import Cache


@functools.cache
def transformers_cache_class() -> type:
    """A class that wraps one of our caches, stores everything in it, and is what `transformers` accepts."""
    base: Any = importlib.import_module("transformers.cache_utils").Cache

    class Adapter(base):  # type: ignore[misc]
        def __init__(self, cache: Cache) -> None:
            super().__init__(layers=[])
            self.cache = cache

        def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            return self.cache.append(layer, keys, values)

        def get_seq_length(self, layer: int = 0) -> int:
            del layer
            return self.cache.length

        def get_query_offset(self, layer: int = 0) -> int:
            del layer
            return self.cache.length

        def get_mask_sizes(self, new: int, layer: int) -> tuple[int, int]:
            del layer
            return self.cache.length + new, 0

        @property
        def is_sliding(self) -> list[bool]:
            return [False]

        @property
        def is_compileable(self) -> bool:
            return False

    return Adapter
