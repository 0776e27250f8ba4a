"""What a measure process says about time, held against this side's own clock.

A process whose clock was tampered with, or that makes its figures up, can still not change how long we waited for it.
Each phase is announced as it begins, so its seconds are known here too; they may differ by a tenth and what a busy
machine delays a message. The timed pairs together cannot have taken longer than the phase in which they were taken.
There is no lower bound for their sum: between two samples inputs are made, answers compared and processors left to
cool, in an amount that only the process knows; a clock that runs slow shows in the phases, which hold all of it.
Such a measurement is "unstable": neither model was found wrong, the figures cannot be used, and it may be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from hybrid_core.records import Measurement, Outcome, Trial

ALLOWED_SHARE = 0.10
# A message may wait that long for this side on a busy machine, and phases may be shorter than that.
ALLOWED_S = 1.0
TIMED_PHASE = "timing"


def judged(trial: Trial, observed_s: Mapping[str, float]) -> Trial:
    """The trial, without its measurement where its claims about time cannot be true.

    `observed_s` are the seconds of each phase between two messages, by this side's clock.
    """
    if trial.outcome is not Outcome.OK or trial.measurement is None:
        return trial
    fault = times_fault(trial.measurement) or clock_fault(trial, trial.measurement, observed_s)
    if not fault:
        return trial
    return replace(trial, outcome=Outcome.UNSTABLE, reason=fault, stage=TIMED_PHASE, measurement=None)


def times_fault(measurement: Measurement) -> str:
    """A timed pair that is no pair of times, as a sentence; empty when all are."""
    if not measurement.pairs_ms:
        return "its times are rejected: it says it was measured, but gives no timed pair"
    for number, pair in enumerate(measurement.pairs_ms, 1):
        if len(pair) != 2 or not all(isinstance(ms, int | float) and math.isfinite(ms) and ms > 0 for ms in pair):
            words = " and ".join(f"{ms!r:.20}" for ms in pair)
            return f"its times are rejected: pair {number} of {len(measurement.pairs_ms)} is {words} ms"
    return ""


def clock_fault(trial: Trial, measurement: Measurement, observed_s: Mapping[str, float]) -> str:
    """How its clock disagrees with ours, as a sentence; empty when it does not."""
    for phase, claimed in trial.phases_s.items():
        seen = observed_s.get(phase, 0.0)
        if not abs(claimed - seen) <= ALLOWED_SHARE * seen + ALLOWED_S:
            return f"its clock disagrees with the parent's: {phase} took {claimed:.1f} s there and {seen:.1f} s here"
    calls = measurement.environment.get("calls_per_sample", 1)
    calls = calls if isinstance(calls, int) and calls > 0 else 1
    claimed = calls * sum(sum(pair) for pair in measurement.pairs_ms) / 1000
    seen = observed_s.get(TIMED_PHASE, 0.0)
    if claimed > (1 + ALLOWED_SHARE) * seen + ALLOWED_S:
        pairs = f"its {len(measurement.pairs_ms)} timed pairs add up to {claimed:.1f} s"
        return (
            f"its clock disagrees with the parent's: {pairs}, but the phase they were taken in lasted {seen:.1f} s here"
        )
    return ""
