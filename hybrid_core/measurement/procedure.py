"""One candidate from building to numbers: the phases in their order, each in a function of a few lines.

Correctness comes before the clock, because a fast wrong answer is worth nothing; the first call is timed apart, because
it pays for compilation; memory and quality have passes of their own on the finished candidate, because compiling a
quantized model can change its error. Whatever condemns the candidate is raised as `MeasurementFailed` with the outcome.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hybrid_core.errors import InvalidInput, MeasurementFailed
from hybrid_core.measurement import guards, latency, memory
from hybrid_core.measurement.case import Case
from hybrid_core.measurement.compiling import CompileCounts, compile_warnings, read_counts
from hybrid_core.measurement.correctness import (
    Comparison,
    Tolerance,
    compare_outputs,
    constant_fault,
    nan_fault,
    relative_error,
)
from hybrid_core.measurement.environment import load_facts, read_environment, read_load
from hybrid_core.measurement.nested import clone_tensors, tensor_leaves
from hybrid_core.measurement.quality import measure_quality
from hybrid_core.measurement.statistics import median_of_blocks, ratio_of_pairs
from hybrid_core.measurement.telemetry import open_telemetry
from hybrid_core.records import Estimate, MeasureLimits, Measurement, Outcome

PHASES = ("build", "transform", "compile", "correctness", "warmup", "timing", "memory", "quality")
CORRECTNESS_INPUTS = 3


@dataclass(frozen=True)
class Change:
    """What is done to the candidate: the transformation, whether it may only round, whether it promises compiling."""

    apply: Callable[[nn.Module, tuple[Any, ...]], tuple[nn.Module, tuple[str, ...]]]
    exact: bool
    compiles: bool


@dataclass
class _Trial:
    """What the phases find out, filled from the first to the last."""

    case: Case
    change: Change
    limits: MeasureLimits
    baseline: nn.Module
    baseline_weights: Any
    baseline_held: int
    baseline_first_call_s: float
    census: memory.Storages
    counts: CompileCounts
    candidate: nn.Module
    changes: tuple[str, ...] = ()
    first_call_s: float = 0.0
    first_counts: CompileCounts = field(default_factory=CompileCounts)
    noise: float = 0.0
    seeds: int = 0
    errors: Comparison = field(default_factory=Comparison)
    warnings: list[str] = field(default_factory=list)

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance(self.change.exact, self.noise)

    def answer(self, model: nn.Module, inputs: Any) -> Any:
        with torch.inference_mode():
            return self.case.call(model, inputs)


def measure(case: Case, change: Change, limits: MeasureLimits, enter: Callable[[str], None]) -> Measurement:
    """Run every phase, announcing each by `enter(name)` first.

    Raises:
        MeasurementFailed: the candidate cannot be measured or is wrong.
        InvalidInput: the untouched model itself cannot be measured.
    """
    enter("build")
    example = case.fresh_inputs(case.generator("example"))
    with memory.existing_storages() as census:
        return _run_phases(_build(case, change, limits, example, census), enter)


def _run_phases(trial: _Trial, enter: Callable[[str], None]) -> Measurement:
    case, limits = trial.case, trial.limits
    enter("transform")
    transform_s = _transform(trial)
    enter("compile")
    _first_call(trial, transform_s)
    enter("correctness")
    calls = _check_correctness(trial)
    enter("warmup")
    race = _race(trial)
    repeats, warnings = latency.warm_up(race, limits, calls)
    trial.warnings.extend(warnings)
    enter("timing")
    load = read_load()
    timing = latency.take_pairs(race, limits, repeats, case.seed)
    load_after = read_load()
    trial.warnings.extend(timing.warnings)
    trial.warnings.extend(compile_warnings(trial.first_counts, read_counts().since(trial.counts)))
    environment = _environment(trial, race, timing, load_facts(load, load_after))
    enter("memory")
    baseline_memory, candidate_memory = _measure_memory(trial)
    enter("quality")
    quality, preservation, warnings = measure_quality(case, trial.baseline, trial.candidate, limits.quality_samples)
    trial.warnings.extend(warnings)
    quality.details["workload_relative_error"] = trial.errors.relative_error
    _refuse_touched_baseline(trial, "quality")
    return _measurement(trial, timing, baseline_memory, candidate_memory, quality, preservation, environment)


def _build(case: Case, change: Change, limits: MeasureLimits, example: Any, census: memory.Storages) -> _Trial:
    """Baseline and candidate from scratch; the baseline alone is called, and must be fit to be compared with."""
    baseline = case.build_model()
    fault = guards.training_fault(baseline)
    if fault:
        raise InvalidInput(f"{fault}, where outputs differ from call to call; call model.eval() first")
    seconds, output = latency.time_first_call(case, baseline, example)
    _refuse_bad_baseline(output)
    del output
    after = census | memory.live_storages()
    held = memory.held_bytes(baseline, census, after)
    weights = guards.weights_fingerprint(baseline)
    return _Trial(
        case, change, limits, baseline, weights, held, seconds, after, read_counts(), candidate=case.build_model()
    )


def _refuse_bad_baseline(output: Any) -> None:
    fault = nan_fault(output)
    if fault:
        raise InvalidInput(f"the untouched model itself gives {fault}, so nothing can be compared with it")
    if not tensor_leaves(output):
        raise InvalidInput("the untouched model returns no tensor, so nothing can be compared with it")


def _transform(trial: _Trial) -> float:
    """Apply the recipe to the candidate; returns the seconds it took."""
    example = trial.case.fresh_inputs(trial.case.generator("example"))
    before = guards.process_state(with_random=False)
    started = time.perf_counter()
    trial.candidate, trial.changes = trial.change.apply(trial.candidate, example)
    seconds = time.perf_counter() - started
    _refuse(guards.state_fault(before, guards.process_state(with_random=False)), "transform")
    _refuse_touched_baseline(trial, "transform")
    _refuse(guards.training_fault(trial.candidate), "transform")
    return seconds


def _first_call(trial: _Trial, transform_s: float) -> None:
    """Time the call that compiles; where the transformation itself compiled, its seconds belong to the cost."""
    before = guards.process_state(with_random=False)
    compiled_early = read_counts().since(trial.counts).graphs > 0
    inputs = trial.case.fresh_inputs(trial.case.generator("compile"))
    seconds, _ = latency.time_first_call(trial.case, trial.candidate, inputs)
    trial.first_call_s = seconds + (transform_s if compiled_early else 0.0)
    trial.first_counts = read_counts().since(trial.counts)
    trial.counts = read_counts()
    _refuse(guards.state_fault(before, guards.process_state(with_random=False)), "compile")
    if trial.change.compiles and trial.first_counts.graphs == 0:
        raise MeasurementFailed(
            "the compiler produced no compiled graph, so the model would have run as before; this is no win",
            outcome=Outcome.UNSUPPORTED,
            stage="compile",
        )


def _check_correctness(trial: _Trial) -> int:
    """Several fresh inputs, one of them written into tensors used before; returns calls made of each model."""
    generator = trial.case.generator("correctness")
    expected: list[Any] = []
    got: list[Any] = []
    reused: Any = None
    for turn in range(CORRECTNESS_INPUTS + 1):
        inputs = trial.case.fresh_inputs(generator)
        answer, allowed = _ask_baseline(trial, inputs, is_first=turn == 0)
        if turn == CORRECTNESS_INPUTS:
            guards.refill(reused, inputs)
        else:
            reused = clone_tensors(inputs)
        expected.append(answer)
        got.append(_ask_candidate(trial, reused, answer, allowed))
    _refuse(constant_fault(expected, got), "correctness")
    _refuse_shared_buffers(trial, generator)
    return CORRECTNESS_INPUTS + 3


def _ask_baseline(trial: _Trial, inputs: Any, *, is_first: bool) -> tuple[Any, frozenset[str]]:
    """Its answer, and what it itself does to the process or its inputs, which a candidate may then do too."""
    _disturb_random_state(trial)
    before, given = guards.process_state(), clone_tensors(inputs)
    answer = clone_tensors(trial.answer(trial.baseline, given))
    allowed = set(guards.changed_settings(before, guards.process_state()))
    if guards.mutation_fault(inputs, given):
        allowed.add("inputs")
    _refuse_bad_baseline(answer)
    if is_first:
        again = trial.answer(trial.baseline, clone_tensors(inputs))
        pairs = zip(tensor_leaves(answer), tensor_leaves(again), strict=True)
        trial.noise = max((relative_error(a, b) for a, b in pairs if a.is_floating_point()), default=0.0)
        if trial.noise > 0:
            trial.warnings.append(f"the untouched model differs from itself by {trial.noise:.1e} between two calls")
    return answer, frozenset(allowed)


def _ask_candidate(trial: _Trial, inputs: Any, expected: Any, allowed: frozenset[str]) -> Any:
    _disturb_random_state(trial)
    before, kept = guards.process_state(), clone_tensors(inputs)
    answer = trial.answer(trial.candidate, inputs)
    _refuse(guards.state_fault(before, guards.process_state(), allowed), "correctness")
    if "inputs" not in allowed:
        _refuse(guards.mutation_fault(kept, inputs), "correctness")
    _compare(trial, expected, answer, "correctness")
    return clone_tensors(answer)


def _disturb_random_state(trial: _Trial) -> None:
    """A new state before every call: whoever always seeds the same way would find it as he left it."""
    trial.seeds += 1
    torch.manual_seed(trial.seeds)
    random.seed(trial.seeds)


def _refuse_shared_buffers(trial: _Trial, generator: torch.Generator) -> None:
    first, second = (trial.case.fresh_inputs(generator) for _ in range(2))
    fault = guards.aliasing_fault(lambda inputs: trial.answer(trial.candidate, inputs), first, second)
    if fault and not guards.aliasing_fault(lambda inputs: trial.answer(trial.baseline, inputs), first, second):
        _refuse(fault, "correctness")


def _compare(trial: _Trial, expected: Any, got: Any, stage: str) -> None:
    comparison = compare_outputs(expected, got, trial.tolerance)
    trial.errors = trial.errors.worst(comparison)
    _refuse(comparison.fault, stage)


def _race(trial: _Trial) -> latency.Race:
    telemetry, warning = open_telemetry(trial.case.device)
    others = telemetry.others()
    trial.warnings.extend([warning] if warning else [])
    trial.warnings.extend([f"other processes use this GPU: {', '.join(others)}"] if others else [])
    return latency.Race(
        trial.case,
        trial.baseline,
        trial.candidate,
        check=lambda expected, got: _compare(trial, expected, got, "timing"),
        telemetry=telemetry,
    )


def _environment(trial: _Trial, race: latency.Race, timing: latency.Timing, load: dict[str, Any]) -> dict[str, Any]:
    example = trial.case.fresh_inputs(trial.case.generator("example"))
    return {
        **read_environment(trial.case, example),
        **load,
        **race.telemetry.facts(),
        "order": "ABBA and BAAB blocks in turn",
        "calls_per_sample": timing.repeats,
        "baseline_noise": trial.noise,
        "exact": trial.change.exact,
        "compiled_graphs": trial.first_counts.graphs,
        "telemetry": list(timing.telemetry),
    }


def _measure_memory(trial: _Trial) -> tuple[memory.MemoryUse, memory.MemoryUse]:
    after = memory.live_storages()
    held = memory.held_bytes(trial.candidate, trial.census, after)
    inputs = trial.case.fresh_inputs(trial.case.generator("memory"))
    baseline = memory.live_peak_bytes(trial.case, trial.baseline, clone_tensors(inputs))
    candidate = memory.live_peak_bytes(trial.case, trial.candidate, clone_tensors(inputs))
    return memory.MemoryUse(trial.baseline_held, *baseline), memory.MemoryUse(held, *candidate)


def _measurement(
    trial: _Trial,
    timing: latency.Timing,
    baseline_memory: memory.MemoryUse,
    candidate_memory: memory.MemoryUse,
    quality: Any,
    preservation: Estimate,
    environment: dict[str, Any],
) -> Measurement:
    seed, pairs = trial.case.seed, timing.pairs_ms
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
        resident_bytes=memory.resident_peak_bytes(),
        first_call_s=trial.first_call_s,
        baseline_first_call_s=trial.baseline_first_call_s,
        break_even_calls=break_even_calls(trial.first_call_s, baseline_ms.value, candidate_ms.value, speed),
        quality=quality,
        max_abs_error=trial.errors.max_abs_error,
        stop_reason=timing.stop_reason,
        pairs_ms=pairs,
        changes=trial.changes,
        warnings=tuple(trial.warnings),
        environment={**environment, **({"gpu_reserved_bytes": list(reserved)} if any(reserved) else {})},
    )


def break_even_calls(first_call_s: float, baseline_ms: float, candidate_ms: float, speed: Estimate) -> int | None:
    """Calls after which the first call's extra time is earned back; None where the candidate is not surely faster.

    >>> break_even_calls(1.006, 10.0, 6.0, Estimate(1.66, 1.6, 1.7))
    250
    """
    if speed.low <= 1.0 or candidate_ms >= baseline_ms:
        return None
    extra_ms = max(0.0, first_call_s * 1000 - candidate_ms)
    return math.ceil(round(extra_ms / (baseline_ms - candidate_ms), 6))


def _refuse_touched_baseline(trial: _Trial, stage: str) -> None:
    if guards.weights_fingerprint(trial.baseline) != trial.baseline_weights:
        _refuse("it changed the weights of the untouched model", stage)


def _refuse(fault: str, stage: str) -> None:
    if fault:
        raise MeasurementFailed(fault, outcome=Outcome.WRONG, stage=stage)
