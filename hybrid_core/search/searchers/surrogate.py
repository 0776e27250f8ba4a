"""Surrogate search: score every open recipe with a Gaussian process and measure the one that promises most.

The promise is the enumerated expected improvement over the best so far, times the chance that the recipe breaks no
bound, divided by what measuring it costs (Jones et al. 1998; Gardner et al. 2014 for the constraint; Snoek et al. 2012
for the cost). With earlier models known, the process models what differs from their prior. Spaces here have a few
hundred recipes, so nothing is sampled and nothing else can find a better maximum of the same promise.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_core.records import Recipe, Step
from hybrid_core.search.searchers.base import IsOpen, Remembering, Seen, Task
from hybrid_core.search.searchers.gp import SMALLEST_SD, GaussianProcess, expected_improvement, normal_below
from hybrid_core.search.searchers.transfer import Prior

Array = NDArray[np.float64]
# How much of the prior is believed; the likeliest given what was measured here.
PRIOR_SHARES = (1.0, 0.5, 0.0)
# Cost counts with its square root: full division would spend a budget on cheap settings that gain nothing.
COST_EXPONENT = 0.5
# What cost too much accuracy nearly always does so in company too; rarely a partner repairs it, or noise misled.
CHANCE_AFTER_BREACH = 0.02
# The only step of a wrong recipe that was never seen in a right one is probably to blame.
CHANCE_OF_SUSPECT = 0.1


class SurrogateSearch(Remembering):
    """Asks for the largest expected improvement among the open recipes."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.prior = Prior(task.space, task.history)
        self._codes = np.array([task.space.encode(recipe) for recipe in task.space.recipes], dtype=np.int64)
        self._place = {recipe.key: i for i, recipe in enumerate(task.space.recipes)}
        self._costs = np.array([task.expected_s(recipe) for recipe in task.space.recipes]) ** COST_EXPONENT
        self._notes: dict[str, Any] = {}
        self._fitted: tuple[int, Array, Array] | None = None

    def ask(self, count: int, is_open: IsOpen) -> list[Recipe]:
        """The recipes of the largest promise; several at once are chosen as if each had turned out as predicted."""
        mean, sd = self.predict()
        chance = self.chance_ok()
        chosen: list[Recipe] = []
        proposals: list[dict[str, Any]] = []
        # Equal promise is broken at random, or every search on this space would begin with the same names.
        ties = np.array([self.rng.random() for _ in self.space.recipes])
        for _ in range(count):
            gain = expected_improvement(mean, sd, self.best_value()) * chance
            order = np.lexsort((ties, gain / self._costs))[::-1]
            place = next((int(i) for i in order if self._may_ask(int(i), chosen, is_open)), None)
            if place is None:
                break
            recipe = self.space.recipes[place]
            chosen.append(recipe)
            proposals.append(self._note(recipe, mean[place], sd[place], gain[place]))
            if len(chosen) < count:
                mean, sd = self.predict([Seen(recipe, float(mean[place]), float(sd[place]))])
        self._notes = {"proposals": proposals}
        return chosen

    def _may_ask(self, place: int, chosen: list[Recipe], is_open: IsOpen) -> bool:
        recipe = self.space.recipes[place]
        return not recipe.is_baseline and recipe not in chosen and is_open(recipe)

    def predict(self, assumed: list[Seen] | None = None) -> tuple[Array, Array]:
        """Mean and standard deviation of every recipe's value; `assumed` is believed beside what was told."""
        if not assumed and self._fitted is not None and self._fitted[0] == len(self.told):
            return self._fitted[1], self._fitted[2]
        known = [s for s in (*self.told, *(assumed or ())) if math.isfinite(s.value) and not s.recipe.is_baseline]
        self.prior.learn(self.told)
        codes = [self.space.encode(s.recipe) for s in known]
        places = [self._place[s.recipe.key] for s in known]
        values, sds = np.array([s.value for s in known]), [s.sd for s in known]
        prior = self.prior.values()
        shares = PRIOR_SHARES if known and prior.any() else PRIOR_SHARES[:1]
        share, process = max(
            ((share, GaussianProcess().fit(codes, values - share * prior[places], sds)) for share in shares),
            key=lambda fitted: fitted[1].log_likelihood,
        )
        mean, sd = process.predict(self._codes)
        mean = mean + share * prior
        if not assumed:
            self._fitted = (len(self.told), mean, sd)
        return mean, sd

    def chance_ok(self) -> Array:
        """For every recipe the chance that it breaks no bound: of accuracy by what was wrong, of speed by a model."""
        chance = self.prior.chance_ok().copy()
        cleared = {step for seen in self.told if seen.is_ok for step in seen.recipe.steps}
        for seen in self.told:
            if seen.is_wrong and seen.recipe.steps:
                steps = set(seen.recipe.steps)
                self._at_most(chance, steps, CHANCE_AFTER_BREACH)
                suspects = steps - cleared
                for step in suspects:
                    self._at_most(chance, {step}, 1.0 - 1.0 / len(suspects) if len(suspects) > 1 else CHANCE_OF_SUSPECT)
        return chance * self._chance_fast_enough()

    def _at_most(self, chance: Array, steps: set[Step], most: float) -> None:
        """Lower the chance of every recipe that contains all of these steps."""
        inside = [steps <= set(recipe.steps) for recipe in self.space.recipes]
        chance[inside] = np.minimum(chance[inside], most)

    def _chance_fast_enough(self) -> Array:
        """1 while nothing was slower than the bound; then what a process of its own over log speed says."""
        bound = self.task.least_log_speed
        known = [s for s in self.told if math.isfinite(s.objectives[0]) and not s.recipe.is_baseline]
        if all(s.objectives[0] >= bound for s in known):
            return np.ones(len(self.space.recipes))
        codes = [self.space.encode(s.recipe) for s in known]
        process = GaussianProcess().fit(codes, [s.objectives[0] for s in known], [s.sd for s in known])
        mean, sd = process.predict(self._codes)
        return normal_below((mean - bound) / np.maximum(sd, SMALLEST_SD))

    def best_value(self) -> float:
        """The best value told that breaks no bound; 0, the untouched model, where there is none."""
        return max((seen.value for seen in self.told if seen.is_ok), default=0.0)

    def largest_expected_gain(self, is_open: IsOpen) -> float:
        """The largest expected improvement of an open recipe, in log fitness; 0 when none is open."""
        mean, sd = self.predict()
        gain = expected_improvement(mean, sd, self.best_value()) * self.chance_ok()
        places = [i for i, recipe in enumerate(self.space.recipes) if not recipe.is_baseline and is_open(recipe)]
        return float(gain[places].max()) if places else 0.0

    def likeliest(self, is_open: IsOpen) -> Recipe | None:
        """The open recipe of the largest predicted value that probably breaks no bound."""
        mean, _ = self.predict()
        score = mean * (self.chance_ok() > 0.5)
        places = [i for i, recipe in enumerate(self.space.recipes) if not recipe.is_baseline and is_open(recipe)]
        return self.space.recipes[max(places, key=lambda i: float(score[i]))] if places else None

    def note(self, recipe: Recipe) -> dict[str, Any]:
        """What is predicted of one recipe, JSON-able."""
        mean, sd = self.predict()
        place = self._place[recipe.key]
        gain = expected_improvement(mean[[place]], sd[[place]], self.best_value()) * self.chance_ok()[place]
        return self._note(recipe, mean[place], sd[place], gain[0])

    @staticmethod
    def _note(recipe: Recipe, mean: float, sd: float, gain: float, by: str = "surrogate") -> dict[str, Any]:
        numbers = {"predicted": float(mean), "sd": float(sd), "expected_improvement": float(gain)}
        return {"key": recipe.key, "by": by, **numbers}

    def notes(self) -> dict[str, Any]:
        """What was predicted of what was asked last."""
        return self._notes
