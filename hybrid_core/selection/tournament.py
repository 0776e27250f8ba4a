"""Tournament selection: k distinct candidates meet, the fittest of them becomes a parent.

Only the order of the fitness matters, so adding a constant to every fitness changes nothing. Drawn without replacement,
the candidate of rank i (1 = best of N) wins with probability C(N-i, k-1) / C(N, k): the best with k/N, and the worst
k-1 never (Goldberg & Deb 1991; Blickle & Thiele 1996). Each parent is the winner of a tournament of its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.selection.base import ScoredCandidate, check_count, eligible, truncate


def select(
    scored: Sequence[ScoredCandidate], count: int, rng: random.Random, options: HybridOptimizationConfig
) -> list[ScoredCandidate]:
    """`count` tournament winners; a size larger than the field is the whole field.

    With `enable_tournament_selection=False` the fittest are taken instead (truncation). Ties are broken at random,
    never by position.
    """
    pool = eligible(scored)
    check_count(count)
    if not options.enable_tournament_selection:
        return truncate(pool, count)
    return [_winner(pool, options.tournament_size, rng) for _ in range(count)] if pool else []


def probabilities(fitness: Sequence[float], tournament_size: int) -> list[float]:
    """The exact chance of each candidate to win one tournament; equal fitness shares its places equally.

    >>> probabilities([3.0, 1.0, 2.0, 0.0], 2)
    [0.5, 0.16666666666666666, 0.3333333333333333, 0.0]
    """
    n = len(fitness)
    k = min(tournament_size, n)
    chance = []
    for value in fitness:
        better = sum(other > value for other in fitness)
        equal = sum(other == value for other in fitness)
        places = range(better + 1, better + equal + 1)
        chance.append(sum(math.comb(n - i, k - 1) for i in places) / math.comb(n, k) / equal)
    return chance


def _winner(pool: Sequence[ScoredCandidate], size: int, rng: random.Random) -> ScoredCandidate:
    # `sample` returns the entrants in random order and `max` keeps the first of equals: ties are random.
    return max(rng.sample(pool, min(size, len(pool))), key=lambda candidate: candidate.fitness)
