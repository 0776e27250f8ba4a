"""Searchers from outside as controls: Optuna's TPE and NSGA-II behind our ask and tell.

Each slot is a categorical parameter. Optuna knows neither legal recipes nor measured ones, so it is asked again a
bounded number of times: what it may not have is told back as breaking a constraint, what was measured is told its known
value, and when it names nothing new the open recipes are drawn at random. Optuna is an optional library and is imported
only when one of these is made.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable
from typing import Any

from hybrid_core.records import Recipe
from hybrid_core.search.searchers.base import IsOpen, Remembering, Seen, Task

OFF = "off"
# So many suggestions of one `ask` may be refused before the rest is drawn at random.
_REFUSALS = 10
# Optuna's own 50 would be random search for a run of forty evaluations.
POPULATION = 8
# What stands for an infinite violation or an unknown value.
_WORST_VIOLATION, _WORST_VALUE = 10.0, -1.0

MakeSampler = Callable[[Any, int], Any]


def unavailable() -> str | None:
    """Why these cannot be had here, with what to do; None when they can."""
    if importlib.util.find_spec("optuna") is None:
        return "optuna is not installed; run: pip install -c requirements.lock optuna"
    return None


def make_tpe(samplers: Any, seed: int) -> Any:
    """Tree-structured Parzen estimator, multivariate as it is by default for one objective."""
    return samplers.TPESampler(seed=seed)


def make_nsga2(samplers: Any, seed: int) -> Any:
    """Optuna's NSGA-II with a population that fits the budget."""
    return samplers.NSGAIISampler(population_size=POPULATION, seed=seed)


class OptunaSearch(Remembering):
    """One study. With two objectives it is told (log speed, log memory), otherwise the value.

    Recipes that others proposed are added to the study; its NSGA-II breeds only from what it proposed itself.
    """

    def __init__(self, task: Task, make_sampler: MakeSampler, objectives: int = 1) -> None:
        super().__init__(task)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._objectives = objectives
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = make_sampler(optuna.samplers, task.rng.getrandbits(31))
            self.study = optuna.create_study(directions=["maximize"] * objectives, sampler=sampler)
        self._choices: dict[str, Any] = {
            slot: optuna.distributions.CategoricalDistribution((OFF, *task.space.settings[slot]))
            for slot in task.space.slots
        }
        self._waiting: dict[str, Any] = {}
        self._seen: dict[str, Seen] = {}
        self._notes: dict[str, Any] = {}

    def ask(self, count: int, is_open: IsOpen) -> list[Recipe]:
        """What the study suggests, as far as it is open; the rest at random."""
        wanted: dict[str, Recipe] = {}
        asked = 0
        while len(wanted) < count and asked < count + _REFUSALS and self._choices:
            asked += 1
            recipe, trial = self._suggest()
            if recipe is not None and recipe.key not in wanted and not recipe.is_baseline and is_open(recipe):
                wanted[recipe.key] = recipe
                self._keep(recipe, trial)
            else:
                self._refuse(recipe, trial)
        self._notes = {"asked": asked, "by_study": list(wanted)}
        return self.filled(list(wanted.values()), count, is_open)

    def tell(self, seen: Seen) -> None:
        """Finish the trial that waits for it; a recipe that others proposed becomes a trial of its own."""
        super().tell(seen)
        self._seen[seen.recipe.key] = seen
        trial = self._waiting.pop(seen.recipe.key, None)
        if trial is not None:
            self._finish(trial, seen)
        elif self._choices:
            steps = seen.recipe.to_dict()
            self.study.add_trial(
                self._optuna.trial.create_trial(
                    params={slot: steps.get(slot, OFF) for slot in self._choices},
                    distributions=self._choices,
                    values=self._values(seen),
                    constraints={"bounds": _violation(seen)},
                )
            )

    def notes(self) -> dict[str, Any]:
        """How often the study was asked, and what it named; the rest of the last `ask` was drawn at random."""
        return self._notes

    def _suggest(self) -> tuple[Recipe | None, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self.study.ask(self._choices)
        return self.space.find({slot: choice for slot, choice in trial.params.items() if choice != OFF}), trial

    def _keep(self, recipe: Recipe, trial: Any) -> None:
        """Let the trial wait for its value; one that already waits for the same recipe stays the only one."""
        if recipe.key in self._waiting:
            self.study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._waiting[recipe.key] = trial

    def _refuse(self, recipe: Recipe | None, trial: Any) -> None:
        """Tell what is known of the recipe; one that is illegal or closed counts as failed."""
        known = None if recipe is None else self._seen.get(recipe.key)
        if recipe is not None and known is None and recipe.key in self._waiting:
            self.study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._finish(trial, known or Seen.failed(recipe or Recipe()))

    def _finish(self, trial: Any, seen: Seen) -> None:
        trial.set_constraint("bounds", _violation(seen))
        self.study.tell(trial, self._values(seen))

    def _values(self, seen: Seen) -> list[float]:
        values = seen.objectives if self._objectives == 2 else (seen.value,)
        return [value if math.isfinite(value) else _WORST_VALUE for value in values]


def _violation(seen: Seen) -> float:
    """0 or less is feasible to Optuna; a failure breaks it most."""
    return min(seen.violation, _WORST_VIOLATION) if math.isfinite(seen.value) else _WORST_VIOLATION
