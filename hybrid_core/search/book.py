"""The search's memory: what was measured, what that says about other recipes, and the views the steps need of it."""

from __future__ import annotations

from collections import Counter

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.fitness import (
    SMALLEST_NOISE_FLOOR,
    baseline_fitness,
    fitness_of,
    infeasible_reason,
    noise_floor_of,
    objectives_of,
    pareto_front,
    unfit_parent_reason,
)
from hybrid_core.records import Estimate, Measurement, Outcome, Purpose, Recipe, Step, Trial
from hybrid_core.search.noise import Noise
from hybrid_core.search.speeds import estimates_of
from hybrid_core.selection.base import ScoredCandidate

# These outcomes say something about the steps themselves, so a recipe that contains them all is not worth a trial.
# Running out of memory is not among them: one more step may be what makes it fit.
_BLOCKING = (Outcome.UNSUPPORTED, Outcome.WRONG, Outcome.CRASHED, Outcome.TIMEOUT)


class TrialBook:
    """All trials of one run, by recipe; a recipe is searched at most once and raced at most once."""

    def __init__(self, options: HybridOptimizationConfig, noise: Noise | None = None) -> None:
        """`noise` holds what is known of the device; it learns from every baseline and final that is added."""
        self.options, self.noise = options, noise or Noise()
        self.search: dict[str, Trial] = {}
        self.finals: dict[str, Trial] = {}
        self.noise_floors = dict.fromkeys(("speed", "memory", "accuracy"), SMALLEST_NOISE_FLOOR)
        self._blocked: dict[frozenset[Step], str] = {}

    def quality_rows(self, recipe: Recipe) -> int:
        """How many held-out rows the recipe's trial of the search used, 0 without one."""
        trial = self.search.get(recipe.key)
        return trial.measurement.quality.samples if trial is not None and trial.measurement is not None else 0

    def add(self, trial: Trial) -> str | None:
        """Remember a trial; returns the reason when it rules out every recipe that contains its steps."""
        (self.finals if trial.purpose is Purpose.FINAL else self.search)[trial.recipe.key] = trial
        if trial.purpose is not Purpose.SEARCH:
            self.noise.learn(trial)
        if trial.recipe.is_baseline:
            if trial.measurement is not None and trial.is_ok:
                self.noise_floors = self._floors(trial.measurement, trial.purpose)
            return None
        if trial.outcome not in _BLOCKING or trial.purpose is Purpose.FINAL:
            return None
        reason = f"{trial.recipe.key} was {trial.outcome}" + (f": {trial.reason}" if trial.reason else "")
        self._blocked[frozenset(trial.recipe.steps)] = reason
        return reason

    def _floors(self, measured: Measurement, purpose: Purpose) -> dict[str, float]:
        """What a difference must exceed: in speed what A/A over as many processes does here, else this A/A's interval.

        A search trial is one process, however many the A/A had.
        """
        floors = {name: noise_floor_of(ratio) for name, ratio in objectives_of(measured).items()}
        rounds = len(estimates_of(measured)) if purpose is Purpose.FINAL else 1
        return floors | {"speed": self.noise.floor(rounds) or floors["speed"]}

    def rule_out(self, recipe: Recipe, reason: str) -> None:
        """Block every recipe that contains these steps, for a reason known before anything was measured."""
        self._blocked.setdefault(frozenset(recipe.steps), reason)

    def is_blocked(self, recipe: Recipe) -> bool:
        """True when the recipe contains steps that failed together in this run."""
        steps = frozenset(recipe.steps)
        return any(blocked <= steps for blocked in self._blocked)

    def fitness(self, trial: Trial) -> Estimate | None:
        """The trial's fitness, None when it has no measurement."""
        return fitness_of(trial.measurement, self.options) if trial.measurement is not None else None

    def why_not(self, trial: Trial) -> str | None:
        """Why the trial may not win, None when it may."""
        return infeasible_reason(trial, self.options, self.noise_floors["speed"])

    def best(self) -> tuple[str, Estimate]:
        """Key and fitness of the best feasible trial of the search; the untouched model when there is none."""
        untouched = ("baseline", Estimate.exact(baseline_fitness(self.options)))
        feasible = [
            (trial.recipe.key, fitness)
            for trial in self.search.values()
            if not trial.recipe.is_baseline
            and self.why_not(trial) is None
            and (fitness := self.fitness(trial)) is not None
        ]
        return max([untouched, *feasible], key=lambda item: item[1].value)

    def scored(self) -> list[ScoredCandidate]:
        """Every trial of the search as a candidate for parenthood; the untouched model is one of them."""
        candidates = []
        for trial in self.search.values():
            fitness = self.fitness(trial)
            ok = unfit_parent_reason(trial, self.options) is None
            value = fitness.value if fitness is not None else 0.0
            candidates.append(ScoredCandidate(trial.recipe, value, ok, trial.measurement))
        return candidates

    def good_singles(self) -> dict[str, Measurement]:
        """The measured recipes of one step that may be parents."""
        return {
            trial.recipe.key: trial.measurement
            for trial in self.search.values()
            if len(trial.recipe.steps) == 1
            and trial.measurement is not None
            and unfit_parent_reason(trial, self.options) is None
        }

    def best_ensemble(self) -> tuple[Trial, float] | None:
        """The fittest ensemble that may be a parent, with its fitness; None while combining has not paid.

        It has to beat every single step in it that was measured: else adding further steps to it is not worth a trial.
        """
        scores = {
            key: fitness.value
            for key, trial in self.search.items()
            if unfit_parent_reason(trial, self.options) is None and (fitness := self.fitness(trial)) is not None
        }
        ensembles = [self.search[key] for key in scores if len(self.search[key].recipe.steps) > 1]
        best = max(ensembles, key=lambda trial: scores[trial.recipe.key], default=None)
        if best is None:
            return None
        alone = [scores.get(Recipe((step,)).key, 0.0) for step in best.recipe.steps]
        score = scores[best.recipe.key]
        return (best, score) if score > max(alone) else None

    def counts(self) -> dict[str, int]:
        """How many trials ended how, final race included."""
        return dict(Counter(str(trial.outcome) for trial in (*self.search.values(), *self.finals.values())))

    def front(self) -> tuple[str, ...]:
        """Keys of the recipes within the bounds that no other one dominates, by their newest numbers."""
        newest = self.search | {key: trial for key, trial in self.finals.items() if trial.is_ok}
        fit = [trial for trial in newest.values() if unfit_parent_reason(trial, self.options) is None]
        return tuple(fit[i].recipe.key for i in pareto_front([_point(trial) for trial in fit]))


def _point(trial: Trial) -> tuple[float, float, float]:
    assert trial.measurement is not None
    speed, memory, accuracy = objectives_of(trial.measurement).values()
    return speed.value, memory.value, accuracy.value
