"""How far two measurements of the same thing differ between processes, on this device, today and in this run.

A process that measured 2 % may find 2 % more when it is started again, so one process tells less than its own interval
says. What the untouched model against itself (A/A) showed in the last day and in this run is the noise floor of the
verdicts; what other models showed counts as a few measurements more.

A recipe is not judged by A/A alone: two equal models share the luck of their process, so A/A moves less than recipes do
(1.3 % against 3 % on one machine, 3.1 % against 5.9 % on another), and two processes that agree by chance say little: a
published 1.220 (1.199 to 1.243) was 1.257 and 1.247 when repeated. It is judged by finals and repeats, of this run and
of the last day, and by twice the A/A spread, which counts for few of them: by those of the same model where there are
enough, because models differ tenfold in how unsteady they are (1 % and 19 % by process on one machine, docs/truth.md),
else by those of all models. What the search measured is not compared with the final: the best of many scores was chosen
for its luck, so the two differ by more than the machine does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hybrid_core.fitness import SMALLEST_NOISE_FLOOR
from hybrid_core.measurement.conditions import is_flagged
from hybrid_core.measurement.rounds import (
    TRUST,
    Spread,
    noise_floor,
    pooled,
    spread_of,
    spread_of_recipes,
    standard_error,
    widen,
    without,
)
from hybrid_core.records import Estimate, Recipe, Trial
from hybrid_core.search.speeds import BETWEEN, estimate_of_round, estimates_of, is_positive, usable, with_speed

# With fewer degrees of freedom the quantile of t is so large that an interval says more about it than about the device.
FEWEST_DEGREES = 3
# Where this much is known of the day, one A/A measurement of a run's own model is enough.
ENOUGH_DEGREES = TRUST
RECIPES_MOVE_MORE = 2.0
# What other models, or two equal ones, say of a model's recipes, in degrees of freedom at most.
OTHERS_TRUST = 4
# What recipes do from one minute to another, by the variance of a process. Winners that were raced three times each
# showed 0.40 (20 of them, while the other core was at work) and later nothing (20 more; both together 0.13): rather an
# interval that is a little too wide. benchmarks/truth.py.
MOMENT = 0.4
FINAL = "the final of this run"
# Of one recipe: the model's own or another's, and the ratios of every process of each measurement.
_Measured = dict[str, list[Estimate]]


class Noise:
    """A/A results and repeated recipes of a device; rows of the `noise` query at first, then the run's own.

    A row whose `own` is true is of the model, size and workload that the run measures.
    """

    def __init__(self, day: Sequence[Mapping[str, Any]] = ()) -> None:
        # By whether it was disturbed, and whose: the model's own or another's.
        self._equal: dict[tuple[bool, bool], list[Estimate]] = {}
        self._recipes: dict[tuple[bool, str, str], _Measured] = {}
        self.trial_ids: list[str] = []
        for row in day:
            rounds = [estimate_of_round(entry) for entry in row["rounds"] or ()] or [_speed_of_row(row)]
            if row["recipe_key"] == Recipe().key:
                self._take_equal(str(row["trial_id"]), bool(row.get("own")), rounds, bool(row.get("flagged")))
            else:
                subject = "/".join(str(row.get(name, "")) for name in ("model", "size", "workload_label"))
                whose = (True, "", row["recipe_key"]) if row.get("own") else (False, subject, row["recipe_key"])
                self._take_recipe(str(row["trial_id"]), whose, rounds)

    def learn(self, trial: Trial) -> None:
        """Take in an A/A or a final of this run."""
        if trial.measurement is None or not trial.is_ok:
            return
        estimates = estimates_of(trial.measurement)
        if trial.recipe.is_baseline:
            self._take_equal(trial.trial_id, True, estimates, is_flagged(trial.measurement.environment))
        else:
            self._take_recipe(trial.trial_id, _of_this_run(trial.recipe), estimates, FINAL)

    def hear(self, rounds: Sequence[Trial]) -> None:
        """Take in the processes of one recipe's final so far; a later call replaces them."""
        found = [trial.measurement.speed_improvement for trial in rounds if trial.measurement and trial.is_ok]
        if not rounds[0].recipe.is_baseline:
            self._take_recipe("", _of_this_run(rounds[0].recipe), found, FINAL)

    @property
    def spread(self) -> Spread | None:
        """How far A/A differ, however little is known: of this model, and of all models as few measurements more."""
        own, device = _spread_around_zero(self._against_itself(own=True)), self._of_device
        if own is None or device is None or device.degrees == own.degrees:
            return device
        return pooled(own, replace(device, degrees=min(device.degrees, OTHERS_TRUST)))

    @property
    def known(self) -> Spread | None:
        """The spread where enough is known to judge by it."""
        return _enough(self.spread)

    def of(self, recipe: Recipe) -> Spread | None:
        """How far processes differ that measure this recipe in the same minutes, by everything but its own final.

        What is known of this model counts alone where it is enough; None where nothing is enough.
        """
        own = _enough(pooled(self._between(recipe, [is_own for is_own, _, _ in self._recipes]), self._doubled(True)))
        if own is not None:
            return replace(own, source="this model")
        every = _enough(pooled(self._between(recipe, [True] * len(self._recipes)), self._doubled(False)))
        return every and replace(every, degrees=min(every.degrees, OTHERS_TRUST), source="all models of the last day")

    def floor(self, rounds: int = 1) -> float | None:
        """The |ratio - 1| that an A/A over as many processes stays below; None where too little is known."""
        known = self.known
        return None if known is None else max(SMALLEST_NOISE_FLOOR, noise_floor(known, rounds))

    @property
    def is_well_known(self) -> bool:
        """True when one more A/A measurement would change little."""
        return (spread := self._of_device) is not None and spread.degrees >= ENOUGH_DEGREES

    def widened(self, trial: Trial) -> Trial:
        """A trial of one process with the interval that another process would land in; a second time changes nothing.

        The interval inside the process can be computed again from the raw pairs.
        """
        measured = trial.measurement
        spread = self.between(trial.recipe, 1)
        if spread is None or measured is None or BETWEEN in measured.environment or not usable(measured):
            return trial
        speed = widen(measured.speed_improvement, spread, moment_of(trial.recipe))
        return replace(trial, measurement=with_speed(measured, speed, spread))

    def between(self, recipe: Recipe, rounds: int) -> Spread | None:
        """By which spread so many processes of a recipe are joined."""
        if recipe.is_baseline:
            return self.known if rounds == 1 else self.spread
        return self.of(recipe)

    def to_event(self) -> dict[str, Any]:
        """What the run used, JSON-able, with the sentence for a person."""
        spread = self.spread
        return {
            "sd": spread.sd if spread else None,
            "degrees": spread.degrees if spread else 0,
            "floor": self.floor(),
            "against_itself": len(self._against_itself()),
            "repeated": self._repeated,
            "trials": list(self.trial_ids),
            "sentence": self.sentence(),
        }

    def sentence(self) -> str:
        """How far two measurements of the same thing differ here, and on how many it rests."""
        count, own, floor = len(self._against_itself()), len(self._against_itself(own=True)), self.floor()
        taken = f"{count} A/A measurement{'' if count == 1 else 's'}"
        if own != count:
            taken += f", {own} of this model" if own else ", none of this model"
        if floor is None:
            return f"how far two processes that measure the same thing differ here is not known yet, from {taken}"
        return f"two measurements of the same thing differ by up to {floor:.1%} on this device today, from {taken}"

    def _against_itself(self, own: bool = False) -> list[Estimate]:
        """The A/A estimates to judge by: one that was disturbed says something only where no other is known.

        A single A/A under load was seen at 2.10; pooled with forty others it would have hidden every gain of the day.
        """
        whose = (True,) if own else (True, False)
        calm, disturbed = ([x for is_own in whose for x in self._equal.get((d, is_own), ())] for d in (False, True))
        return calm or disturbed

    def _doubled(self, own: bool) -> Spread | None:
        """What A/A says of recipes, worth little; it is taken at many moments, so it holds what moves between them."""
        alone = _spread_around_zero(self._against_itself(own))
        sd = RECIPES_MOVE_MORE / math.sqrt(1 + MOMENT) * (alone.sd if alone else 0.0)
        return alone and replace(alone, sd=sd, degrees=min(alone.degrees, OTHERS_TRUST))

    @property
    def _repeated(self) -> int:
        return sum(len(group) > 1 for measured in self._recipes.values() for group in measured.values())

    @property
    def _of_device(self) -> Spread | None:
        return _spread_around_zero(self._against_itself())

    def _between(self, recipe: Recipe, used: Sequence[bool]) -> Spread | None:
        """The spread of one process by these recipes; what the recipe's own final says by itself is left to it."""
        taken = [measured for counts, measured in zip(used, self._recipes.values(), strict=True) if counts]
        groups = [[_logs(group) for group in measured.values()] for measured in taken]
        finals = (one for measured in taken for group in measured.values() if len(group) > 1 for one in group)
        spread = spread_of_recipes(groups, [standard_error(one) for one in finals], MOMENT)
        own = self._recipes.get(_of_this_run(recipe), {}).get(FINAL, [])
        return spread and without(spread, _logs(own))

    def _take_equal(self, trial_id: str, own: bool, estimates: list[Estimate], flagged: bool) -> None:
        good = [one for one in estimates if is_positive(one)]
        self._equal.setdefault((flagged, own), []).extend(good)
        self.trial_ids.extend([trial_id] if good else [])

    def _take_recipe(
        self, trial_id: str, whose: tuple[bool, str, str], estimates: list[Estimate], measured: str = ""
    ) -> None:
        good = [one for one in estimates if is_positive(one)]
        if good:
            self._recipes.setdefault(whose, {})[measured or trial_id] = good
            self.trial_ids.extend([trial_id] if trial_id else [])


def _spread_around_zero(equal: Sequence[Estimate]) -> Spread | None:
    return spread_of([], _logs(equal), [standard_error(one) for one in equal])


def _of_this_run(recipe: Recipe) -> tuple[bool, str, str]:
    return True, "", recipe.key


def moment_of(recipe: Recipe) -> float:
    """What `combine_rounds` takes for the recipe: two equal models share the luck of their minutes."""
    return 0.0 if recipe.is_baseline else MOMENT


def _enough(spread: Spread | None) -> Spread | None:
    return spread if spread is not None and spread.degrees >= FEWEST_DEGREES else None


def _logs(estimates: Iterable[Estimate]) -> list[float]:
    return [math.log(one.value) for one in estimates]


def _speed_of_row(row: Mapping[str, Any]) -> Estimate:
    return Estimate.from_json({"value": row["speed"], "low": row["speed_low"], "high": row["speed_high"]})
