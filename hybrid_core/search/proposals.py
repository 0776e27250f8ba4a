"""What to measure next: singles, pairs of good singles, then children of the parents a selection method chose.

Every function only *orders or draws* recipes of the space; whether one may be tried at all (already measured, known to
fail, too expensive) is a predicate the loop passes in. Predictions here order the work and are never shown as results.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hybrid_core.adaptive.document import MODEL_OPTIMIZATIONS, NEAREST_SETTING
from hybrid_core.adaptive.history import HistoryRow
from hybrid_core.adaptive.recommend import HISTORY, recommend
from hybrid_core.config import HybridOptimizationConfig, RunConfig
from hybrid_core.fitness import active_weights, objectives_of
from hybrid_core.records import Measurement, Recipe, Trial
from hybrid_core.search.space import Space

IsOpen = Callable[[Recipe], bool]
# A step that only one parent has is kept with this chance: children lean towards combining what worked.
KEEP_LONE_STEP = 0.75
MUTATION_CHANCE = 0.3
_TRIES_PER_CHILD = 20


def order_singles(
    space: Space,
    expected_s: Callable[[Recipe], float],
    options: HybridOptimizationConfig,
    first: Sequence[str] = (),
) -> list[Recipe]:
    """The single settings: one of every strategy before a second of any, each by expected seconds per claimed gain.

    The claims are the document's and are used for the order alone; without a claim the cheapest goes first. In each
    turn the strategies in `first` come before the others.
    """
    weights = active_weights(options)

    def price(recipe: Recipe) -> tuple[float, str]:
        claimed = space.claimed.get(recipe.steps[0].strategy, {})
        gain = sum(weight * (claimed.get(name, 1.0) - 1.0) for name, weight in weights.items())
        return expected_s(recipe) / max(gain, 0.05), recipe.key

    by_strategy: dict[str, list[Recipe]] = {}
    for recipe in sorted(space.singles, key=price):
        by_strategy.setdefault(recipe.steps[0].strategy, []).append(recipe)
    turns = itertools.zip_longest(*by_strategy.values())
    in_turn: Callable[[Recipe], tuple[Any, ...]] = lambda r: (r.steps[0].strategy not in first, *price(r))  # noqa: E731
    return [recipe for turn in turns for recipe in sorted(filter(None, turn), key=in_turn)]


def documented_strategies(family: str) -> tuple[str, ...]:
    """The strategies that the original document lists for a model family, in its order; none for other families."""
    return MODEL_OPTIMIZATIONS.get(family, ())


def documented(strategies: Sequence[str], singles: Sequence[Recipe]) -> list[Recipe]:
    """One of the `singles` for each listed strategy: the setting nearest to the document's words, else its first."""
    chosen = []
    for strategy in strategies:
        own = [recipe for recipe in singles if recipe.steps[0].strategy == strategy]
        nearest = [recipe for recipe in own if recipe.steps[0].setting == NEAREST_SETTING.get(strategy)]
        chosen += (nearest or own)[:1]
    return chosen


def split_expensive(
    singles: Sequence[Recipe], expected_s: Callable[[Recipe], float], budget_s: float
) -> tuple[list[Recipe], list[Recipe]]:
    """The singles to measure at once, and those that wait until pairs of the cheaper ones have been tried.

    Waiting: more than an eighth of the budget and more than twice the cheapest single.
    """
    if not singles:
        return [], []
    bound = max(budget_s / 8, 2 * min(expected_s(recipe) for recipe in singles))
    return [r for r in singles if expected_s(r) <= bound], [r for r in singles if expected_s(r) > bound]


def pairs_of_good(
    space: Space, good: Mapping[str, Measurement], options: HybridOptimizationConfig, is_open: IsOpen
) -> list[Recipe]:
    """Open pairs of the measured singles in `good`, most promising first.

    Promise is the fitness of the product of the two singles' ratios: what would come out if they did not interact.
    """
    promise = {}
    for first, second in itertools.combinations(sorted(good), 2):
        steps = Recipe.from_key(first).to_dict() | Recipe.from_key(second).to_dict()
        pair = space.find(steps) if len(steps) == 2 else None
        if pair is not None and is_open(pair):
            promise[pair] = _predicted_fitness(good[first], good[second], options)
    return sorted(promise, key=lambda pair: (-promise[pair], pair.key))


def extensions(
    space: Space,
    ensemble: Trial,
    good: Mapping[str, Measurement],
    options: HybridOptimizationConfig,
    is_open: IsOpen,
) -> list[Recipe]:
    """The measured ensemble with one more good single each, most promising first.

    Only those whose promise, the product of the ratios, exceeds the ensemble's own fitness: the others would have to
    gain by chance what nothing suggests.
    """
    assert ensemble.measurement is not None
    own = ensemble.recipe.to_dict()
    bound = _predicted_fitness(ensemble.measurement, None, options)
    promise = {}
    for key in sorted(good):
        step = Recipe.from_key(key).to_dict()
        larger = None if set(step) & set(own) else space.find(own | step)
        predicted = _predicted_fitness(ensemble.measurement, good[key], options)
        if larger is not None and predicted > bound and is_open(larger):
            promise[larger] = predicted
    return sorted(promise, key=lambda recipe: (-promise[recipe], recipe.key))


def cheapest_pairs(space: Space, expected_s: Callable[[Recipe], float], is_open: IsOpen) -> list[Recipe]:
    """Open pairs by expected seconds: what is left to go by when nothing may be selected."""
    pairs = [recipe for recipe in space.recipes if len(recipe.steps) == 2 and is_open(recipe)]
    return sorted(pairs, key=lambda pair: (expected_s(pair), pair.key))


def recommended(
    history: Sequence[HistoryRow], config: RunConfig, space: Space, is_open: IsOpen, most: int = 3
) -> list[Recipe]:
    """What earlier runs on the model's family found good and this space allows, best first; claims are not used.

    The family is that of the rows of this model, else the only family there is.
    """
    families = {row.family for row in history if row.model == config.model} or {row.family for row in history}
    if len(families) != 1:
        return []
    ranked = recommend(
        history,
        families.pop(),
        workload=config.workload,
        device=config.device,
        min_accuracy_preservation=config.options.min_accuracy_preservation,
        limit=len(space.recipes),
    )
    keys = dict.fromkeys(r.recipe.key for r in ranked if r.source == HISTORY)
    return [space.by_key[key] for key in keys if key in space.by_key and is_open(space.by_key[key])][:most]


def recombine(space: Space, parents: Sequence[Recipe], count: int, rng: random.Random, is_open: IsOpen) -> list[Recipe]:
    """At most `count` new open recipes: crossover and mutation of the parents, then their neighbours, then any.

    Neighbours (one step added, removed or changed) and unexplored recipes only fill up what the draws did not give.
    """
    children: dict[str, Recipe] = {}

    def take(candidate: Recipe | None) -> None:
        if candidate is not None and len(children) < count and is_open(candidate):
            children.setdefault(candidate.key, candidate)

    for i in range(count * _TRIES_PER_CHILD if parents else 0):
        first, second = parents[i % len(parents)], rng.choice(parents)
        take(space.find(mutate(crossover(first, second, rng), space, rng)))
    for parent in dict.fromkeys(parents):
        for neighbour in neighbours(space, parent):
            take(neighbour)
    rest = [recipe for recipe in space.recipes if is_open(recipe)]
    for recipe in rng.sample(rest, len(rest)):
        take(recipe)
    return list(children.values())


def crossover(first: Recipe, second: Recipe, rng: random.Random) -> dict[str, str]:
    """Per strategy the step of one parent, chosen at random; a step only one of them has is usually kept."""
    a, b = first.to_dict(), second.to_dict()
    child: dict[str, str] = {}
    for strategy in sorted(a | b):
        if strategy in a and strategy in b:
            child[strategy] = rng.choice((a, b))[strategy]
        elif rng.random() < KEEP_LONE_STEP:
            child[strategy] = (a | b)[strategy]
    return child


def mutate(steps: Mapping[str, str], space: Space, rng: random.Random) -> dict[str, str]:
    """With `MUTATION_CHANCE` one strategy gets another setting or is dropped."""
    child = dict(steps)
    if rng.random() >= MUTATION_CHANCE:
        return child
    strategy = rng.choice(sorted(space.settings))
    choices = [setting for setting in space.settings[strategy] if setting != child.get(strategy)]
    setting = rng.choice([*choices, ""])
    child.pop(strategy, None)
    return child | ({strategy: setting} if setting else {})


def neighbours(space: Space, recipe: Recipe) -> list[Recipe]:
    """The legal recipes one step away: a step added, removed or changed; longer ones last."""
    own = recipe.to_dict()
    found = [space.find({k: v for k, v in own.items() if k != strategy}) for strategy in own]
    for strategy, settings in space.settings.items():
        found += [space.find(own | {strategy: setting}) for setting in settings if own.get(strategy) != setting]
    return sorted((r for r in found if r is not None), key=lambda r: (len(r.steps), r.key))


def _predicted_fitness(first: Measurement, second: Measurement | None, options: HybridOptimizationConfig) -> float:
    """The fitness of the product of both ratios; of the first alone where there is no second."""
    a = objectives_of(first)
    b = {name: 1.0 for name in a} if second is None else {n: ratio.value for n, ratio in objectives_of(second).items()}
    return sum(weight * a[name].value * b[name] for name, weight in active_weights(options).items() if weight > 0)
