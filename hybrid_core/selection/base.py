"""What every selection method gets and must keep to.

A method is a pure function of (scored candidates, count, random generator, options): it draws `count` parents, with
repeats, from the candidates that may be parents. What all of them share stands here: failed candidates are never
chosen, a fitness that is not a number is refused by name, nothing to choose from gives nothing.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.records import Measurement, Recipe


@dataclass(frozen=True)
class ScoredCandidate:
    """A measured recipe with its fitness. `ok` is False when it failed or broke a bound: it is never chosen."""

    recipe: Recipe
    fitness: float
    ok: bool = True
    measurement: Measurement | None = None


SelectFunction = Callable[
    [Sequence[ScoredCandidate], int, random.Random, HybridOptimizationConfig], list[ScoredCandidate]
]


@dataclass(frozen=True)
class Choice:
    """The parents a method drew and what it can say about why (probabilities, or what a policy learned)."""

    parents: list[ScoredCandidate]
    details: dict[str, Any]


def eligible(scored: Sequence[ScoredCandidate]) -> list[ScoredCandidate]:
    """The candidates that may be chosen, in the order given.

    Raises:
        InvalidInput: one of them has a fitness that is NaN or infinite; mark it as failed instead.
    """
    pool = [candidate for candidate in scored if candidate.ok]
    for candidate in pool:
        if not math.isfinite(candidate.fitness):
            raise InvalidInput(
                f"fitness of '{candidate.recipe.key}' is {candidate.fitness}; give a finite number or set ok=False"
            )
    return pool


def check_count(count: int) -> int:
    """The number of parents asked for; refused when negative."""
    if count < 0:
        raise InvalidInput(f"count={count} is not allowed; ask for 0 or more parents")
    return count


def draw(
    pool: Sequence[ScoredCandidate], probabilities: Sequence[float], count: int, rng: random.Random
) -> list[ScoredCandidate]:
    """`count` independent draws with replacement."""
    if not pool or count == 0:
        return []
    return rng.choices(pool, weights=probabilities, k=count)


def by_place(fitness: Sequence[float], chance_of: Callable[[int], float]) -> list[float]:
    """Each candidate's chance where place 1 (the fittest) to N has `chance_of(place)`; equals share theirs equally.

    >>> by_place([5.0, 7.0, 5.0], lambda place: {1: 0.5, 2: 0.375, 3: 0.125}[place])
    [0.25, 0.5, 0.25]
    """
    chances = [0.0] * len(fitness)
    ranked = enumerate(sorted(range(len(fitness)), key=lambda i: -fitness[i]), start=1)
    for _, group in itertools.groupby(ranked, key=lambda item: fitness[item[1]]):
        held = list(group)
        shared = math.fsum(chance_of(place) for place, _ in held) / len(held)
        for _, position in held:
            chances[position] = shared
    return chances


def truncate(pool: Sequence[ScoredCandidate], count: int) -> list[ScoredCandidate]:
    """The `count` fittest, fittest first; repeated from the top when there are fewer than `count`.

    Equal fitness goes to the recipe with fewer steps, then by name, so the choice never depends on the order given.
    """
    ranked = sorted(pool, key=lambda c: (-c.fitness, len(c.recipe.steps), c.recipe.key))
    return [ranked[i % len(ranked)] for i in range(count)] if ranked else []
