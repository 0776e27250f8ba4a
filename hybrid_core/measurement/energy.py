"""Energy per call on a GPU: each model alone for seconds, in a pass of its own after the timed phase.

The card counts the energy it used, but refreshes the count only a few times a second, so a timed block is far too
short for it; power read once a second would miss short calls. Each model is called again and again for whole seconds,
with the inputs made before, and the difference of the counter is shared out over the calls. It is the energy of the
whole card, with what it draws when idle. Source: NVML API reference, "nvmlDeviceGetTotalEnergyConsumption".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from hybrid_core.measurement.case import Case, synchronize
from hybrid_core.measurement.nested import clone_tensors

SECONDS_EACH = 2.0
INPUTS_EACH = 16  # in turn: twice as many as the setting that remembers answers keeps, so that it finds none
_clock = time.perf_counter  # taken at import, before a model's code can patch it


@runtime_checkable
class EnergyCounter(Protocol):
    """A device that counts the energy it uses."""

    def energy_mj(self) -> int | None:
        """Millijoules since some moment; None where this card does not count."""
        ...


def measure_energy(
    case: Case,
    baseline: nn.Module,
    candidate: nn.Module,
    counter: object,
    *,
    seconds: float = SECONDS_EACH,
    clock: Callable[[], float] = _clock,
) -> dict[str, Any]:
    """Joules per call of both models for `environment["energy"]`, or the reason why there are none."""
    if not isinstance(counter, EnergyCounter):
        where = "a CPU" if case.device.type != "cuda" else "this GPU, whose management library does not answer,"
        return {"reason": f"n/a: {where} does not count the energy it uses"}
    if counter.energy_mj() is None:
        return {"reason": "n/a: this GPU does not count the energy it uses (cards before Volta do not)"}
    inputs = [case.fresh_inputs(case.generator(f"energy {turn}")) for turn in range(INPUTS_EACH)]
    measured = [_joules(case, model, inputs, counter, seconds, clock) for model in (baseline, candidate)]
    (baseline_j, baseline_calls, baseline_s), (candidate_j, candidate_calls, candidate_s) = measured
    if baseline_j <= 0 or candidate_j <= 0:
        return {"reason": f"n/a: the energy counter stood still for {seconds:g} s of calls"}
    return {
        "baseline_j_per_call": baseline_j / baseline_calls,
        "candidate_j_per_call": candidate_j / candidate_calls,
        "efficiency": (baseline_j / baseline_calls) / (candidate_j / candidate_calls),
        "baseline_watts": baseline_j / baseline_s,
        "candidate_watts": candidate_j / candidate_s,
        "baseline_calls": baseline_calls,
        "candidate_calls": candidate_calls,
        "seconds": baseline_s + candidate_s,
    }


def _joules(
    case: Case,
    model: nn.Module,
    inputs: list[Any],
    counter: EnergyCounter,
    seconds: float,
    clock: Callable[[], float],
) -> tuple[float, int, float]:
    """(joules, calls, seconds) of one model alone; waiting after every call keeps the queue from running ahead."""
    with torch.inference_mode():
        fresh = [clone_tensors(values) for values in inputs]
        case.call(model, clone_tensors(inputs[0]))
        synchronize(case.device)
        before_mj, started, calls = counter.energy_mj(), clock(), 0
        while (passed := clock() - started) < seconds or calls == 0:
            case.call(model, fresh[calls % len(fresh)])
            synchronize(case.device)
            calls += 1
        after_mj = counter.energy_mj()
    return ((after_mj or 0) - (before_mj or 0)) / 1000, calls, passed
