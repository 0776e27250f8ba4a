"""How far two measurements of the same thing differ between processes, on this device, today and in this run.

A process that measured 2 % may find 2 % more when it is started again, so one process tells less than its own interval
says. What the untouched model against itself (A/A) and the repeated finals of the last day showed, and what this run
adds, is pooled into one spread; it widens what single processes measured and is the noise floor of the verdicts.
A final of several processes is joined by what repeated finals showed, and not by A/A: two equal models share the luck
of their process, so A/A moves less than recipes do (1.3 % against 3 % on one machine, 3.1 % against 5.9 % on another)
and would make a final look too sure. Where no finals are known, twice the A/A spread is the least that is believed: two
processes that happen to agree say little, and a published 1.220 (1.199 to 1.243) was 1.257 and 1.247 when repeated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hybrid_core.fitness import SMALLEST_NOISE_FLOOR
from hybrid_core.measurement.conditions import is_flagged
from hybrid_core.measurement.rounds import TRUST, Spread, noise_floor, spread_of, standard_error, widen
from hybrid_core.records import Estimate, Measurement, Recipe, Trial

# With fewer degrees of freedom the quantile of t is so large that an interval says more about it than about the device.
FEWEST_DEGREES = 3
# Where this much is known of the day, one A/A measurement of a run's own model is enough.
ENOUGH_DEGREES = TRUST
RECIPES_MOVE_MORE = 2.0
ROUNDS, BETWEEN = "rounds", "between_processes"


class Noise:
    """The A/A results and repeated finals of a device; rows of the `noise` query at first, then the run's own."""

    def __init__(self, day: Sequence[Mapping[str, Any]] = ()) -> None:
        self._undisturbed: list[Estimate] = []
        self._disturbed: list[Estimate] = []
        self._repeated: list[list[Estimate]] = []
        self.trial_ids: list[str] = []
        for row in day:
            rounds = [_round_estimate(entry) for entry in row["rounds"] or ()]
            is_baseline, estimates = row["recipe_key"] == Recipe().key, rounds or [_speed_of_row(row)]
            self._take(str(row["trial_id"]), is_baseline, estimates, bool(row.get("flagged")))

    def learn(self, trial: Trial) -> None:
        """Take in a trial of this run: every A/A, and every recipe that was measured in several processes."""
        if trial.measurement is not None and trial.is_ok:
            estimates, flagged = estimates_of(trial.measurement), is_flagged(trial.measurement.environment)
            self._take(trial.trial_id, trial.recipe.is_baseline, estimates, flagged)

    @property
    def spread(self) -> Spread | None:
        """Everything pooled, however little it is."""
        return self._pooled(self._against_itself)

    @property
    def known(self) -> Spread | None:
        """The spread where enough is known to judge by it."""
        return _enough(self.spread)

    @property
    def of_recipes(self) -> Spread | None:
        """The spread of repeated finals alone, where enough of them are known."""
        return _enough(self._pooled(()))

    @property
    def least_of_recipes(self) -> Spread | None:
        """The spread that a recipe has at least, by A/A; None where repeated finals say more, or A/A too little."""
        alone = spread_of([], _logs(self._against_itself), [standard_error(one) for one in self._against_itself])
        known = None if self.of_recipes is not None else _enough(alone)
        return known and replace(known, sd=RECIPES_MOVE_MORE * known.sd)

    def floor(self, rounds: int = 1) -> float | None:
        """The |ratio - 1| that an A/A over as many processes stays below; None where too little is known."""
        known = self.known
        return None if known is None else max(SMALLEST_NOISE_FLOOR, noise_floor(known, rounds))

    @property
    def is_well_known(self) -> bool:
        """True when one more A/A measurement would change little."""
        return (spread := self.spread) is not None and spread.degrees >= ENOUGH_DEGREES

    def widened(self, trial: Trial) -> Trial:
        """A trial of one process with the interval that another process would land in; a second time changes nothing.

        The interval inside the process can be computed again from the raw pairs.
        """
        known, measured = self.known, trial.measurement
        if known is None or measured is None or BETWEEN in measured.environment or not usable(measured):
            return trial
        least = None if trial.recipe.is_baseline else self.least_of_recipes
        speed = outer([widen(measured.speed_improvement, spread) for spread in (known, least) if spread is not None])
        return replace(trial, measurement=with_speed(measured, speed, least or known))

    def to_event(self) -> dict[str, Any]:
        """What the run used, JSON-able, with the sentence for a person."""
        spread = self.spread
        return {
            "sd": spread.sd if spread else None,
            "degrees": spread.degrees if spread else 0,
            "floor": self.floor(),
            "against_itself": len(self._against_itself),
            "repeated": len(self._repeated),
            "trials": list(self.trial_ids),
            "sentence": self.sentence(),
        }

    def sentence(self) -> str:
        """How far two measurements of the same thing differ here, and on how many it rests."""
        count, floor = len(self._against_itself), self.floor()
        taken = f"{count} A/A measurement{'' if count == 1 else 's'}"
        if self._repeated:
            taken += f" and {len(self._repeated)} repeated final{'' if len(self._repeated) == 1 else 's'}"
        if floor is None:
            return f"how far two processes that measure the same thing differ here is not known yet, from {taken}"
        return f"two measurements of the same thing differ by up to {floor:.1%} on this device today, from {taken}"

    @property
    def _against_itself(self) -> list[Estimate]:
        """The A/A estimates to judge by: one that was disturbed says something only where no other is known.

        A single A/A under load was seen at 2.10; pooled with forty others it would have hidden every gain of the day.
        """
        return self._undisturbed or self._disturbed

    def _pooled(self, against_itself: Sequence[Estimate]) -> Spread | None:
        everything = [*against_itself, *(one for group in self._repeated for one in group)]
        groups = [_logs(group) for group in self._repeated]
        return spread_of(groups, _logs(against_itself), [standard_error(one) for one in everything])

    def _take(self, trial_id: str, is_baseline: bool, estimates: list[Estimate], flagged: bool) -> None:
        good = [one for one in estimates if is_positive(one)]
        if is_baseline and good:
            (self._disturbed if flagged else self._undisturbed).extend(good)
        elif len(good) > 1:
            self._repeated.append(good)
        else:
            return
        self.trial_ids.append(trial_id)


def estimates_of(measurement: Measurement) -> list[Estimate]:
    """The speed as each process of a trial found it, by its own interval."""
    rounds = measurement.environment.get(ROUNDS)
    return [_round_estimate(entry) for entry in rounds] if rounds else [measurement.speed_improvement]


def with_speed(measurement: Measurement, speed: Estimate, known: Spread | None, **facts: Any) -> Measurement:
    """The measurement with another interval of its speed, and what that rests on; a doubtful gain earns nothing back.

    A break-even count is a promise of a gain, so it stays only where the whole interval is one.
    """
    between = {"sd": known.sd if known else None, "degrees": known.degrees if known else 0, **facts}
    return replace(
        measurement,
        speed_improvement=speed,
        break_even_calls=measurement.break_even_calls if speed.low > 1.0 else None,
        environment={**measurement.environment, BETWEEN: between},
    )


def outer(estimates: Sequence[Estimate]) -> Estimate:
    """The first one with the ends of all of them.

    >>> outer([Estimate(1.2, 1.1, 1.3), Estimate(1.2, 1.15, 1.4)])
    Estimate(value=1.2, low=1.1, high=1.4)
    """
    return replace(estimates[0], low=min(one.low for one in estimates), high=max(one.high for one in estimates))


def usable(measurement: Measurement) -> bool:
    """True when the speed has a logarithm and an interval."""
    return is_positive(measurement.speed_improvement)


def is_positive(estimate: Estimate) -> bool:
    """True for a ratio with a finite interval above 0."""
    return all(math.isfinite(x) and x > 0 for x in (estimate.value, estimate.low, estimate.high))


def _enough(spread: Spread | None) -> Spread | None:
    return spread if spread is not None and spread.degrees >= FEWEST_DEGREES else None


def _logs(estimates: Iterable[Estimate]) -> list[float]:
    return [math.log(one.value) for one in estimates]


def _round_estimate(entry: Mapping[str, Any]) -> Estimate:
    return Estimate.from_json({"value": entry["ratio"], "low": entry["low"], "high": entry["high"]})


def _speed_of_row(row: Mapping[str, Any]) -> Estimate:
    return Estimate.from_json({"value": row["speed"], "low": row["speed_low"], "high": row["speed_high"]})
