"""Roulette-wheel selection: the chance grows with the fitness itself, so it explores more than a tournament.

A share of the wheel must not be negative, and raw fitness values lie so close together (0.98, 1.00, 1.07) that they
would give almost equal shares. So the wheel turns on a declared scaling: "window", fitness - worst + 5 % of the range;
"sigma", max(0, 1 + (fitness - mean) / (2 sd)); "boltzmann", exp((fitness - best) / sd), sd over the candidates
(Goldberg 1989; Mitchell 1996, chapter 5). With each, adding a constant to every fitness or stretching all of them
changes nothing.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

from hybrid_core.config import ROULETTE_SCALINGS, HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.selection.base import ScoredCandidate, check_count, draw, eligible

# The worst candidate keeps this share of the range as its slice, so that it is unlikely but not excluded.
WORST_SHARE = 0.05
# So many standard deviations below the mean a slice of "sigma" ends.
SIGMA_SPREAD = 2.0


def select(
    scored: Sequence[ScoredCandidate], count: int, rng: random.Random, options: HybridOptimizationConfig
) -> list[ScoredCandidate]:
    """`count` independent spins of the wheel."""
    pool = eligible(scored)
    chances = probabilities([candidate.fitness for candidate in pool], options.roulette_scaling)
    return draw(pool, chances, check_count(count), rng)


def probabilities(fitness: Sequence[float], scaling: str = "window") -> list[float]:
    """Each candidate's share of the wheel; equal fitness everywhere gives equal shares.

    >>> [round(p, 4) for p in probabilities([-1.0, 0.0])]
    [0.0455, 0.9545]
    >>> probabilities([0.0, 0.0])
    [0.5, 0.5]
    >>> [round(p, 4) for p in probabilities([-1.0, 0.0], "sigma")]
    [0.25, 0.75]
    """
    wheel = slices(fitness, scaling)
    total = math.fsum(wheel)
    return [part / total for part in wheel]


def slices(fitness: Sequence[float], scaling: str = "window") -> list[float]:
    """The size of each candidate's slice, in any unit; at least one is positive.

    Raises:
        InvalidInput: there is no scaling of that name.
    """
    if scaling not in ROULETTE_SCALINGS:
        raise InvalidInput(f"roulette_scaling {scaling!r:.60} is unknown; choose one of {', '.join(ROULETTE_SCALINGS)}")
    heights = _heights(fitness)
    if not any(heights):
        return [1.0] * len(heights)
    if scaling == "window":
        return [height + WORST_SHARE for height in heights]
    mean, deviation = statistics.fmean(heights), statistics.pstdev(heights)
    if scaling == "sigma":
        return [max(0.0, 1.0 + (height - mean) / (SIGMA_SPREAD * deviation)) for height in heights]
    return [math.exp((height - 1.0) / deviation) for height in heights]


def _heights(fitness: Sequence[float]) -> list[float]:
    """Fitness as a share of its range: the worst 0, the best 1; all 0 when they are equal."""
    # Halved first, so that the range of two finite numbers is finite.
    halves = [value / 2 for value in fitness]
    worst, span = min(halves, default=0.0), max(halves, default=0.0) - min(halves, default=0.0)
    return [(half - worst) / span if span > 0 else 0.0 for half in halves]
