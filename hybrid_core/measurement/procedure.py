"""One candidate from building to numbers: the phases in their order, each in a function of a few lines.

Correctness comes before the clock, because a fast wrong answer is worth nothing; the first call is timed apart, because
it pays for compilation; memory and quality have passes of their own on the finished candidate, because compiling a
quantized model can change its error. Whatever condemns the candidate is raised as `MeasurementFailed` with the outcome.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from hybrid_core.errors import InvalidInput, MeasurementFailed
from hybrid_core.measurement import guards, latency, memory, roofline
from hybrid_core.measurement.case import Case
from hybrid_core.measurement.checking import check_correctness, check_smaller_batch
from hybrid_core.measurement.compiling import read_counts
from hybrid_core.measurement.conditions import refuse_unstable
from hybrid_core.measurement.contest import Change, Contest, refuse, refuse_bad_baseline
from hybrid_core.measurement.energy import measure_energy
from hybrid_core.measurement.environment import load_facts, read_environment, read_load
from hybrid_core.measurement.memory_pass import measure_memory
from hybrid_core.measurement.process_memory import open_process_memory, resident_peak_bytes, watched
from hybrid_core.measurement.process_state import process_state
from hybrid_core.measurement.quality import QualityResult, measure_quality
from hybrid_core.measurement.statistics import median_of_blocks, ratio_of_pairs
from hybrid_core.measurement.telemetry import open_telemetry
from hybrid_core.measurement.timed_checks import check_race
from hybrid_core.records import Estimate, MeasureLimits, Measurement, Outcome, Quality

PHASES = ("build", "transform", "compile", "correctness", "warmup", "timing", "memory", "quality")


def measure(
    case: Case,
    change: Change,
    limits: MeasureLimits,
    enter: Callable[[str], None],
    baseline_clock: latency.BaselineClock | None = None,
) -> Measurement:
    """Run every phase, announcing each by `enter(name)` first.

    `baseline_clock` times the untouched model in a process of its own, where the recipe needs variables that a process
    reads at its start; all but the timing stays here.

    Raises:
        MeasurementFailed: the candidate cannot be measured or is wrong.
        InvalidInput: the untouched model itself cannot be measured.
    """
    enter("build")
    example = case.fresh_inputs(case.generator("example"))
    with memory.existing_storages() as census:
        return _run_phases(_build(case, change, limits, example, census), enter, baseline_clock)


def _run_phases(
    contest: Contest, enter: Callable[[str], None], baseline_clock: latency.BaselineClock | None
) -> Measurement:
    case, limits = contest.case, contest.limits
    calls = _prepare(contest, enter)
    enter("warmup")
    race = _race(contest, baseline_clock)
    repeats, warnings = latency.warm_up(race, limits, calls)
    contest.warnings.extend(warnings)
    contest.warm_counts = read_counts()
    enter("timing")
    load = read_load()
    timing = latency.take_pairs(race, limits, repeats, case.seed)
    load_after = read_load()
    if contest.changes:  # of the untouched model against itself the width is the answer
        refuse_unstable(timing.conditions, timing.pairs_ms, limits, case.seed)
    contest.warnings.extend(timing.warnings)
    checked = check_race(contest, timing)
    environment = _environment(contest, race, timing, load_facts(load, load_after))
    environment |= checked
    environment["energy"] = measure_energy(case, contest.baseline, contest.candidate, race.telemetry)
    enter("memory")
    baseline_memory, candidate_memory, environment["memory"] = measure_memory(contest)
    enter("quality")
    judged = _measure_quality(contest)
    environment["quality"] = judged.facts
    environment["smaller_batch"] = check_smaller_batch(contest)
    contest.refuse_changed_settings("quality")
    contest.refuse_touched_baseline("quality")
    return _measurement(
        contest, timing, baseline_memory, candidate_memory, judged.quality, judged.preservation, environment
    )


def prepare_untouched(case: Case, limits: MeasureLimits) -> latency.Race:
    """What a process that stands for the baseline of another one does: all that is done before the clock, unchanged.

    How often an allocator asks the system for memory depends on all that a process did before. An untouched copy in
    the candidate's place, taken through the same phases, makes the two processes differ in their variables only.
    """
    untouched = Change(lambda model, example: (model, ()), exact=True, compiles=False)
    example = case.fresh_inputs(case.generator("example"))
    with memory.existing_storages() as census:
        contest = _build(case, untouched, limits, example, census)
        _prepare(contest, lambda phase: None)
    return _race(contest, None)


def _prepare(contest: Contest, enter: Callable[[str], None]) -> int:
    """The phases before the clock; returns how many calls they made."""
    enter("transform")
    with contest.watched() as contest.cold["candidate"]:
        transform_s = _transform(contest)
        enter("compile")
        _first_call(contest, transform_s)
    enter("correctness")
    return check_correctness(contest)


def _build(case: Case, change: Change, limits: MeasureLimits, example: Any, census: memory.Storages) -> Contest:
    """Baseline and candidate from scratch; the baseline alone is called, and must be fit to be compared with."""
    baseline = case.build_model()
    fault = guards.training_fault(baseline)
    if fault:
        raise InvalidInput(f"{fault}, where outputs differ from call to call; call model.eval() first")
    ask_process = open_process_memory(case.device)
    with watched(case.device, ask_process) as cold:
        seconds, output = latency.time_first_call(case, baseline, example)
    refuse_bad_baseline(output)
    del output
    line = roofline.read_roofline(case)  # before any code of the candidate runs
    after = census | memory.live_storages(ignore=case.makers.kept())
    held = memory.held_bytes(baseline, census, after)
    parts = guards.fingerprint(baseline)
    contest = Contest(
        case, change, limits, baseline, parts, held, seconds, after, read_counts(), candidate=case.build_model()
    )
    contest.roofline, contest.ask_process, contest.cold["baseline"] = line, ask_process, cold
    contest.private = guards.own_storages(baseline, shared_with=contest.candidate)
    contest.state = process_state(with_random=False)
    return contest


def _transform(contest: Contest) -> float:
    """Apply the recipe to the candidate; returns the seconds it took."""
    example = contest.case.fresh_inputs(contest.case.generator("example"))
    started = time.perf_counter()
    contest.candidate, contest.changes = contest.change.apply(contest.candidate, example)
    seconds = time.perf_counter() - started
    contest.refuse_changed_settings("transform")
    contest.refuse_touched_baseline("transform")
    refuse(guards.training_fault(contest.candidate), "transform")
    return seconds


def _first_call(contest: Contest, transform_s: float) -> None:
    """Time the call that compiles; where the transformation itself compiled, its seconds belong to the cost."""
    compiled_early = read_counts().since(contest.counts).graphs > 0
    inputs = contest.case.fresh_inputs(contest.case.generator("compile"))
    seconds, _ = latency.time_first_call(contest.case, contest.candidate, inputs)
    contest.first_call_s = seconds + (transform_s if compiled_early else 0.0)
    contest.call_s, contest.preparation_s = seconds, seconds + transform_s
    contest.first_counts = read_counts().since(contest.counts)
    contest.counts = read_counts()
    contest.refuse_changed_settings("compile")
    if contest.change.compiles and contest.first_counts.graphs == 0:
        raise MeasurementFailed(
            "the compiler produced no compiled graph, so the model would have run as before; this is no win",
            outcome=Outcome.UNSUPPORTED,
            stage="compile",
        )


def _race(contest: Contest, baseline_clock: latency.BaselineClock | None) -> latency.Race:
    telemetry, warning = open_telemetry(contest.case.device)
    others = telemetry.others()
    contest.warnings.extend([warning] if warning else [])
    contest.warnings.extend([f"other processes use this GPU: {', '.join(others)}"] if others else [])
    return latency.Race(
        contest.case,
        contest.baseline,
        contest.candidate,
        check=contest.compare_timed,
        telemetry=telemetry,
        baseline_clock=baseline_clock,
        check_inputs=contest.compare_inputs,
        only_last=contest.reuses_outputs,
    )


def _environment(contest: Contest, race: latency.Race, timing: latency.Timing, load: dict[str, Any]) -> dict[str, Any]:
    example = contest.case.fresh_inputs(contest.case.generator("example"))
    return {
        **read_environment(contest.case, example),
        **load,
        **race.telemetry.facts(),
        **(race.baseline_clock.facts() if race.baseline_clock else {}),
        "order": "ABBA and BAAB blocks in turn",
        "calls_per_sample": timing.repeats,
        "baseline_noise": contest.noise,
        "exact": contest.change.exact,
        **({"decisions": contest.change.decisions} if contest.change.decisions else {}),
        "compiled_graphs": contest.first_counts.graphs,
        "compile_cache": contest.first_counts.cache,
        "telemetry": list(timing.telemetry),
        "conditions": timing.conditions,
    }


def _measure_quality(contest: Contest) -> QualityResult:
    limits = contest.limits
    judged = measure_quality(
        contest.case,
        contest.baseline,
        contest.candidate,
        limits.quality_samples,
        bound=limits.accuracy_bound,
        exact=contest.change.exact,
    )
    contest.warnings.extend(judged.warnings)
    judged.quality.details["workload_relative_error"] = contest.errors.relative_error
    return judged


def _measurement(
    contest: Contest,
    timing: latency.Timing,
    baseline_memory: memory.MemoryUse,
    candidate_memory: memory.MemoryUse,
    quality: Quality,
    preservation: Estimate,
    environment: dict[str, Any],
) -> Measurement:
    seed, pairs = contest.case.seed, timing.pairs_ms
    speed = ratio_of_pairs(pairs, seed)
    baseline_ms, candidate_ms = (median_of_blocks(times, seed) for times in zip(*pairs, strict=True))
    reserved = (baseline_memory.reserved_peak, candidate_memory.reserved_peak)
    return Measurement(
        speed_improvement=speed,
        memory_efficiency=memory.efficiency(baseline_memory, candidate_memory),
        accuracy_preservation=preservation,
        latency_ms=candidate_ms,
        baseline_latency_ms=baseline_ms,
        peak_bytes=candidate_memory.peak,
        baseline_peak_bytes=baseline_memory.peak,
        weight_bytes=candidate_memory.weights,
        baseline_weight_bytes=baseline_memory.weights,
        resident_bytes=resident_peak_bytes(),
        first_call_s=contest.first_call_s,
        baseline_first_call_s=contest.baseline_first_call_s,
        # Where nothing was changed there is no preparation that could pay for itself.
        break_even_calls=break_even_calls(contest.preparation_s, baseline_ms.value, candidate_ms.value, speed)
        if contest.changes
        else None,
        quality=quality,
        max_abs_error=contest.errors.max_abs_error,
        stop_reason=timing.stop_reason,
        pairs_ms=pairs,
        changes=contest.changes,
        warnings=tuple(contest.warnings),
        environment={**environment, **({"gpu_reserved_bytes": list(reserved)} if any(reserved) else {})},
    )


def break_even_calls(preparation_s: float, baseline_ms: float, candidate_ms: float, speed: Estimate) -> int | None:
    """Calls after which transforming and the first call are earned back; None where the candidate is not surely faster.

    >>> break_even_calls(1.006, 10.0, 6.0, Estimate(1.66, 1.6, 1.7))
    250
    """
    if speed.low <= 1.0 or candidate_ms >= baseline_ms:
        return None
    extra_ms = max(0.0, preparation_s * 1000 - candidate_ms)
    return math.ceil(round(extra_ms / (baseline_ms - candidate_ms), 6))
