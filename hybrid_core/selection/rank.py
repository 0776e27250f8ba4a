"""Linear ranking selection: the chance falls evenly from the best rank to the worst, whatever the distances.

One outlier of fitness cannot take over, and close values are still told apart. With N candidates, rank i = 1 the best:
p_i = (eta- + (eta+ - eta-) (N - i) / (N - 1)) / N with eta- = 2 - eta+ (Baker 1985). eta+ is the number of copies the
best one expects in N draws.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.selection.base import ScoredCandidate, check_count, draw, eligible

# 2 would give the worst no chance at all; 1.8 leaves it a tenth of the best one's wheel share plus a bit (0.2 / 1.8).
ETA_PLUS = 1.8


def select(
    scored: Sequence[ScoredCandidate], count: int, rng: random.Random, options: HybridOptimizationConfig
) -> list[ScoredCandidate]:
    """`count` independent draws by rank."""
    pool = eligible(scored)
    return draw(pool, probabilities([candidate.fitness for candidate in pool]), check_count(count), rng)


def probabilities(fitness: Sequence[float], eta_plus: float = ETA_PLUS) -> list[float]:
    """Each candidate's chance; equal fitness shares the mean of its ranks.

    >>> [round(p, 3) for p in probabilities([5.0, 1.0, 3.0])]
    [0.6, 0.067, 0.333]
    """
    n = len(fitness)
    if n == 1:
        return [1.0]
    eta_minus = 2.0 - eta_plus
    chance = []
    for value in fitness:
        better = sum(other > value for other in fitness)
        equal = sum(other == value for other in fitness)
        rank = better + (equal + 1) / 2
        chance.append((eta_minus + (eta_plus - eta_minus) * (n - rank) / (n - 1)) / n)
    return chance
