"""NSGA-II: keep a small population that is good in speed *or* memory and spread out, and recombine it.

Who survives is decided by fronts and crowding over (log speed, log memory); a recipe outside the bounds loses to every
recipe inside, and among those outside the smaller violation wins. Source: Deb et al. 2002; the pure parts are in
`hybrid_core/selection/pareto.py`. Parents and children compete as in the paper, with everything ever told instead of
the last two generations, since no recipe is measured twice.
"""

from __future__ import annotations

from typing import Any

from hybrid_core.records import Recipe
from hybrid_core.search.proposals import crossover
from hybrid_core.search.searchers.base import IsOpen, Remembering, Seen, Task
from hybrid_core.search.searchers.evolution import mutated
from hybrid_core.selection.pareto import crowded_places, crowded_tournament

# The paper's 100 would be random search for a run of forty evaluations.
POPULATION = 8
MUTATION_CHANCE = 0.5
_TRIES_PER_CHILD = 50


class NsgaII(Remembering):
    """Random recipes until the population is full, then children of crowded binary tournaments."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._notes: dict[str, Any] = {}

    def ask(self, count: int, is_open: IsOpen) -> list[Recipe]:
        """Children of the survivors; random recipes fill up."""
        alive, places = self.survivors()
        children: dict[Recipe, list[str]] = {}
        for _ in range(min(count, max(0, len(self.told) + count - POPULATION))):
            born = self._child(alive, places, children, is_open)
            if born is not None:
                children[born[0]] = born[1]
        self._notes = {
            "population": [seen.recipe.key for seen in alive],
            "children": {child.key: parents for child, parents in children.items()},
        }
        return self.filled(list(children), count, is_open)

    def survivors(self) -> tuple[list[Seen], list[float]]:
        """The best of everything told by front and crowding, best first, and their places among all."""
        places = crowded_places([seen.objectives for seen in self.told], [violation_of(seen) for seen in self.told])
        order = sorted(range(len(places)), key=lambda i: -places[i])[:POPULATION]
        return [self.told[i] for i in order], [places[i] for i in order]

    def notes(self) -> dict[str, Any]:
        """The population of the last `ask`, and child -> parents; what is missing was drawn at random."""
        return self._notes

    def _child(
        self, alive: list[Seen], places: list[float], taken: dict[Recipe, list[str]], is_open: IsOpen
    ) -> tuple[Recipe, list[str]] | None:
        for _ in range(_TRIES_PER_CHILD if alive else 0):
            first, second = (alive[crowded_tournament(places, self.rng)].recipe for _ in range(2))
            child = self.space.find(crossover(first, second, self.rng))
            if child is not None and (child in taken or not is_open(child) or self.rng.random() < MUTATION_CHANCE):
                child = mutated(self.space, child, self.rng)
            if child is not None and not child.is_baseline and child not in taken and is_open(child):
                return child, [first.key, second.key]
        return None


def violation_of(seen: Seen) -> float:
    """Its violation; infinite where an objective is unknown, so that it can never be on a front."""
    known = all(abs(value) < float("inf") for value in seen.objectives)
    return seen.violation if known else float("inf")
