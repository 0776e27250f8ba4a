"""The speed of a trial: as each of its processes found it, and with the interval that other processes land in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hybrid_core.measurement.rounds import Spread
from hybrid_core.records import Estimate, Measurement

ROUNDS, BETWEEN = "rounds", "between_processes"


def estimates_of(measurement: Measurement) -> list[Estimate]:
    """The speed as each process of a trial found it, by its own interval."""
    rounds = measurement.environment.get(ROUNDS)
    return [estimate_of_round(entry) for entry in rounds] if rounds else [measurement.speed_improvement]


def with_speed(measurement: Measurement, speed: Estimate, known: Spread | None, **facts: Any) -> Measurement:
    """The measurement with another interval of its speed, and what that rests on; a doubtful gain earns nothing back.

    A break-even count is a promise of a gain, so it stays only where the whole interval is one.
    """
    spread = {"sd": known.sd, "degrees": known.degrees, "source": known.source} if known else {"sd": None, "degrees": 0}
    between = {**spread, **facts}
    return replace(
        measurement,
        speed_improvement=speed,
        break_even_calls=measurement.break_even_calls if speed.low > 1.0 else None,
        environment={**measurement.environment, BETWEEN: between},
    )


def estimate_of_round(entry: Mapping[str, Any]) -> Estimate:
    """What one process of a trial found, by its entry under `environment["rounds"]`."""
    return Estimate.from_json({"value": entry["ratio"], "low": entry["low"], "high": entry["high"]})


def usable(measurement: Measurement) -> bool:
    """True when the speed has a logarithm and an interval."""
    return is_positive(measurement.speed_improvement)


def is_positive(estimate: Estimate) -> bool:
    """True for a ratio with a finite interval above 0."""
    return all(math.isfinite(x) and x > 0 for x in (estimate.value, estimate.low, estimate.high))
