"""Stochastic universal sampling: the roulette wheel, spun once for all parents together.

`count` pointers stand equally far apart around the wheel, and one spin turns them all. A candidate with a share p of
the wheel expects p * count copies, as with independent spins, but it gets that number rounded down or up and never
anything else: no bias and the least spread possible (Baker 1987). The slices are those of `roulette`, with its scaling.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.selection.base import ScoredCandidate, check_count, eligible
from hybrid_core.selection.roulette import slices


def select(
    scored: Sequence[ScoredCandidate], count: int, rng: random.Random, options: HybridOptimizationConfig
) -> list[ScoredCandidate]:
    """`count` parents of one spin, in random order: who is recombined with whom does not depend on the wheel."""
    pool = eligible(scored)
    if check_count(count) == 0 or not pool:
        return []
    wheel = slices([candidate.fitness for candidate in pool], options.roulette_scaling)
    times = copies(wheel, count, rng.random())
    parents = [candidate for candidate, n in zip(pool, times, strict=True) for _ in range(n)]
    rng.shuffle(parents)
    return parents


def copies(wheel: Sequence[float], count: int, spin: float) -> list[int]:
    """How many of the pointers (0 + spin), (1 + spin), ... point at each slice of a wheel of `count` units.

    In whole numbers: with rounded edges a candidate that expects exactly two copies could get one or three.

    >>> copies([1.0, 2.0, 1.0], 4, 0.5), copies([1.0, 1.0, 1.0], 2, 0.3)
    ([1, 2, 1], [1, 1, 0])
    """
    ratios = [part.as_integer_ratio() for part in wheel]
    finest = max(denominator for _, denominator in ratios)
    parts = [numerator * (finest // denominator) for numerator, denominator in ratios]
    total, (turned, full) = sum(parts), spin.as_integer_ratio()
    # Pointers before an edge: ceil(edge * count / total - spin). Those between two edges are the slice's.
    before = [
        -((turned * total - edge * count * full) // (total * full)) for edge in itertools.accumulate(parts, initial=0)
    ]
    return [end - begin for begin, end in itertools.pairwise(before)]
