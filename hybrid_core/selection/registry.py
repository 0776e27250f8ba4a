"""The explicit list of selection methods: the name people choose, the sentence they read, the function that runs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.selection import exponential_rank, pareto, rank, rl, roulette, sus, tournament
from hybrid_core.selection.base import Choice, ScoredCandidate, SelectFunction, eligible

Chances = Callable[[Sequence[ScoredCandidate], HybridOptimizationConfig], list[float]]


def _nothing(pool: Sequence[ScoredCandidate], options: HybridOptimizationConfig) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class SelectionMethod:
    """One method: `select` draws parents, `chances` gives the exact probability of each, `facts` what else is known.

    `chances` is None where there are none to give, and gives nothing where the fittest are simply taken.
    """

    name: str
    sentence: str
    select: SelectFunction
    chances: Chances | None
    facts: Callable[[Sequence[ScoredCandidate], HybridOptimizationConfig], dict[str, Any]] = _nothing


def _tournament_chances(pool: Sequence[ScoredCandidate], options: HybridOptimizationConfig) -> list[float]:
    if not options.enable_tournament_selection:
        return []
    return tournament.probabilities(_fitness(pool), options.tournament_size, options.tournament_replacement)


def _roulette_chances(pool: Sequence[ScoredCandidate], options: HybridOptimizationConfig) -> list[float]:
    return roulette.probabilities(_fitness(pool), options.roulette_scaling)


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
        _roulette_chances,
    ),
    SelectionMethod(
        "sus",
        "The roulette's wheel is spun once for all parents: each gets its fair number of copies, rounded down or up.",
        sus.select,
        _roulette_chances,
    ),
    SelectionMethod(
        "rank",
        "The chance falls evenly from the best rank to the worst, so that an outlier cannot take over.",
        rank.select,
        lambda pool, options: rank.probabilities(_fitness(pool), options.rank_pressure),
    ),
    SelectionMethod(
        "exponential_rank",
        "Each rank has a fixed share of the chance of the rank above it; presses harder the more has been measured.",
        exponential_rank.select,
        lambda pool, options: exponential_rank.probabilities(_fitness(pool), options.rank_decay),
    ),
    SelectionMethod(
        "pareto",
        "Two candidates meet: the one that is better in every objective wins, else the one that stands more alone.",
        pareto.select,
        pareto.probabilities,
        pareto.facts,
    ),
    SelectionMethod(
        "rl",
        "A small policy network trained on this run's own measurements chooses the parents; inside the adaptive search "
        "it proposes whole recipes.",
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
    if not pool:
        return Choice(method.select(pool, count, rng, options), {})
    chances = method.chances(pool, options)
    details = {"probabilities": _by_key(pool, chances)} if chances else {"truncation": True}
    return Choice(method.select(pool, count, rng, options), details | method.facts(pool, options))


def _fitness(pool: Sequence[ScoredCandidate]) -> list[float]:
    return [candidate.fitness for candidate in pool]


def _by_key(pool: Sequence[ScoredCandidate], chances: Sequence[float]) -> dict[str, float]:
    """The chance of each recipe: that of all its candidates together, where one recipe was scored more than once."""
    parts: dict[str, list[float]] = {}
    for candidate, chance in zip(pool, chances, strict=True):
        parts.setdefault(candidate.recipe.key, []).append(chance)
    return {key: math.fsum(shares) for key, shares in parts.items()}
