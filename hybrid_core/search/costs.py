"""What a trial is expected to cost and what the budget still allows.

Trials differ by more than ten times in cost (compiling against swapping a kernel), so a search that counts trials would
plan badly; this one plans in seconds. Priors come from the strategies; every finished trial corrects them, so a
setting whose second compile is served by a cache becomes cheap as soon as that was seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from hybrid_core.records import MeasureLimits, Outcome, Purpose, Recipe, Step, Trial
from hybrid_core.search.space import Space

FINAL_HALF_WIDTH = 0.015
# A lucky calm second makes few pairs look certain; what is published needs more of them.
FINAL_MIN_PAIRS = 32
_LEAST_ROUND_PAIRS = 12
# A row that is right or wrong as a whole tells little: 384 of them that agree show 99 %. Windows of many predictions
# decide long before. A final uses all of its rows, many or few, as its recipe needed them.
QUALITY_ROWS, MOST_QUALITY_ROWS = 64, 384
# A single outlier must not make a setting look free or unaffordable for the rest of the run.
_LEAST_SCALE, _MOST_SCALE = 0.05, 20.0


class Budget:
    """Wall time of the run. A trial answered from an earlier attempt is charged what it cost then.

    That keeps a search that continues after a crash at the same decisions as the first attempt.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float]) -> None:
        self.limit_s = limit_s
        self._clock = clock
        self._start_s = clock()
        self._replayed_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds used so far."""
        return self._clock() - self._start_s + self._replayed_s

    @property
    def remaining_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.limit_s - self.elapsed_s)

    def charge(self, seconds: float, waited_s: float) -> None:
        """Count the recorded seconds of a trial or survey where waiting for it took less."""
        self._replayed_s += max(0.0, seconds - waited_s)


class CostModel:
    """Expected seconds of a trial: an overhead that every trial has, plus each step's prior times a learned scale."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._overhead_s = space.overhead_s
        self._scale: dict[Step, float] = {}
        self._seen: dict[str, Trial] = {}

    def expected_s(self, recipe: Recipe) -> float:
        """Expected seconds of a search trial."""
        return self._overhead_s + sum(self._step_s(step) for step in recipe.steps)

    def expected_round_s(self, recipe: Recipe, limits: MeasureLimits, rounds: int) -> float:
        """Expected seconds of one of the `rounds` processes that share a final's timing.

        Together they may time twice as long as a search trial, whose limits are given.
        """
        more = 2 / rounds - 1
        seen = self._seen.get(recipe.key)
        if seen is None:
            return self.expected_s(recipe) + more * limits.max_timed_s
        return seen.seconds + more * seen.phases_s.get("timing", limits.max_timed_s)

    def observe(self, trial: Trial) -> None:
        """Learn from a finished search trial; one that failed early says nothing about a full one."""
        if trial.outcome not in (Outcome.OK, Outcome.TIMEOUT) or trial.seconds <= 0:
            return
        self._seen[trial.recipe.key] = trial
        if trial.recipe.is_baseline:
            self._overhead_s = trial.seconds
            return
        expected = sum(self._step_s(step) for step in trial.recipe.steps)
        if expected <= 0:
            return
        ratio = max(0.0, trial.seconds - self._overhead_s) / expected
        for step in trial.recipe.steps:
            scale = self._scale.get(step, 1.0) * ratio
            self._scale[step] = min(_MOST_SCALE, max(_LEAST_SCALE, scale))

    def _step_s(self, step: Step) -> float:
        return self._space.step_prior_s(step) * self._scale.get(step, 1.0)


def survey_limit_s(budget_s: float, remaining_s: float) -> float:
    """How long asking the settings may take: starting a process and building the model is most of it."""
    return min(120.0, max(20.0, budget_s / 6), remaining_s)


def quality_limits(limits: MeasureLimits, purpose: Purpose, bound: float, seen_rows: int) -> MeasureLimits:
    """How many held-out rows: while searching as many as decide about the accuracy bound, else a number fixed before.

    `seen_rows` is what the recipe's search trial needed. Published numbers are taken without looking in between.
    """
    if purpose is Purpose.SEARCH:
        return replace(limits, quality_samples=MOST_QUALITY_ROWS, accuracy_bound=bound)
    return replace(limits, quality_samples=QUALITY_ROWS if seen_rows <= QUALITY_ROWS else MOST_QUALITY_ROWS)


def limits_for(budget_s: float, purpose: Purpose, available_s: float, rounds: int = 1) -> MeasureLimits:
    """How long one measurement may take: a fortieth of the budget for timing, twice that in the final race.

    `available_s` is what this trial may use at most before the rest of the plan suffers; it bounds the hard time-outs.
    The `rounds` processes of a final share its time and its pairs, and are together as certain as one would be.
    """
    timed = min(8.0, max(1.5, budget_s / 40))
    total = min(max(300.0, budget_s / 10), max(30.0, available_s))
    transform = min(max(180.0, budget_s / 20), total)
    if purpose is Purpose.FINAL:
        return MeasureLimits(
            target_half_width=FINAL_HALF_WIDTH * math.sqrt(rounds),
            min_pairs=max(_LEAST_ROUND_PAIRS, math.ceil(FINAL_MIN_PAIRS / rounds)),
            max_timed_s=2 * timed / rounds,
            transform_timeout_s=transform,
            total_timeout_s=total,
        )
    return MeasureLimits(max_timed_s=timed, transform_timeout_s=transform, total_timeout_s=total)
