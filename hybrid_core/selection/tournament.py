"""Tournament selection: k candidates meet, the fittest of them becomes a parent.

Only the order of the fitness matters, so adding a constant to every fitness changes nothing. Drawn without replacement,
the candidate of rank i (1 = best of N) wins with probability C(N-i, k-1) / C(N, k): the best with k/N, and the worst
k-1 never. Drawn with replacement it is ((N-i+1)^k - (N-i)^k) / N^k, and everybody may win (Goldberg & Deb 1991; Blickle
& Thiele 1996). Each parent is the winner of a tournament of its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.selection.base import ScoredCandidate, by_place, check_count, eligible, truncate


def select(
    scored: Sequence[ScoredCandidate], count: int, rng: random.Random, options: HybridOptimizationConfig
) -> list[ScoredCandidate]:
    """`count` tournament winners; without replacement a size larger than the field is the whole field.

    With `enable_tournament_selection=False` the fittest are taken instead (truncation). Ties are broken at random,
    never by position.
    """
    pool = eligible(scored)
    check_count(count)
    if not options.enable_tournament_selection:
        return truncate(pool, count)
    return [_winner(pool, options, rng) for _ in range(count)] if pool else []


def probabilities(fitness: Sequence[float], tournament_size: int, replacement: bool = False) -> list[float]:
    """The exact chance of each candidate to win one tournament; equal fitness shares its places equally.

    >>> probabilities([3.0, 1.0, 2.0, 0.0], 2)
    [0.5, 0.16666666666666666, 0.3333333333333333, 0.0]
    >>> probabilities([3.0, 1.0, 2.0, 0.0], 2, replacement=True)
    [0.4375, 0.1875, 0.3125, 0.0625]
    """
    n = len(fitness)
    k = tournament_size if replacement else min(tournament_size, n)
    if replacement:
        return by_place(fitness, lambda i: ((n - i + 1) ** k - (n - i) ** k) / n**k)
    return by_place(fitness, lambda i: math.comb(n - i, k - 1) / math.comb(n, k))


def _winner(pool: Sequence[ScoredCandidate], options: HybridOptimizationConfig, rng: random.Random) -> ScoredCandidate:
    # The entrants come in random order either way and `max` keeps the first of equals: ties are random.
    size = options.tournament_size
    entrants = rng.choices(pool, k=size) if options.tournament_replacement else rng.sample(pool, min(size, len(pool)))
    return max(entrants, key=lambda candidate: candidate.fitness)
