"""The explicit list of selection methods: the name people choose, the sentence they read, the function that runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.selection import rank, rl, roulette, tournament
from hybrid_core.selection.base import Choice, ScoredCandidate, SelectFunction, eligible


@dataclass(frozen=True)
class SelectionMethod:
    """One method: `select` draws parents, `chances` gives the exact probabilities where there are any."""

    name: str
    sentence: str
    select: SelectFunction
    chances: Callable[[Sequence[float], HybridOptimizationConfig], list[float]] | None


def _tournament_chances(fitness: Sequence[float], options: HybridOptimizationConfig) -> list[float]:
    if not options.enable_tournament_selection:
        return []
    return tournament.probabilities(fitness, options.tournament_size)


METHODS: tuple[SelectionMethod, ...] = (
    SelectionMethod(
        "tournament",
        "A few candidates drawn at random meet and the fittest becomes a parent; a larger tournament is greedier.",
        tournament.select,
        _tournament_chances,
    ),
    SelectionMethod(
        "roulette",
        "The chance to become a parent grows with the fitness above the worst; explores the most.",
        roulette.select,
        lambda fitness, options: roulette.probabilities(fitness),
    ),
    SelectionMethod(
        "rank",
        "The chance falls evenly from the best rank to the worst, so that an outlier cannot take over.",
        rank.select,
        lambda fitness, options: rank.probabilities(fitness),
    ),
    SelectionMethod(
        "rl",
        "A small policy network trained on this run's own measurements chooses the parents.",
        rl.select,
        None,
    ),
)


def get_method(name: str) -> SelectionMethod:
    """The method of that name; unknown names are refused with the list of known ones."""
    for method in METHODS:
        if method.name == name:
            return method
    known = ", ".join(method.name for method in METHODS)
    raise InvalidInput(f"selection method {name!r:.60} is unknown; choose one of {known}")


def choose_parents(
    name: str,
    scored: Sequence[ScoredCandidate],
    count: int,
    rng: random.Random,
    options: HybridOptimizationConfig,
) -> Choice:
    """Draw `count` parents with the named method and say what is known about the draw."""
    method = get_method(name)
    if method.chances is None:
        return rl.choose(scored, count, rng, options)
    pool = eligible(scored)
    chances = method.chances([candidate.fitness for candidate in pool], options)
    keys = [candidate.recipe.key for candidate in pool]
    details = {"probabilities": dict(zip(keys, chances, strict=True))} if chances else {"truncation": True}
    return Choice(method.select(scored, count, rng, options), details if pool else {})
