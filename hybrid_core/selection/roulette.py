"""Roulette-wheel selection: the chance grows with the fitness itself, so it explores more than a tournament.

A share of the wheel must not be negative, and raw fitness values lie so close together (0.98, 1.00, 1.07) that they
would give almost equal shares. So the wheel turns on a declared transform, windowing: fitness - worst + 5 % of the
range (Goldberg 1989; Grefenstette's windowing). Adding a constant to every fitness, or scaling them, changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.selection.base import ScoredCandidate, check_count, draw, eligible

# The worst candidate keeps this share of the range as its slice, so that it is unlikely but not excluded.
WORST_SHARE = 0.05


def select(
    scored: Sequence[ScoredCandidate], count: int, rng: random.Random, options: HybridOptimizationConfig
) -> list[ScoredCandidate]:
    """`count` independent spins of the wheel."""
    pool = eligible(scored)
    return draw(pool, probabilities([candidate.fitness for candidate in pool]), check_count(count), rng)


def probabilities(fitness: Sequence[float]) -> list[float]:
    """Each candidate's slice of the wheel; equal fitness everywhere gives equal slices.

    >>> [round(p, 4) for p in probabilities([-1.0, 0.0])]
    [0.0455, 0.9545]
    >>> probabilities([0.0, 0.0])
    [0.5, 0.5]
    """
    if not fitness:
        return []
    worst, span = min(fitness), max(fitness) - min(fitness)
    if span == 0:
        return [1.0 / len(fitness)] * len(fitness)
    slices = [(value - worst) / span + WORST_SHARE for value in fitness]
    return [part / sum(slices) for part in slices]
