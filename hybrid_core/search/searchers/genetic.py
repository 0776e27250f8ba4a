"""A genetic algorithm whose parents are chosen by the person's selection method, from everything measured so far.

Children take each step from one of two parents and sometimes change one. Which candidates may be parents is the same
rule as in the staged search: measured, accurate enough and not far below the untouched model; one that is merely too
slow may be, because a partner can repair that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.fitness import baseline_fitness
from hybrid_core.records import Recipe, to_json
from hybrid_core.search.proposals import recombine
from hybrid_core.search.searchers.base import IsOpen, Remembering, Seen, Task
from hybrid_core.selection import tournament
from hybrid_core.selection.base import Choice, ScoredCandidate
from hybrid_core.selection.pareto import constrained_rank, crowded_places, crowded_tournament
from hybrid_core.selection.registry import choose_parents

# So many recipes drawn at random are the first generation, unless others have proposed as many.
BEGINNING = 5
# Half the width of a 95 % interval of a normal value, in standard deviations.
_HALF_WIDTH_SDS = 1.96


class GeneticSearch(Remembering):
    """Asks for children of the parents that `options.selection_method` draws; without parents, for any open recipe."""

    def __init__(self, task: Task, options: HybridOptimizationConfig) -> None:
        super().__init__(task)
        self.options = options
        self._notes: dict[str, Any] = {}

    def ask(self, count: int, is_open: IsOpen) -> list[Recipe]:
        """Children of newly drawn parents, then the parents' neighbours, then any open recipe."""
        if len(self.told) <= BEGINNING:
            self._notes = {}
            return self.filled([], count, is_open)
        choice = self.choose(max(2, count))
        parents = [parent.recipe for parent in choice.parents]
        self._notes = {
            "method": self.options.selection_method,
            "parents": [parent.key for parent in parents],
            "details": to_json(choice.details),
        }
        return recombine(self.space, parents, count, self.rng, lambda r: not r.is_baseline and is_open(r))

    def choose(self, count: int) -> Choice:
        """Draw `count` parents and say what is known about the draw."""
        method = self.options.selection_method
        if method == "pareto":
            return self._choose_by_fronts(count)
        return choose_parents(method, [scored(seen, self.options) for seen in self.told], count, self.rng, self.options)

    def notes(self) -> dict[str, Any]:
        """The method, the parents it drew last, and their chances or what a policy learned."""
        return self._notes

    def _choose_by_fronts(self, count: int) -> Choice:
        """The method "pareto" over (log speed, log memory): a searcher is told no measurement."""
        pool = [seen for seen in self.told if may_be_parent(seen, self.options) and _is_known(seen.objectives)]
        if not pool:
            return Choice([], {})
        points, violations = [seen.objectives for seen in pool], [seen.violation for seen in pool]
        places, fronts = crowded_places(points, violations), constrained_rank(points, violations)
        keys = [seen.recipe.key for seen in pool]
        details = {
            "probabilities": dict(zip(keys, tournament.probabilities(places, 2), strict=True)),
            "objectives": ["speed", "memory"],
            "fronts": dict(zip(keys, fronts, strict=True)),
        }
        drawn = [pool[crowded_tournament(places, self.rng)] for _ in range(count)]
        return Choice([scored(seen, self.options) for seen in drawn], details)


def scored(seen: Seen, options: HybridOptimizationConfig) -> ScoredCandidate:
    """What a searcher is told as a candidate for parenthood: its fitness again instead of the logarithm of a ratio."""
    ok = may_be_parent(seen, options)
    return ScoredCandidate(seen.recipe, math.exp(seen.value) * baseline_fitness(options) if ok else 0.0, ok)


def may_be_parent(seen: Seen, options: HybridOptimizationConfig) -> bool:
    """Measured, accurate enough, and its fitness not wholly below `performance_threshold` of the untouched model's."""
    if seen.is_wrong:
        return False
    return math.exp(seen.value + _HALF_WIDTH_SDS * seen.sd) >= options.performance_threshold


def _is_known(objectives: Sequence[float]) -> bool:
    return all(math.isfinite(value) for value in objectives)
