"""The two models of one trial, what was found out about them so far, and the refusals every phase may need.

A candidate is condemned by raising `MeasurementFailed` with the outcome "wrong" and the phase; an untouched model that
is itself unfit to be compared with is the caller's business and raises `InvalidInput`.
"""

from __future__ import annotations

from collections.abc import Callable
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
    baseline_weights: Any
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
    noise: float = 0.0
    seeds: int = 0
    errors: Comparison = field(default_factory=Comparison)
    warnings: list[str] = field(default_factory=list)

    @property
    def tolerance(self) -> Tolerance:
        """What may differ between the two models' answers."""
        return Tolerance(self.change.exact, self.noise)

    def answer(self, model: nn.Module, inputs: Any) -> Any:
        """One call of the workload, without gradients."""
        with torch.inference_mode():
            return self.case.call(model, inputs)

    def compare(self, expected: Any, got: Any, stage: str) -> None:
        """Record how far an answer is off, and refuse the candidate where it is wrong."""
        comparison = compare_outputs(expected, got, self.tolerance)
        self.errors = self.errors.worst(comparison)
        refuse(comparison.fault, stage)

    def refuse_touched_baseline(self, stage: str) -> None:
        """The untouched model must be what it was when it was built."""
        if guards.weights_fingerprint(self.baseline) != self.baseline_weights:
            refuse("it changed the weights of the untouched model", stage)


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
