"""Memory pooling: buffers are used again instead of allocated anew, which lowers the peak of a call.

A result is free when nobody names it any more: `release_early` drops the names that a model's code keeps too long, and
a planner over all intermediates finds little below that. The other places to gain are named by the methods, each in a
file of its own.
"""

from __future__ import annotations

from hybrid_core.strategies.base import Family
from hybrid_core.strategies.pooling.activation_cache import ACTIVATION_CACHE
from hybrid_core.strategies.pooling.allocator import EXPANDABLE_SEGMENTS, KEEP_FREED_MEMORY
from hybrid_core.strategies.pooling.in_place import IN_PLACE
from hybrid_core.strategies.pooling.micro_batch import MICRO_BATCH
from hybrid_core.strategies.pooling.preallocated import PREALLOCATED
from hybrid_core.strategies.pooling.quantized_cache import QUANTIZED_CACHE
from hybrid_core.strategies.pooling.release_early import RELEASE_EARLY
from hybrid_core.strategies.pooling.static_cache import STATIC_CACHE
from hybrid_core.strategies.pooling.static_step import STATIC_STEP

MEMORY_POOLING = Family(
    name="memory_pooling",
    title="Memory pooling",
    purpose="Reuses buffers instead of allocating new ones, which lowers the peak memory of a call.",
    claimed={"speed": 1.1, "memory": 1.8, "accuracy": 1.0},
    methods=(
        IN_PLACE,
        PREALLOCATED,
        STATIC_CACHE,
        STATIC_STEP,
        QUANTIZED_CACHE,
        RELEASE_EARLY,
        MICRO_BATCH,
        ACTIVATION_CACHE,
        KEEP_FREED_MEMORY,
        EXPANDABLE_SEGMENTS,
    ),
)
