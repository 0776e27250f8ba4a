"""ONE candidate from start to end: a request goes in, a trial comes out, whatever the candidate does.

This is where the parts meet: the registry says how to build, feed and call the model, the recipe is applied to a
private copy, `hybrid_core.measurement` runs the phases. Every exception a candidate can cause becomes a trial with a
named outcome, the phase it happened in and one sentence; only what kills the process is left to the process above.
"""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hybrid_core.errors import InvalidInput, MeasurementFailed, StrategyUnsupported
from hybrid_core.measurement.case import Case
from hybrid_core.measurement.contest import Change
from hybrid_core.measurement.latency import BaselineClock
from hybrid_core.measurement.nested import map_tensors, tensor_leaves
from hybrid_core.measurement.procedure import PHASES, measure
from hybrid_core.measurement.process_state import restored_state
from hybrid_core.models.capacity import MODELS_IN_A_RUN, refuse_what_does_not_fit
from hybrid_core.models.registry import find_entry
from hybrid_core.records import MeasureRequest, Outcome, Recipe, Step, Subject, Trial, Workload

__all__ = ["PHASES", "Case", "Toolbox", "case_from_module", "case_from_registry", "evaluate"]

LOG_TAIL_CHARACTERS = 4000
MAX_REASON_CHARACTERS = 400
_OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "out of memory", "cannot allocate memory")


@dataclass(frozen=True)
class Toolbox:
    """What turns recipes into changed models: by default the strategies of the registry.

    `apply(model, recipe, situation)` returns something with `.model` and `.changes`; `is_exact(step)` says whether only
    rounding may change; `start_variables(recipe)` is the environment that only a new process can have.
    """

    apply: Callable[[nn.Module, Recipe, Any], Any]
    is_exact: Callable[[Step], bool]
    compiles: Callable[[Step], bool] = lambda step: False
    start_variables: Callable[[Recipe], Mapping[str, str]] = lambda recipe: {}


def case_from_registry(subject: Subject) -> Case:
    """The case of a model of the registry, or of one that somebody brought.

    Raises:
        InvalidInput: the model, size, workload or device does not exist, or two of the model do not fit into memory.
    """
    entry = find_entry(subject.model, subject.source)
    workloads = entry.workloads(subject.size)
    if subject.workload.kind not in {workload.kind for workload in workloads}:
        known = "; ".join(workload.label for workload in workloads)
        raise InvalidInput(f"{subject.model} cannot run '{subject.workload.label}'; choose one of: {known}")
    parameters = int(entry.facts(subject.size)["parameters"])
    refuse_what_does_not_fit(f"{subject.model} {subject.size}", parameters, copies=MODELS_IN_A_RUN)
    return Case(
        build=lambda: entry.build(subject.size, subject.seed),
        make_inputs=lambda generator: entry.make_inputs(subject.size, subject.workload, generator),
        call=lambda model, inputs: entry.call(model, subject.workload, inputs),
        task=entry.task(subject.size),
        workload=subject.workload,
        device=find_device(subject.device),
        threads=subject.threads,
        seed=subject.seed,
    )


def case_from_module(
    module: nn.Module,
    example_inputs: tuple[Any, ...],
    *,
    device: str | torch.device = "cpu",
    threads: int = 1,
    seed: int = 0,
    call: Callable[[nn.Module, tuple[Any, ...]], Any] | None = None,
    workload: Workload | None = None,
) -> Case:
    """The case of somebody's module; it is copied for every build and never changed.

    Fresh inputs look like the examples: same shapes and dtypes, whole numbers drawn between the example's smallest and
    largest, floating values normal with its mean and standard deviation.
    """
    if not isinstance(example_inputs, tuple) or not tensor_leaves(example_inputs):
        raise InvalidInput(
            f"example_inputs={type(example_inputs).__name__} holds no tensor; give the arguments of one call as a tuple"
        )
    first = tensor_leaves(example_inputs)[0]
    batch = int(first.shape[0]) if first.dim() else 1
    examples = map_tensors(example_inputs, lambda tensor: tensor.detach().cpu().clone())
    return Case(
        build=lambda: copy.deepcopy(module),
        make_inputs=lambda generator: map_tensors(examples, lambda tensor: random_like(tensor, generator)),
        call=call or (lambda model, inputs: model(*inputs)),
        task=None,
        workload=workload or Workload("forward", "forward", batch),
        device=find_device(str(device)),
        threads=threads,
        seed=seed,
    )


def random_like(example: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A fresh tensor of the same shape, dtype and range or distribution."""
    shape = example.shape
    if example.numel() == 0:
        return example.clone()
    if example.dtype == torch.bool:
        share = float(example.double().mean())
        return torch.rand(shape, generator=generator) < share
    if example.is_complex():
        parts = torch.view_as_real(example)
        return torch.view_as_complex(random_like(parts, generator))
    if not example.is_floating_point():
        low, high = int(example.min()), int(example.max())
        return torch.randint(low, high + 1, shape, generator=generator).to(example.dtype)
    finite = example.double()[torch.isfinite(example)]
    mean, std = (float(finite.mean()), float(finite.std(correction=0))) if finite.numel() else (0.0, 1.0)
    return (torch.randn(shape, generator=generator) * std + mean).to(example.dtype)


def find_device(name: str) -> torch.device:
    """'cpu', 'cuda', 'cuda:1' or a GPU's UUID as a torch device.

    Raises:
        InvalidInput: this machine does not have it.
    """
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    uuids = [str(torch.cuda.get_device_properties(i).uuid) for i in range(count)]
    names = [f"cuda:{i}" for i in range(count)]
    wanted = "cuda:0" if name == "cuda" else name
    for index, uuid in enumerate(uuids):
        if wanted in (names[index], uuid, f"GPU-{uuid}"):
            return torch.device("cuda", index)
    raise InvalidInput(f"device {name!r:.80} is not on this machine; choose one of {', '.join(['cpu', *names])}")


def evaluate(
    case: Case,
    request: MeasureRequest,
    *,
    on_phase: Callable[[str], None] = lambda name: None,
    toolbox: Toolbox | None = None,
    scratch: Path | None = None,
    baseline_clock: BaselineClock | None = None,
) -> Trial:
    """Measure one recipe; a candidate's fault ends in a trial that names it, never in an exception.

    `scratch` is a private folder that the trials of one run share (see `Situation`). A recipe with start variables
    needs a `baseline_clock`: an untouched model timed in this process would have them too, and hide their effect.
    """
    clock, started_at = _PhaseClock(on_phase), time.time()
    result: dict[str, Any] = {"outcome": Outcome.OK}
    toolbox = toolbox or registry_toolbox()
    try:
        with restored_state(case.threads):
            if baseline_clock is None:
                _refuse_blind(toolbox.start_variables(request.recipe))
            change = _change_of(case, request.recipe, toolbox, scratch)
            result["measurement"] = measure(case, change, request.limits, clock.enter, baseline_clock)
    except Exception as error:  # the border: a candidate may raise anything, and all of it must get a name
        result = _failure(error, clock.current or "build")
    return Trial(
        trial_id=request.trial_id,
        run_id=request.run_id,
        recipe=request.recipe,
        purpose=request.purpose,
        started_at=started_at,
        phases_s=clock.finish(),
        seconds=clock.total_s(),
        **result,
    )


def name_failure(error: BaseException) -> tuple[Outcome, str]:
    """The outcome and the one sentence an exception means."""
    if _is_out_of_memory(error):
        return Outcome.OUT_OF_MEMORY, f"ran out of memory: {_sentence(error)}"
    if isinstance(error, MeasurementFailed):
        return Outcome(error.outcome), _sentence(error)
    if isinstance(error, StrategyUnsupported):
        return Outcome.UNSUPPORTED, _sentence(error)
    if isinstance(error, InvalidInput):
        return Outcome.INVALID_INPUT, _sentence(error)
    return Outcome.CRASHED, f"{type(error).__name__}: {_sentence(error)}"


def _failure(error: Exception, phase: str) -> dict[str, Any]:
    """The fields of a trial that failed."""
    outcome, reason = name_failure(error)
    stage = error.stage if isinstance(error, MeasurementFailed) else phase
    log_tail = "".join(traceback.format_exception(error))[-LOG_TAIL_CHARACTERS:]
    return {"outcome": outcome, "reason": reason, "stage": stage, "log_tail": log_tail}


def registry_toolbox() -> Toolbox:
    """The registry's strategies; imported here, so that measuring a fake needs none of them."""
    from hybrid_core.recipes import apply_steps, start_variables
    from hybrid_core.strategies.registry import get_setting

    return Toolbox(
        apply_steps,
        is_exact=lambda step: get_setting(step.strategy, step.setting).exact,
        compiles=lambda step: get_setting(step.strategy, step.setting).compiles,
        start_variables=start_variables,
    )


def _refuse_blind(variables: Mapping[str, str]) -> None:
    if variables:
        from hybrid_core.strategies.base import start_command

        raise StrategyUnsupported(
            f"{' and '.join(sorted(variables))} change every model of a process, so only a worker, which times the "
            f"untouched model in another process, can measure it; to use it unmeasured, {start_command(variables)}"
        )


def calibration_inputs(case: Case) -> Callable[[int], tuple[Any, ...]]:
    """Inputs for strategies that watch activations, from random sources of their own (see `Situation`)."""
    return lambda turn: case.fresh_inputs(case.generator(f"calibration {turn}"))


def _change_of(case: Case, recipe: Recipe, toolbox: Toolbox, scratch: Path | None) -> Change:
    """The recipe as one function of (model, example inputs), with what its steps declare."""
    decisions: dict[str, Any] = {}

    def apply(model: nn.Module, example: tuple[Any, ...]) -> tuple[nn.Module, tuple[str, ...]]:
        if recipe.is_baseline:
            return model, ()
        from hybrid_core.strategies.base import Situation

        situation = Situation(
            example, case.call, case.workload, case.device, scratch, fresh_inputs=calibration_inputs(case)
        )
        applied = toolbox.apply(model, recipe, situation)
        decisions.update(getattr(applied, "decisions", {}))
        return applied.model, tuple(applied.changes)

    exact = all([toolbox.is_exact(step) for step in recipe.steps])
    return Change(apply, exact, any(toolbox.compiles(step) for step in recipe.steps), decisions)


class _PhaseClock:
    """Tells the caller each phase as it begins, and keeps the seconds of each."""

    def __init__(self, on_phase: Callable[[str], None]) -> None:
        self._on_phase = on_phase
        self._started = self._entered = time.monotonic()
        self._seconds: dict[str, float] = {}
        self.current = ""

    def enter(self, name: str) -> None:
        """End the current phase and begin the next."""
        self.finish()
        self.current = name
        self._on_phase(name)

    def finish(self) -> dict[str, float]:
        """End the current phase; the seconds of all so far."""
        now = time.monotonic()
        if self.current:
            self._seconds[self.current] = self._seconds.get(self.current, 0.0) + now - self._entered
        self._entered = now
        return dict(self._seconds)

    def total_s(self) -> float:
        """Seconds since the trial began."""
        return time.monotonic() - self._started


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Also where a compiler wrapped it: the cause chain is followed."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _sentence(error: BaseException) -> str:
    """The first line that says something, without a full stop and not endless."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else "no message")[:MAX_REASON_CHARACTERS].rstrip(".")
