"""Which recipes are legal, in which order their steps run, and applying one to a model.

A recipe is at most one setting per strategy. Strategies declare a stage for each setting (attention is rewritten before
it is quantized, compiling comes last) and their conflicts, said on one side and read on both; everything here
is computed from those declarations, so a new strategy needs no line in this file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from hybrid_core.errors import InvalidInput
from hybrid_core.records import Recipe, Step
from hybrid_core.strategies import registry
from hybrid_core.strategies.base import Applied, Situation


def order_recipe(steps: Mapping[str, str] | Recipe) -> Recipe:
    """The same steps in the order of their declared stages; steps of one stage go by name.

    Raises:
        InvalidInput: a strategy or setting is unknown, or a strategy appears twice.
    """
    recipe = steps if isinstance(steps, Recipe) else Recipe.from_dict(steps)
    if len(set(recipe.strategies)) != len(recipe.steps):
        raise InvalidInput(f"recipe {recipe.key!r:.120} names a strategy twice; give at most one setting per strategy")
    return Recipe(tuple(sorted(recipe.steps, key=lambda step: (_stage(step), step))))


def check_recipe(steps: Mapping[str, str] | Recipe) -> Recipe:
    """The ordered recipe, if it is legal.

    Raises:
        InvalidInput: an unknown strategy or setting, or two steps that declare a conflict, with its reason.
    """
    recipe = order_recipe(steps)
    for first, second in itertools.combinations(recipe.steps, 2):
        reason = conflict_reason(first, second)
        if reason is not None:
            raise InvalidInput(
                f"{first.strategy}={first.setting} and {second.strategy}={second.setting} cannot be combined: "
                f"{reason}; drop one of them"
            )
    return recipe


def conflict_reason(first: Step, second: Step) -> str | None:
    """Why two steps exclude each other, whichever of the two strategies said so; None when they do not."""
    for one, other in ((first, second), (second, first)):
        for conflict in registry.get_strategy(one.strategy).conflicts:
            if conflict.forbids(one.setting, other.strategy, other.setting):
                return conflict.reason
    return None


def legal_recipes(
    strategies: Sequence[str], allowed: Mapping[str, Sequence[str]], max_steps: int = 4
) -> tuple[Recipe, ...]:
    """Every legal recipe of the named strategies and allowed settings: the baseline, then singles, pairs, ...

    A strategy missing in `allowed` contributes nothing. Within one length the order follows the names, so it is the
    same in every process.
    """
    return tuple(
        recipe for length in range(max_steps + 1) for recipe in _legal_of_length(sorted(strategies), allowed, length)
    )


def apply_steps(model: nn.Module, recipe: Recipe, situation: Situation) -> Applied:
    """Apply every step in stage order to a private copy the caller gives away; reports what each one changed.

    Raises:
        InvalidInput: the recipe is not legal.
        StrategyUnsupported: a step cannot be applied to this model, workload or machine.
    """
    changes: list[str] = []
    decisions: dict[str, Any] = {}
    for step in check_recipe(recipe).steps:
        applied = registry.get_strategy(step.strategy).apply(step.setting, model, situation)
        model = applied.model
        changes.extend(applied.changes)
        decisions.update(applied.decisions)
    return Applied(model, tuple(changes), decisions)


def start_variables(recipe: Recipe) -> dict[str, str]:
    """The environment with which a process has to be started before this recipe can be applied in it."""
    settings = [registry.get_setting(step.strategy, step.setting) for step in recipe.steps]
    return {name: value for setting in settings for name, value in setting.start_variables}


def _stage(step: Step) -> int:
    return registry.get_setting(step.strategy, step.setting).stage


def _legal_of_length(strategies: Sequence[str], allowed: Mapping[str, Sequence[str]], length: int) -> Iterator[Recipe]:
    for names in itertools.combinations(strategies, length):
        for settings in itertools.product(*(sorted(allowed.get(name, ())) for name in names)):
            steps = tuple(Step(*pair) for pair in zip(names, settings, strict=True))
            if all(conflict_reason(a, b) is None for a, b in itertools.combinations(steps, 2)):
                yield order_recipe(Recipe(steps))
