"""The two models of one trial, what was found out about them so far, and the refusals every phase may need.

A candidate is condemned by raising `MeasurementFailed` with the outcome "wrong" and the phase; an untouched model that
is itself unfit to be compared with is the caller's business and raises `InvalidInput`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hybrid_core.errors import InvalidInput, MeasurementFailed
from hybrid_core.measurement import guards, memory
from hybrid_core.measurement.case import Case
from hybrid_core.measurement.compiling import CompileCounts
from hybrid_core.measurement.correctness import Comparison, Tolerance, compare_outputs, nan_fault
from hybrid_core.measurement.nested import tensor_leaves
from hybrid_core.measurement.process_memory import AskProcess, Stretch, watched
from hybrid_core.measurement.process_state import process_state, state_fault
from hybrid_core.measurement.roofline import Roofline
from hybrid_core.records import MeasureLimits, Outcome


@dataclass(frozen=True)
class Change:
    """What is done to the candidate: the transformation, whether it may only round, whether it promises compiling.

    `decisions` is filled by applying: what methods decided by measuring, kept with the figures that belong to it.
    """

    apply: Callable[[nn.Module, tuple[Any, ...]], tuple[nn.Module, tuple[str, ...]]]
    exact: bool
    compiles: bool
    decisions: dict[str, Any] = field(default_factory=dict)


@dataclass
class Contest:
    """What the phases find out, filled from the first to the last."""

    case: Case
    change: Change
    limits: MeasureLimits
    baseline: nn.Module
    baseline_parts: dict[str, Any]
    baseline_held: int
    baseline_first_call_s: float
    census: memory.Storages
    counts: CompileCounts
    candidate: nn.Module
    changes: tuple[str, ...] = ()
    first_call_s: float = 0.0
    # Transforming and the first call together: what later calls must earn back.
    preparation_s: float = 0.0
    first_counts: CompileCounts = field(default_factory=CompileCounts)
    # As the clock was about to start.
    warm_counts: CompileCounts = field(default_factory=CompileCounts)
    # The first call alone.
    call_s: float = 0.0
    # What the process took of memory: the untouched model's first call; the candidate's transformation and first call.
    cold: dict[str, Stretch] = field(default_factory=dict)
    ask_process: AskProcess = lambda: None
    roofline: Roofline | None = None
    noise: float = 0.0
    # How large the untouched model's outputs of few values usually are, by path (see `Tolerance`).
    usual: dict[str, float] = field(default_factory=dict)
    seeds: int = 0
    # The process as it was before any code of the candidate ran.
    state: dict[str, Any] = field(default_factory=dict)
    # Memory that only the untouched model has, by address.
    private: dict[int, torch.UntypedStorage] = field(default_factory=dict)
    # What the untouched model does to the process and its inputs ("inputs"), and the parts of itself that it changes.
    allowed: frozenset[str] = frozenset()
    drifting: frozenset[str] = frozenset()
    # It gives its answers in one buffer, so an earlier answer of it is gone.
    reuses_outputs: bool = False
    errors: Comparison = field(default_factory=Comparison)
    warnings: list[str] = field(default_factory=list)

    @property
    def tolerance(self) -> Tolerance:
        """What may differ between the two models' answers."""
        return Tolerance(self.change.exact, self.noise, self.usual)

    def answer(self, model: nn.Module, inputs: Any) -> Any:
        """One call of the workload, without gradients."""
        with torch.inference_mode():
            return self.case.call(model, inputs)

    def watched(self) -> AbstractContextManager[Stretch]:
        """Watch what a stretch of work takes of the process's memory."""
        return watched(self.case.device, self.ask_process)

    def compare(self, expected: Any, got: Any, stage: str) -> None:
        """Record how far an answer is off, and refuse the candidate where it is wrong."""
        comparison = compare_outputs(expected, got, self.tolerance)
        self.errors = self.errors.worst(comparison)
        refuse(comparison.fault, stage)

    def compare_timed(self, expected: Any, got: Any) -> None:
        """`compare` for an answer from the timed phase, where settings are looked at too."""
        self.refuse_changed_settings("timing")
        self.compare(expected, got, "timing")

    def compare_inputs(self, baseline: Any, candidate: Any) -> None:
        """The two models' inputs of one timed call, afterwards: they were equal before."""
        if "inputs" not in self.allowed:
            refuse(guards.mutation_fault(baseline, candidate), "timing")

    def refuse_changed_settings(self, stage: str) -> None:
        """The process must be as it was before the candidate came; what the untouched model does is free to both."""
        refuse(state_fault(self.state, process_state(with_random=False), self.allowed), stage)

    def refuse_touched_baseline(self, stage: str) -> None:
        """The untouched model must be what it was when it was built, but for what it changes itself."""
        changed = set(guards.differing(self.baseline_parts, guards.fingerprint(self.baseline))) - self.drifting
        if changed:
            what = "code" if all(name.startswith("code of ") for name in changed) else "weights"
            refuse(f"it changed the {what} of the untouched model", stage)


def refuse(fault: str, stage: str) -> None:
    """Condemn the candidate where there is a fault; an empty one passes."""
    if fault:
        raise MeasurementFailed(fault, outcome=Outcome.WRONG, stage=stage)


def refuse_bad_baseline(output: Any) -> None:
    """An untouched model without finite tensors to answer with leaves nothing to compare."""
    fault = nan_fault(output)
    if fault:
        raise InvalidInput(f"the untouched model itself gives {fault}, so nothing can be compared with it")
    if not tensor_leaves(output):
        raise InvalidInput("the untouched model returns no tensor, so nothing can be compared with it")
