"""What is looked at once the race is over: whether the compiler stayed, and whether the work can have been done at all.

Both are refusals with figures, and both leave their facts with the measurement, also where nothing was wrong.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from hybrid_core.errors import MeasurementFailed
from hybrid_core.measurement import roofline
from hybrid_core.measurement.compiling import compile_facts, compile_warnings, fall_back_fault, read_counts
from hybrid_core.measurement.contest import Contest, refuse
from hybrid_core.measurement.latency import Timing
from hybrid_core.records import Outcome


def check_race(contest: Contest, timing: Timing) -> dict[str, Any]:
    """The entries "compile" and "roofline" of the environment; warnings go to the contest.

    Raises:
        MeasurementFailed: the compiler gave up after the first call, or the candidate is faster than physics.
    """
    return {"compile": _check_compiler(contest), "roofline": _check_physics(contest, timing)}


def _check_compiler(contest: Contest) -> dict[str, Any]:
    """Giving up after the first call makes two models out of one, and the times belong to neither."""
    counts = read_counts()
    before, timed = contest.warm_counts.since(contest.counts), counts.since(contest.warm_counts)
    fault = fall_back_fault(before, timed)
    if contest.change.compiles and fault:
        raise MeasurementFailed(fault, outcome=Outcome.UNSUPPORTED, stage="timing")
    contest.warnings.extend(compile_warnings(contest.first_counts, before, timed))
    costs = {"transform_s": contest.preparation_s - contest.call_s, "first_call_s": contest.call_s}
    return {**costs, "cache": contest.first_counts.cache, **compile_facts(contest.first_counts, before, timed)}


def _check_physics(contest: Contest, timing: Timing) -> dict[str, Any]:
    assert contest.roofline is not None, "the build phase read it"
    baseline_ms, candidate_ms = (median(times) for times in zip(*timing.pairs_ms, strict=True))
    verdict = roofline.judge(contest.roofline, baseline_ms, candidate_ms, lambda: roofline.inputs_repeat(contest.case))
    refuse(verdict.fault, "timing")
    contest.warnings.extend([verdict.warning] if verdict.warning else [])
    return verdict.facts
