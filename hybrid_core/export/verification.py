"""Checking a folder on the machine at hand: files, weights, outputs, and the timing, measured again.

Outputs are compared with the untouched model's on inputs that nobody has seen before, under the tolerance that the
project's measurements use; the figures are taken anew by the same procedure, interleaved, and two figures agree when
their 95 % intervals, widened by the noise that is usual between two runs, overlap.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hybrid_core.evaluation import Toolbox, evaluate, registry_toolbox
from hybrid_core.export.loading import Folder, read_folder, rebuild, replaced_sentence
from hybrid_core.export.packages import check_package
from hybrid_core.export.rebuilding import Source, optimize, source_of
from hybrid_core.handover import decisions_in
from hybrid_core.measurement.correctness import Comparison, Tolerance, compare_outputs
from hybrid_core.measurement.nested import clone_tensors
from hybrid_core.measurement.process_state import restored_state
from hybrid_core.provenance import differences_of
from hybrid_core.records import (
    Estimate,
    MeasureLimits,
    Measurement,
    MeasureRequest,
    Purpose,
    Recipe,
    Subject,
)
from hybrid_core.strategies.base import Applied, Situation

FRESH_INPUTS = 3
# Two runs on one machine differ by more than either interval says; see the noise floors in docs/measurement.md.
BETWEEN_RUNS = 0.05
RATIOS = {"speed_improvement": "speed", "memory_efficiency": "memory", "accuracy_preservation": "accuracy kept"}
MAX_QUALITY_SAMPLES = 4096


@dataclass(frozen=True)
class Finding:
    """One thing that was checked: whether it holds (None: only told), and the sentence for a person."""

    holds: bool | None
    sentence: str

    def __str__(self) -> str:
        return f"{ {True: 'ok', False: 'DIFFERS', None: 'note'}[self.holds] }: {self.sentence}"


@dataclass(frozen=True)
class Choices:
    """What the person who verifies asked for."""

    timing: bool = True
    run_package: bool = False
    allow_code: bool = False
    limits: MeasureLimits = MeasureLimits()
    seed: int | None = None


def verify_folder(
    path: str | Path,
    model: nn.Module | None = None,
    example_inputs: Any = None,
    *,
    choices: Choices | None = None,
    tell: Callable[[Finding], None] = lambda finding: None,
) -> list[Finding]:
    """Check a folder; everything holds when no finding has `holds` False. `tell` hears each finding at once.

    Raises:
        InvalidInput: the folder cannot be used at all; the sentence says why.
        StrategyUnsupported: a step cannot be applied on this machine.
    """
    choices = choices or Choices()
    findings: list[Finding] = []

    def note(holds: bool | None, sentence: str) -> None:
        findings.append(Finding(holds, sentence))
        tell(findings[-1])

    folder = read_folder(path)
    note(True, f"{len(folder.digests)} files have the sizes and SHA-256 of the manifest")
    source = source_of(folder.data, model, example_inputs, allow_code=choices.allow_code)
    for difference in differences_of(folder.data, source.case.device):
        note(None, difference)
    seed = secrets.randbelow(2**31) if choices.seed is None else choices.seed
    source = dataclasses.replace(source, case=dataclasses.replace(source.case, seed=seed))
    optimized = rebuild(folder, source)
    note(True, _weights_sentence(folder))
    note(*_compare(folder, source, optimized, seed))
    for name in [name for name in folder.digests if name.startswith("package/")]:
        note(*check_package(folder.path / name, source, run=choices.run_package))
    del optimized
    if choices.timing:
        for finding in _measure_again(folder, source, choices.limits):
            note(finding.holds, finding.sentence)
    return findings


def _weights_sentence(folder: Folder) -> str:
    if folder.replaced:
        return replaced_sentence(folder)
    return f"the model built here has the exported weights, bit for bit ({len(folder.index)} tensors)"


def _compare(folder: Folder, source: Source, optimized: nn.Module, seed: int) -> tuple[bool, str]:
    """Outputs on fresh inputs, against the untouched model."""
    is_exact = all(registry_toolbox().is_exact(step) for step in source.recipe.steps)
    tolerance, worst, largest = Tolerance(is_exact), Comparison(), 0.0
    with restored_state(source.case.threads), torch.inference_mode():
        untouched = source.case.build_model()
        generator = source.case.generator("verify")
        for _ in range(FRESH_INPUTS):
            inputs = source.case.fresh_inputs(generator)
            expected = clone_tensors(source.case.call(untouched, clone_tensors(inputs)))
            found = source.case.call(optimized, inputs)
            worst = worst.worst(compare_outputs(expected, found, tolerance))
    stored = _number(folder.data, "counts", "max_abs_error")
    text = f"on {FRESH_INPUTS} fresh inputs (seed {seed}) outputs differ by at most {worst.max_abs_error:.3g}"
    text += f", relative error {worst.relative_error:.1e}"
    text += "" if stored is None else f"; the run found {stored:.3g}"
    if worst.fault:
        return False, f"{text}; {worst.fault}"
    largest = 4 * stored + 50 * tolerance.bound(torch.float32) * is_exact if stored is not None else math.inf
    return worst.max_abs_error <= max(largest, 1e-4), text


def _measure_again(folder: Folder, source: Source, limits: MeasureLimits) -> list[Finding]:
    samples = _number(folder.data, "quality", "samples")
    if samples is not None:
        limits = dataclasses.replace(limits, quality_samples=int(min(max(samples, 1), MAX_QUALITY_SAMPLES)))
    registry = registry_toolbox()
    decided = decisions_in(folder.data)
    if registry.start_variables(source.recipe):
        return [Finding(None, "the timing was not measured again: it needs an untouched model in another process")]

    def apply(model: nn.Module, recipe: Recipe, situation: Situation) -> Applied:
        return optimize(model, recipe, dataclasses.replace(situation, decided=decided), folder.complete)

    toolbox = Toolbox(apply, registry.is_exact, registry.compiles, registry.start_variables)
    subject = Subject("exported", "folder", source.case.workload, str(source.case.device), source.case.threads)
    request = MeasureRequest("verify", "verify", subject, source.recipe, Purpose.FINAL, limits)
    trial = evaluate(source.case, request, toolbox=toolbox)
    if trial.measurement is None:
        return [Finding(False, f"it could not be measured here: {trial.outcome}: {trial.reason}")]
    return [_compare_figure(name, folder.data, trial.measurement) for name in RATIOS] + [_times(trial.measurement)]


def _compare_figure(name: str, data: Mapping[str, Any], measured: Measurement) -> Finding:
    found: Estimate = getattr(measured, name)
    figures = data.get("figures")
    stored = _estimate(figures.get(name)) if isinstance(figures, Mapping) else None
    if stored is None:
        return Finding(None, f"{RATIOS[name]}: {_text(found)} measured now; the folder has no figure to compare with")
    holds = agree(stored, found)
    text = f"{RATIOS[name]}: {_text(stored)} in the folder, {_text(found)} measured now"
    return Finding(holds, f"{text}: the intervals {'overlap' if holds else 'do not overlap'}")


def agree(stored: Estimate, found: Estimate, between_runs: float = BETWEEN_RUNS) -> bool:
    """Whether two intervals overlap once each is widened by what differs between two runs.

    >>> agree(Estimate(2.0, 1.95, 2.05), Estimate(2.1, 2.06, 2.15))
    True
    >>> agree(Estimate(2.0, 1.95, 2.05), Estimate(1.0, 0.99, 1.01))
    False
    """
    lows, highs = (stored.low, found.low), (stored.high, found.high)
    return max(lows) * (1 - between_runs) <= min(highs) * (1 + between_runs)


def _times(measured: Measurement) -> Finding:
    times = f"{measured.baseline_latency_ms.value:.4g} ms untouched, {measured.latency_ms.value:.4g} ms optimized"
    return Finding(None, f"one call took {times}; {len(measured.pairs_ms)} pairs, {measured.stop_reason}")


def _text(found: Estimate) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _estimate(found: Any) -> Estimate | None:
    keys = ("value", "low", "high")
    if not isinstance(found, Mapping) or not all(type(found.get(k)) in (int, float) for k in keys):
        return None
    return Estimate.from_json(found)


def _number(data: Mapping[str, Any], group: str, key: str) -> float | None:
    facts = data.get(group)
    value = facts.get(key) if isinstance(facts, Mapping) else None
    return float(value) if isinstance(value, int | float) else None
