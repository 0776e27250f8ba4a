"""Regularized (ageing) evolution: the best of a small random sample has a child that differs in one slot.

The population is whatever was told last, good or bad: recipes die of age, not of weakness, so that a lucky measurement
cannot stay a parent for ever and good steps survive only by being good again in their children. Source: Real et al.
2018, "Regularized evolution for image classifier architecture search" (arXiv 1802.01548), algorithm 1; population and
sample are smaller here, because a run has tens of evaluations and not thousands.
"""

from __future__ import annotations

import random
from typing import Any

from hybrid_core.records import Recipe
from hybrid_core.search.searchers.base import IsOpen, Remembering, Seen, Task
from hybrid_core.search.space import Space

POPULATION = 8
SAMPLE = 5
_TRIES_PER_CHILD = 50


class RegularizedEvolution(Remembering):
    """The last `POPULATION` told are alive; until there are as many, recipes are drawn at random."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._notes: dict[str, Any] = {}

    def ask(self, count: int, is_open: IsOpen) -> list[Recipe]:
        """Children of tournament winners, each with its parent in the notes; random recipes fill up."""
        parents: dict[Recipe, Recipe] = {}
        for _ in range(min(count, max(0, len(self.told) + count - POPULATION))):
            child, parent = self._child(parents, is_open)
            if child is not None:
                parents[child] = parent
        self._notes = {"children": {child.key: parent.key for child, parent in parents.items()}}
        return self.filled(list(parents), count, is_open)

    def notes(self) -> dict[str, Any]:
        """Child -> parent of the last `ask`; what is missing was drawn at random."""
        return self._notes

    def _child(self, taken: dict[Recipe, Recipe], is_open: IsOpen) -> tuple[Recipe | None, Recipe]:
        parent = Recipe()
        for _ in range(_TRIES_PER_CHILD):
            parent = tournament(self.told[-POPULATION:], self.rng).recipe
            child = mutated(self.space, parent, self.rng)
            if child is not None and not child.is_baseline and child not in taken and is_open(child):
                return child, parent
        return None, parent


def tournament(population: list[Seen], rng: random.Random) -> Seen:
    """The best of `SAMPLE` draws with replacement; a failed one wins only among failed ones."""
    return max(rng.choices(population, k=SAMPLE), key=lambda seen: seen.merit)


def mutated(space: Space, recipe: Recipe, rng: random.Random) -> Recipe | None:
    """The recipe with another choice in one slot, both drawn evenly; None when that is not legal."""
    code = list(space.encode(recipe))
    if not code:
        return None
    slot = rng.randrange(len(code))
    choices = [i for i in range(1 + len(space.settings[space.slots[slot]])) if i != code[slot]]
    code[slot] = rng.choice(choices)
    return space.decode(code)
