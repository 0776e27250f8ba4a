"""Search by a learned policy: train on a surrogate's guesses, measure only the few recipes the policy ends up wanting.

A policy needs thousands of episodes and a measurement takes a minute, so episodes are paid by the Gaussian process of
surrogate.py: mean minus one standard deviation, so that ignorance is not exploited. Every few measurements a policy
starts anew: it is fitted to the best recipes known, its critic to returns, then it is trained; its likeliest distinct
open recipes are re-ranked by expected improvement and measured, and what they turn out to be worth refits everything
(Dyna, Sutton 1990; Ahn et al. 2020, Chameleon). Enumerating the surrogate is at least as good in a space of this size;
docs/rl.md says what to expect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.records import Recipe
from hybrid_core.rl.game import RecipeGame
from hybrid_core.rl.gate import LeftOut, judge
from hybrid_core.rl.offline import top_keys
from hybrid_core.rl.optimizer import HybridRLOptimizer
from hybrid_core.rl.report import learning_report, untrained_report
from hybrid_core.rl.surrogate import Predictions, failure_score
from hybrid_core.rl.tree import Slot
from hybrid_core.search.searchers.base import IsOpen, Remembering, Searcher, Seen, Task
from hybrid_core.search.searchers.gp import SMALLEST_SD, expected_improvement
from hybrid_core.search.searchers.surrogate import SurrogateSearch

# Fewer measurements that worked teach nothing about single settings, let alone pairs.
MINIMUM_MEASURED = 4
# Measurements between two trainings; in between the same policy is asked, with fresh predictions. Each training begins
# with new networks: those that went on from the round before stayed where they had settled (on four planted landscapes
# of 350 recipes they missed 0.10 of log fitness after 20 measurements, new ones 0.05).
ROUND = 4
# How many of the policy's likeliest open recipes compete by expected improvement.
POOL = 12


class RLSearcher(Remembering):
    """Proposes what a policy trained on the surrogate wants; steps back to `fallback` where it must not be trusted."""

    def __init__(self, task: Task, options: HybridOptimizationConfig, fallback: Searcher) -> None:
        super().__init__(task)
        self.options, self.fallback = options, fallback
        self.surrogate = SurrogateSearch(task)
        self.gate = judge(left_out(self.surrogate, task))
        if not self.gate.passed and task.history:
            # What may not be trusted, or could not be judged, must not reach the surrogate either.
            self.surrogate = SurrogateSearch(replace(task, history={}))
        self._learner: HybridRLOptimizer | None = None
        self._trained_on = 0
        self._notes: dict[str, Any] = {}

    def tell(self, seen: Seen) -> None:
        """Everybody learns of it."""
        super().tell(seen)
        self.surrogate.tell(seen)
        self.fallback.tell(seen)

    def ask(self, count: int, is_open: IsOpen) -> list[Recipe]:
        """The policy's likeliest open recipes, the largest expected improvement first; else what the fallback wants."""
        why_not = self._why_not()
        if why_not:
            found = self.fallback.ask(count, is_open)
            self._notes = self._stepped_back(found, why_not)
            return found
        is_new = self._learner is None or len(self.told) - self._trained_on >= ROUND
        learner = self._train(is_open) if is_new else self._learner
        assert learner is not None
        found, proposals = self._picks(learner, count, is_open)
        report = learning_report(learner, self._learned_from(), self.gate.to_json()) if is_new else None
        # The report of the same training is not told twice; a run may ask hundreds of times.
        self._notes = {"proposals": proposals} | ({"learning": report} if report else {})
        return found

    def notes(self) -> dict[str, Any]:
        """`proposals` with predictions and the policy's probability; `learning`: the report of a new training."""
        return self._notes

    def largest_expected_gain(self, is_open: IsOpen) -> float:
        """What the surrogate still expects of the best open recipe, in log fitness."""
        return self.surrogate.largest_expected_gain(is_open)

    @property
    def measured(self) -> list[Seen]:
        """What was told and may win, the latest of each recipe."""
        return list({seen.recipe.key: seen for seen in self.told if seen.is_ok}.values())

    def _why_not(self) -> str:
        """Why no policy may propose now; empty when it may."""
        if self.gate.passed is False:
            return self.gate.sentence
        known = len(self.measured)
        if known >= MINIMUM_MEASURED or (self.gate.passed and known):
            return ""
        return f"{self.gate.sentence} {known} of the {MINIMUM_MEASURED} recipes this needs have worked so far."

    def _learned_from(self) -> str:
        others = f" and {len(self.gate.models)} other models" if self.gate.passed else " alone"
        return f"Policy trained on {len(self.measured)} measured recipes of this run{others}."

    def _train(self, is_open: IsOpen) -> HybridRLOptimizer:
        """A new policy, from the best recipes known to what the surrogate pays."""
        learner = HybridRLOptimizer(self.options, self._game(is_open), seed=self.rng.getrandbits(31))
        learner.imitate(self._examples())
        learner.train_rl_optimizer()
        self._learner, self._trained_on = learner, len(self.told)
        return learner

    def _game(self, is_open: IsOpen) -> RecipeGame:
        """The slots of the space, paid by what was measured and by the surrogate where nothing was."""
        space = self.space
        scores = {Recipe().key: 0.0} | {seen.recipe.key: seen.value for seen in self.measured}
        noise = max(SMALLEST_SD, float(np.median([seen.sd for seen in self.measured])))
        floor = failure_score(list(scores.values()), noise)
        mean, sd = self.surrogate.predict()
        chance = self.surrogate.chance_ok()
        expected = chance * mean + (1.0 - chance) * floor
        answers = {r.key: (float(m), float(s)) for r, m, s in zip(space.recipes, expected, sd, strict=True)}
        closed = [r.key for r in space.recipes if r.key not in scores and not is_open(r)]
        return RecipeGame(
            [Slot(name, space.settings[name]) for name in space.slots],
            scores,
            failed=closed,
            noise=noise,
            budget_share=min(1.0, len(self.told) / (self.options.num_candidates * self.options.max_iterations)),
            max_steps=self.options.rl_max_steps_per_episode,
            is_legal=lambda recipe: recipe.key in space.by_key,
            surrogate=Predictions(answers),
        )

    def _examples(self) -> list[str]:
        """The best recipes of each earlier model that may teach, and of this run."""
        groups: list[Sequence[Seen]] = [self.measured]
        groups += list(self.task.history.values()) if self.gate.passed else []
        return [key for seen in groups for key in top_keys([(s.recipe.key, s.value) for s in seen if s.is_ok])]

    def _picks(
        self, learner: HybridRLOptimizer, count: int, is_open: IsOpen
    ) -> tuple[list[Recipe], list[dict[str, Any]]]:
        game = learner.env
        chances = learner.log_probabilities()[game.first_finished :]
        pool: dict[str, float] = {}
        for place in chances.argsort(descending=True, stable=True).tolist():
            recipe = self.space.by_key[game.keys[game.first_finished + place]]
            if not recipe.is_baseline and is_open(recipe):
                pool[recipe.key] = float(chances[place])
            if len(pool) >= max(POOL, count):
                break
        mean, sd = self.surrogate.predict()
        promise = expected_improvement(mean, sd, self.surrogate.best_value()) * self.surrogate.chance_ok()
        gain = dict(zip((r.key for r in self.space.recipes), promise.tolist(), strict=True))
        chosen = sorted(pool, key=lambda key: -gain[key])[:count]
        found = [self.space.by_key[key] for key in chosen]
        proposals = [
            {**self.surrogate.note(recipe), "by": "rl", "log_probability": pool[recipe.key]} for recipe in found
        ]
        return found, proposals

    def _stepped_back(self, found: Sequence[Recipe], reason: str) -> dict[str, Any]:
        rest = self.fallback.notes()
        proposals = rest.get("proposals") or [{**self.surrogate.note(r), "by": "portfolio and local"} for r in found]
        report = untrained_report(self.options, reason, self.gate.to_json())
        return {"proposals": proposals, "learning": report, "fallback": rest}


def left_out(surrogate: SurrogateSearch, task: Task) -> list[LeftOut]:
    """Each earlier model predicted by the mean of the others, on the recipes measured of it."""
    prior, place = surrogate.prior, {recipe.key: i for i, recipe in enumerate(task.space.recipes)}
    found = []
    for i, name in enumerate(prior.names):
        others = np.delete(prior.means, i, axis=0)
        rows = [s for s in task.history[name] if s.recipe.key in place and not s.recipe.is_baseline]
        predicted = others.mean(axis=0)[[place[s.recipe.key] for s in rows]] if len(others) else np.zeros(len(rows))
        measured = [s.value if s.is_ok else math.nan for s in rows]
        found.append(LeftOut(name, predicted.tolist(), measured))
    return found
