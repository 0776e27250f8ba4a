"""Random search: the open recipes in random order, each at most once. What every other searcher has to beat.

Its curve over a finite table needs no simulation: `expected_best_rank` and `chance_of_a_hit` give it in closed form.
"""

from __future__ import annotations

import math

from hybrid_core.records import Recipe
from hybrid_core.search.searchers.base import IsOpen, Remembering


class RandomSearch(Remembering):
    """Draws without replacement."""

    def ask(self, count: int, is_open: IsOpen) -> list[Recipe]:
        """`count` open recipes, each equally likely."""
        return self.filled([], count, is_open)


def expected_best_rank(total: int, drawn: int) -> float:
    """Expected rank (1 = best) of the best of `drawn` recipes drawn without replacement from `total`.

    >>> expected_best_rank(9, 4)
    2.0
    """
    return (total + 1) / (drawn + 1)


def chance_of_a_hit(total: int, drawn: int, wanted: int) -> float:
    """Chance that at least one of the `wanted` good recipes is among `drawn` of `total`: 1 - C(N-K, n) / C(N, n).

    >>> chance_of_a_hit(4, 2, 1)
    0.5
    """
    return 1.0 - math.comb(total - wanted, drawn) / math.comb(total, drawn)
