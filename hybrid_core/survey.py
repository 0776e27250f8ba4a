"""Asks every setting whether a model can have it, before any of them is tried: one model, many cheap questions.

A trial of a setting that cannot be applied costs the start of a process and two builds of the model only to end with
a sentence that the method could have said at once. `unsupported` is cheap by contract, so one process asks them all.
An answer is a hint to save time, never a measurement: what cannot be asked is simply tried.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hybrid_core.measurement.case import Case
from hybrid_core.measurement.process_state import restored_state
from hybrid_core.records import Step
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.registry import get_strategy

# (step, why the model cannot have it or None, seconds the question took)
Tell = Callable[[Step, str | None, float], None]


def survey(case: Case, steps: Sequence[Step], tell: Tell, scratch: Path | None = None) -> None:
    """Build the model once and tell each answer as soon as it is known, so that a crash leaves the earlier ones.

    A question that raises is not told: its setting is tried like any other.
    """
    with restored_state(case.threads), torch.no_grad():
        example = case.fresh_inputs(case.generator("example"))
        model = case.build_model()
        situation = Situation(example, case.call, case.workload, case.device, scratch)
        for step in steps:
            started = time.monotonic()
            try:
                reason = get_strategy(step.strategy).unsupported(step.setting, model, situation)
            except Exception:  # the border: a method may raise anything here, and that must not end the other questions
                traceback.print_exc()
                continue
            tell(step, reason, time.monotonic() - started)
