"""Exponential ranking selection: each rank has a fixed share c of the chance of the rank above it.

Like linear ranking it heeds only the order, but it can press harder: p_i = c^(i-1) (1 - c) / (1 - c^N), rank i = 1 the
best of N (Blickle & Thiele 1996). The pressure depends on c^N: at the default c (`rank_decay`) of 0.9 it is that of a
tournament of two among 20 candidates, of three among 33 and of four among 45. So it is gentle while little has been
measured and grows with what is known.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.selection.base import ScoredCandidate, by_place, check_count, draw, eligible


def select(
    scored: Sequence[ScoredCandidate], count: int, rng: random.Random, options: HybridOptimizationConfig
) -> list[ScoredCandidate]:
    """`count` independent draws by rank."""
    pool = eligible(scored)
    chances = probabilities([candidate.fitness for candidate in pool], options.rank_decay)
    return draw(pool, chances, check_count(count), rng)


def probabilities(fitness: Sequence[float], decay: float = HybridOptimizationConfig.rank_decay) -> list[float]:
    """Each candidate's chance; equal fitness shares the mean chance of its ranks.

    >>> [round(p, 4) for p in probabilities([1.0, 3.0, 2.0], 0.5)]
    [0.1429, 0.5714, 0.2857]
    """
    # Divided by their own sum: 1 - c^N would lose its digits where c is close to 1.
    parts = [decay**place for place in range(len(fitness))]
    total = math.fsum(parts)
    return by_place(fitness, lambda i: parts[i - 1] / total)
