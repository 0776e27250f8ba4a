"""Stochastic universal sampling: the roulette wheel, spun once for all parents together.

`count` pointers stand equally far apart around the wheel, and one spin turns them all. A candidate with a share p of
the wheel expects p * count copies, as with independent spins, but it gets that number rounded down or up and never
anything else: no bias and the least spread possible (Baker 1987). The slices are those of `roulette`, with its scaling.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from fractions import Fraction

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.selection.base import ScoredCandidate, check_count, eligible
from hybrid_core.selection.roulette import slices


def select(
    scored: Sequence[ScoredCandidate], count: int, rng: random.Random, options: HybridOptimizationConfig
) -> list[ScoredCandidate]:
    """`count` parents of one spin, in random order so that copies of one candidate do not stand side by side."""
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

    In exact arithmetic: with rounded edges a candidate that expects exactly two copies could get one or three.

    >>> copies([1.0, 2.0, 1.0], 4, 0.5), copies([1.0, 1.0, 1.0], 2, 0.3)
    ([1, 2, 1], [1, 1, 0])
    """
    parts = [Fraction(part) for part in wheel]
    unit = Fraction(count) / sum(parts)
    edges = [edge * unit - Fraction(spin) for edge in itertools.accumulate(parts, initial=Fraction(0))]
    # Of the pointers at whole numbers, those from one edge up to but not including the next.
    return [math.ceil(end) - math.ceil(begin) for begin, end in itertools.pairwise(edges)]
