"""Which recipes a run may try on this machine, and what trying one is expected to cost.

The space is small enough to be listed (at most one setting per strategy), so every proposal is checked by looking it up
instead of by rules repeated in each searcher. What this machine cannot do is kept with its reason: a page can say
"int8 needs ..." instead of showing a shorter list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.recipes import conflict_reason, legal_recipes
from hybrid_core.records import Recipe, Step
from hybrid_core.strategies import registry
from hybrid_core.strategies.base import Setting

# Seconds one trial takes besides its steps (start of a process, build, check, timing) until the first one was seen.
OVERHEAD_PRIOR_S = 8.0


@dataclass(frozen=True)
class Space:
    """What may be tried.

    `settings`: strategy -> available settings. `unavailable`: "strategy=setting" -> why this machine cannot.
    `left_out`: "strategy=setting" -> why this run does not try what the machine could do.
    `recipes`: every legal recipe, the baseline first. `step_cost_s`: "strategy=setting" -> prior seconds.
    `claimed`: strategy -> the document's figures, used only to order what is tried first.
    """

    settings: Mapping[str, tuple[str, ...]]
    recipes: tuple[Recipe, ...]
    step_cost_s: Mapping[str, float] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    claimed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    overhead_s: float = OVERHEAD_PRIOR_S
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_registry(cls, options: HybridOptimizationConfig, device: str) -> Space:
        """The space of the strategies and settings the options name, on this machine and device.

        Raises:
            InvalidInput: `strategy_settings` names a setting that its strategy does not have.
        """
        settings: dict[str, tuple[str, ...]] = {}
        unavailable: dict[str, str] = {}
        left_out: dict[str, str] = {}
        for name in options.optimization_strategies:
            strategy = registry.get_strategy(name)
            named = options.strategy_settings.get(name, ())
            for wish in named:
                registry.get_setting(name, wish)
            wanted = []
            for setting in strategy.settings:
                key, reason = f"{name}={setting.name}", strategy.unavailable(setting.name, device)
                if reason is not None:
                    unavailable[key] = reason
                elif (why_not := _why_left_out(setting, named)) is not None:
                    left_out[key] = why_not
                else:
                    wanted.append(setting.name)
            settings[name] = tuple(wanted)
        return cls(
            settings=settings,
            unavailable=unavailable,
            left_out=left_out,
            recipes=legal_recipes(tuple(settings), settings, 4 if options.enable_ensemble_optimization else 1),
            step_cost_s={
                f"{name}={s.name}": s.expected_cost_s for name in settings for s in registry.get_strategy(name).settings
            },
            claimed={name: dict(registry.get_strategy(name).claimed) for name in settings},
        )

    @cached_property
    def by_key(self) -> dict[str, Recipe]:
        """Every legal recipe under its canonical key."""
        return {recipe.key: recipe for recipe in self.recipes}

    @property
    def singles(self) -> tuple[Recipe, ...]:
        """The recipes of one step."""
        return tuple(recipe for recipe in self.recipes if len(recipe.steps) == 1)

    def find(self, steps: Mapping[str, str]) -> Recipe | None:
        """The legal recipe of these steps in its legal order, None when there is none."""
        return self.by_key.get(Recipe.from_dict(steps).key)

    @property
    def slots(self) -> tuple[str, ...]:
        """The strategies in canonical order (by name); one decision each."""
        return tuple(sorted(name for name, settings in self.settings.items() if settings))

    def encode(self, recipe: Recipe) -> tuple[int, ...]:
        """One number per slot: 0 is off, i the i-th setting of the slot."""
        steps = recipe.to_dict()
        return tuple(1 + self.settings[s].index(steps[s]) if s in steps else 0 for s in self.slots)

    def decode(self, code: Sequence[int]) -> Recipe | None:
        """The legal recipe of a whole code, None when its steps exclude each other."""
        pairs = zip(self.slots, code, strict=True)
        return self.find({slot: self.settings[slot][i - 1] for slot, i in pairs if i})

    def allowed(self, prefix: Sequence[int]) -> tuple[bool, ...]:
        """For the slot after `prefix`: which of off and its settings lead to at least one legal recipe."""
        slot, before = self.slots[len(prefix)], tuple(prefix)
        return tuple((*before, i) in self._prefixes for i in range(1 + len(self.settings[slot])))

    def reasons(self, prefix: Sequence[int]) -> dict[str, str]:
        """Why each setting of the next slot that `allowed` masks is masked."""
        slot, allowed = self.slots[len(prefix)], self.allowed(prefix)
        decided = [Step(s, self.settings[s][i - 1]) for s, i in zip(self.slots, prefix, strict=False) if i]
        found = {}
        for setting, may in zip(self.settings[slot], allowed[1:], strict=True):
            if not may:
                told = (conflict_reason(step, Step(slot, setting)) for step in decided)
                found[setting] = next(filter(None, told), "no legal recipe begins like this")
        return found

    @cached_property
    def _prefixes(self) -> frozenset[tuple[int, ...]]:
        codes = [self.encode(recipe) for recipe in self.recipes]
        return frozenset(code[:n] for code in codes for n in range(len(code) + 1))

    def step_prior_s(self, step: Step) -> float:
        """Prior seconds of one step."""
        return self.step_cost_s.get(f"{step.strategy}={step.setting}", 0.0)

    def expected_cost_s(self, recipe: Recipe) -> float:
        """Prior seconds of one trial, before anything was measured; `CostModel` learns from there."""
        return self.overhead_s + sum(self.step_prior_s(step) for step in recipe.steps)

    def to_json(self) -> dict[str, Any]:
        """What a run tells about its space when it starts."""
        return {
            "settings": {name: list(settings) for name, settings in self.settings.items()},
            "unavailable": dict(self.unavailable),
            "left_out": dict(self.left_out),
            "recipes": len(self.recipes),
        }


def _why_left_out(setting: Setting, named: Sequence[str]) -> str | None:
    """What is named is tried; where nothing is named, what is tried by itself."""
    if named:
        return None if setting.name in named else "it is not among the settings that this run was asked to try"
    return setting.on_request or None
