"""Timing two models side by side until the ratio is known well enough.

On a shared machine the same model differs from itself by 20 % when it is timed in two separate stretches, and by 1.6 %
when the two are interleaved; so every block is ABBA (then BAAB): baseline, candidate, candidate, baseline. Inputs are
new for every pair and are made before the clock starts, both models get the same values in memory of their own, the
garbage collector is off inside a block, and the answers are compared after the clock of each block has stopped.
What a process reads once at its start changes both models in it, so then the untouched one is timed by a
`BaselineClock` in another process: in turn all the same, never both at once.
The clock is captured when this file is imported, before any model's code runs.
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from hybrid_core.measurement.blocks import BlockLog
from hybrid_core.measurement.case import Case, synchronize
from hybrid_core.measurement.conditions import condition_warnings, device_readings, summarize
from hybrid_core.measurement.nested import clone_tensors, snapshot
from hybrid_core.measurement.processor import add_readings
from hybrid_core.measurement.sampling import checked_calls, choose_call, take_sample
from hybrid_core.measurement.statistics import drift, log_ratios, relative_spread
from hybrid_core.measurement.stop_rule import StopRule
from hybrid_core.measurement.telemetry import NoTelemetry, Telemetry
from hybrid_core.records import MeasureLimits

clock_ns = time.perf_counter_ns

MIN_SAMPLE_MS = 1.0
MAX_REPEATS = 32
WARM_UP_CALLS = 10
WARM_UP_AGREEMENT = 0.05
WARM_UP_CAP_S = 2.0
_LARGE_DRIFT = 0.10
_LARGE_SPREAD = 0.10

# Gets (baseline output, candidate output) of a call after the pair's clock stopped; raises when they disagree.
Check = Callable[[Any, Any], None]


class BaselineClock(Protocol):
    """The untouched model in a process without the candidate's start variables, timed there by `checked_sample`."""

    def sample(self, seed: int, repeats: int) -> float:
        """Milliseconds per call on the inputs that belong to the seed; raises `MeasurementFailed` when it cannot."""
        ...

    def reading(self) -> dict[str, Any]:
        """What the processors did there since the last call, as `Telemetry.read` says it here."""
        ...

    def pid(self) -> int:
        """That process, which is no foreign one."""
        ...

    def facts(self) -> dict[str, Any]:
        """What belongs beside the figures: how that process differs, its peak resident set."""
        ...


@dataclass(frozen=True)
class Race:
    """The two runners and the track: what every timing function needs."""

    case: Case
    baseline: nn.Module
    candidate: nn.Module
    check: Check
    telemetry: Telemetry = field(default_factory=NoTelemetry)
    clock: Callable[[], int] = clock_ns
    baseline_clock: BaselineClock | None = None
    # Gets (the baseline's inputs, the candidate's) of a compared call, as both models left them.
    check_inputs: Check = lambda baseline, candidate: None
    # Where the untouched model gives its answers in one buffer, only the last of a sample can be compared.
    only_last: bool = False


@dataclass(frozen=True)
class Timing:
    """Raw pairs in ms per call and how they came about."""

    pairs_ms: tuple[tuple[float, float], ...]
    repeats: int
    stop_reason: str
    warnings: tuple[str, ...]
    telemetry: tuple[dict[str, Any], ...] = ()
    conditions: dict[str, Any] = field(default_factory=dict)


def time_first_call(case: Case, model: nn.Module, inputs: Any) -> tuple[float, Any]:
    """Seconds of the first call (the compile cost) and its output."""
    synchronize(case.device)
    started = clock_ns()
    with torch.inference_mode():
        output = case.call(model, inputs)
    synchronize(case.device)
    return (clock_ns() - started) / 1e9, output


def warm_up(race: Race, limits: MeasureLimits, calls_made: int = 0) -> tuple[int, tuple[str, ...]]:
    """Call both models until three blocks agree; returns how often a sample repeats a call, and warnings.

    `calls_made` of each model (first call and correctness) count towards the ten that are the least.
    """
    generator = race.case.generator("warmup")
    cap_s = min(WARM_UP_CAP_S, limits.max_timed_s / 2)
    started, repeats = race.clock(), 1
    blocks: list[list[float]] = []
    while (race.clock() - started) / 1e9 < cap_s:
        block = _block(race, generator, repeats, flip=bool(len(blocks) % 2))
        blocks.append([sum(times) / 2 for times in zip(*block, strict=True)])
        if len(blocks) == 1:
            repeats = repeats_for(min(blocks[0]))
        if calls_made + len(blocks) * 2 >= WARM_UP_CALLS and len(blocks) >= 3 and _agree(blocks[-3:]):
            return repeats, ()
    repeats = repeats_for(min(blocks[-1])) if blocks else 1
    reason = f"the last three warm-up blocks did not agree within {WARM_UP_AGREEMENT:.0%}"
    calls = f"{len(blocks) * 2} samples of each model"
    return repeats, (f"warm-up stopped at its limit of {cap_s:g} s after {calls}: {reason}",)


def take_pairs(race: Race, limits: MeasureLimits, repeats: int, seed: int) -> Timing:
    """Blocks of two pairs until the interval is narrow, or a limit is met; the stop reason says which."""
    generator = race.case.generator("timing")
    pairs: list[tuple[float, float]] = []
    # The first reading takes away what was watched while warming up, and belongs to no block.
    rule, log = StopRule(limits, seed), BlockLog(limits, race.case.threads, first=_reading(race))
    before, started = race.telemetry.census(), race.clock()
    while not (stop := rule.reason(pairs, elapsed_s := (race.clock() - started) / 1e9)):
        block = _block(race, generator, repeats, flip=bool(len(pairs) // 2 % 2))
        if not log.takes_again(_reading(race), elapsed_s):
            pairs.extend(block)
    noise = _noise_warnings(pairs)
    facts = summarize(log, before, race.telemetry.census(), _own_processes(race), noise)
    warnings = (*noise, *condition_warnings(log, facts))
    return Timing(tuple(pairs), repeats, stop, warnings, device_readings(log.kept), facts)


def _reading(race: Race) -> dict[str, Any]:
    """What was watched since the last call; two processes that take turns are one runner."""
    here = race.telemetry.read()
    return here if race.baseline_clock is None else add_readings(here, race.baseline_clock.reading())


def _own_processes(race: Race) -> frozenset[int]:
    return frozenset((os.getpid(), *([race.baseline_clock.pid()] if race.baseline_clock else [])))


def repeats_for(call_ms: float) -> int:
    """How many calls one sample needs so that it lasts about a millisecond and the clock's noise vanishes in it.

    >>> repeats_for(50.0), repeats_for(0.3), repeats_for(0.001)
    (1, 4, 32)
    """
    return min(MAX_REPEATS, max(1, -int(-MIN_SAMPLE_MS // max(call_ms, 1e-6))))


def _block(race: Race, generator: torch.Generator, repeats: int, *, flip: bool) -> list[tuple[float, float]]:
    """One ABBA block (BAAB when `flip`): two pairs of (baseline ms, candidate ms), checked after the clock stopped."""
    if race.baseline_clock is not None:
        return [_pair_apart(race, race.baseline_clock, generator, repeats, first) for first in (flip, not flip)]
    return [_pair(race, generator, repeats, candidate_first) for candidate_first in (flip, not flip)]


def _pair(race: Race, generator: torch.Generator, repeats: int, candidate_first: bool) -> tuple[float, float]:
    """(baseline ms, candidate ms) on equal inputs; the answers and inputs of the same calls are compared afterwards."""
    inputs = [race.case.fresh_inputs(generator) for _ in range(repeats)]
    copies = [clone_tensors(values) for values in inputs]
    # Whoever comes first gets the originals, so that what was written last helps neither model always.
    given, left = (copies, inputs) if candidate_first else (inputs, copies)
    chosen = choose_call(repeats, only_last=race.only_last)
    with _collector_off(), race.telemetry.watching():
        if candidate_first:
            candidate_ms, found = take_sample(race.case, race.candidate, left, race.clock, chosen)
        baseline_ms, expected = take_sample(race.case, race.baseline, given, race.clock, chosen)
        if not candidate_first:
            candidate_ms, found = take_sample(race.case, race.candidate, left, race.clock, chosen)
    for call, answer, got in zip(checked_calls(repeats, chosen), expected, found, strict=True):
        race.check(answer, got)
        race.check_inputs(given[call], left[call])
    return baseline_ms, candidate_ms


def _pair_apart(
    race: Race, elsewhere: BaselineClock, generator: torch.Generator, repeats: int, candidate_first: bool
) -> tuple[float, float]:
    """A pair of (baseline ms, candidate ms), the first from the other process, on equal inputs."""
    seed = int(torch.randint(2**62, (), generator=generator))
    if candidate_first:
        candidate_ms = checked_sample(race, seed, repeats)
        return elsewhere.sample(seed, repeats), candidate_ms
    return elsewhere.sample(seed, repeats), checked_sample(race, seed, repeats)


def checked_sample(race: Race, seed: int, repeats: int) -> float:
    """Milliseconds per call of the candidate on the seed's inputs; afterwards its answer is compared.

    Of two processes that take turns, each finds the caches as the other left them; an untimed call on inputs of its
    own puts both sides into the state of a model that is called again and again.
    """
    generator = torch.Generator().manual_seed(seed)
    first, *inputs = [race.case.fresh_inputs(generator) for _ in range(repeats + 1)]
    chosen = choose_call(repeats, only_last=race.only_last)
    again = [clone_tensors(inputs[call]) for call in checked_calls(repeats, chosen)]
    with _collector_off(), torch.inference_mode():
        race.case.call(race.candidate, first)
        with race.telemetry.watching():
            milliseconds, found = take_sample(race.case, race.candidate, inputs, race.clock, chosen)
        expected = [snapshot(race.case.call(race.baseline, values)) for values in again]
    for answer, got in zip(expected, found, strict=True):
        race.check(answer, got)
    return milliseconds


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _agree(blocks: list[list[float]]) -> bool:
    return all(max(times) <= min(times) * (1 + WARM_UP_AGREEMENT) for times in zip(*blocks, strict=True))


def _noise_warnings(pairs: list[tuple[float, float]]) -> list[str]:
    warnings = []
    moved = drift([baseline for baseline, _ in pairs])
    spread = relative_spread([baseline for baseline, _ in pairs])
    if abs(moved) > _LARGE_DRIFT:
        direction = "slower" if moved > 0 else "faster"
        warnings.append(f"the untouched model itself became {abs(moved):.0%} {direction} during the timed phase")
    if spread > _LARGE_SPREAD:
        middle = statistics.median(baseline for baseline, _ in pairs)
        warnings.append(f"single times of the untouched model spread by {spread:.0%} around {middle:.3g} ms")
    if len(pairs) and abs(float(log_ratios(pairs).mean() - _median_log(pairs))) > _LARGE_SPREAD:
        warnings.append("mean and median of the ratios differ by more than 10 %: some pairs were disturbed")
    return warnings


def _median_log(pairs: list[tuple[float, float]]) -> float:
    return float(statistics.median(log_ratios(pairs).tolist()))
