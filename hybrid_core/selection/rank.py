"""Linear ranking selection: the chance falls evenly from the best rank to the worst, whatever the distances.

One outlier of fitness cannot take over, and close values are still told apart. With N candidates, rank i = 1 the best:
p_i = (eta- + (eta+ - eta-) (N - i) / (N - 1)) / N with eta- = 2 - eta+ (Baker 1985). eta+ (`rank_pressure`) is the
number of copies the best one expects in N draws, from 1 (everybody alike) to 2 (the worst has no chance).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.selection.base import ScoredCandidate, by_place, check_count, draw, eligible


def select(
    scored: Sequence[ScoredCandidate], count: int, rng: random.Random, options: HybridOptimizationConfig
) -> list[ScoredCandidate]:
    """`count` independent draws by rank."""
    pool = eligible(scored)
    chances = probabilities([candidate.fitness for candidate in pool], options.rank_pressure)
    return draw(pool, chances, check_count(count), rng)


def probabilities(fitness: Sequence[float], eta_plus: float = HybridOptimizationConfig.rank_pressure) -> list[float]:
    """Each candidate's chance; equal fitness shares the mean of its ranks.

    >>> [round(p, 3) for p in probabilities([5.0, 1.0, 3.0])]
    [0.6, 0.067, 0.333]
    """
    n, eta_minus = len(fitness), 2.0 - eta_plus
    if n == 1:
        return [1.0]
    return by_place(fitness, lambda i: (eta_minus + (eta_plus - eta_minus) * (n - i) / (n - 1)) / n)
