"""How good the candidate's answers are: its own task on held-out data, and agreement with the untouched model.

A task metric on a few hundred rows moves in steps and hides small damage, so beside it stand the numbers that see it:
how often the top answer is the same, the KL divergence of the predicted distributions, the relative error. Baseline and
candidate answer the same rows, so the ratio's interval comes from resampling rows as pairs. A task whose answers are no
classes (a generated text, a ranking) scores them itself; there the agreement is how much of the answers is equal or how
close they are. Where a model has no task, agreement alone is the quality: 1 minus the relative error, over many fresh
inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from hybrid_core.errors import MeasurementFailed
from hybrid_core.measurement.case import Case, ScoredTask
from hybrid_core.measurement.correctness import nan_fault, relative_error
from hybrid_core.measurement.nested import describe, map_tensors, tensor_leaves
from hybrid_core.measurement.statistics import mean_of_rows, ratio_of_means
from hybrid_core.records import Estimate, Quality

AGREEMENT = "agreement"
MIN_AGREEMENT_CALLS, MAX_AGREEMENT_CALLS = 8, 32


@dataclass
class _Scores:
    """One number per row for each model, and per prediction for what compares the two."""

    right: list[float] = field(default_factory=list)
    baseline_right: list[float] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    baseline_nats: list[float] = field(default_factory=list)
    same_top: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    closeness: list[float] = field(default_factory=list)
    whole_numbers: bool = False
    rates: dict[str, float] = field(default_factory=dict)


def measure_quality(
    case: Case, baseline: nn.Module, candidate: nn.Module, samples: int
) -> tuple[Quality, Estimate, tuple[str, ...]]:
    """Quality, accuracy preservation (candidate / baseline) and warnings, on the finished candidate."""
    with torch.inference_mode():
        if case.task is not None:
            scores = _run_task(case, case.task, baseline, candidate, samples)
            if sum(scores.baseline_right) > 0:
                return (*_judge_task(case.task, scores, case.seed), ())
            warning = (
                f"the untouched model's {case.task.metric} is 0 on {len(scores.right)} rows and cannot be preserved; "
                "agreement is used instead"
            )
            return (*_judge_agreement(_run_agreement(case, baseline, candidate, samples), case.seed), (warning,))
        return (*_judge_agreement(_run_agreement(case, baseline, candidate, samples), case.seed), ())


def _run_task(case: Case, task: ScoredTask, baseline: nn.Module, candidate: nn.Module, samples: int) -> _Scores:
    scores = _Scores()
    for inputs, targets in task.batches(samples):
        placed = map_tensors(inputs, lambda tensor: tensor.to(case.device))
        targets = targets.to(case.device)
        expected = _answer(task, baseline, placed, targets, "the untouched model")
        got = _answer(task, candidate, placed, targets, "the candidate")
        if got.shape != expected.shape:
            raise _wrong(f"the candidate answers the quality task with {describe(got)}, not {describe(expected)}")
        scores.baseline_right.extend(_score(task, expected, targets))
        scores.right.extend(_score(task, got, targets))
        if task.has_classes:
            scores.baseline_nats.extend(_nats(expected, targets))
            scores.nats.extend(_nats(got, targets))
            _score_distributions(scores, expected, got)
        scores.whole_numbers = not (expected.is_floating_point() or expected.is_complex())
        scores.closeness.extend(_closeness(a, b) for a, b in zip(expected, got, strict=True))
    if not scores.right:
        raise MeasurementFailed(
            "the quality task gave no rows; ask for at least one", outcome="crashed", stage="quality"
        )
    scores.rates = dict(task.rates(candidate)) | {f"baseline_{k}": v for k, v in task.rates(baseline).items()}
    return scores


def _run_agreement(case: Case, baseline: nn.Module, candidate: nn.Module, samples: int) -> _Scores:
    scores, generator = _Scores(), case.generator("quality")
    calls = min(MAX_AGREEMENT_CALLS, max(MIN_AGREEMENT_CALLS, math.ceil(samples / max(case.workload.batch, 1))))
    for _ in range(calls):
        inputs = case.fresh_inputs(generator)
        expected, got = (tensor_leaves(case.call(model, inputs)) for model in (baseline, candidate))
        _refuse_nan(got, "the candidate")
        pairs = [(a, b) for a, b in zip(expected, got, strict=True) if a.numel()]
        scores.closeness.append(min((_closeness(a, b) for a, b in pairs), default=1.0))
        for a, b in pairs[:1]:
            if _looks_like_logits(a):
                _score_distributions(scores, a, b)
    return scores


def _judge_task(task: ScoredTask, scores: _Scores, seed: int) -> tuple[Quality, Estimate]:
    details = _likelihood_details(task, scores) | _agreement_details(scores) | scores.rates
    value, baseline_value = mean_of_rows(scores.right, seed), mean_of_rows(scores.baseline_right, seed)
    quality = Quality(task.metric, len(scores.right), value, baseline_value, details)
    return quality, ratio_of_means(scores.right, scores.baseline_right, seed)


def _judge_agreement(scores: _Scores, seed: int) -> tuple[Quality, Estimate]:
    value = mean_of_rows(scores.closeness, seed)
    return Quality(AGREEMENT, len(scores.closeness), value, Estimate.exact(1.0), _agreement_details(scores)), value


def _likelihood_details(task: ScoredTask, scores: _Scores) -> dict[str, float]:
    if not task.has_classes:
        return {}
    name, nats_per_unit = (f"bits_per_{task.bits_per}", math.log(2)) if task.bits_per else ("nll_nats", 1.0)
    return {name: _mean(scores.nats) / nats_per_unit, f"baseline_{name}": _mean(scores.baseline_nats) / nats_per_unit}


def _agreement_details(scores: _Scores) -> dict[str, float]:
    closeness = _mean(scores.closeness)
    details = {"equal_answers": closeness} if scores.whole_numbers else {"relative_error": 1.0 - closeness}
    if scores.same_top:
        details |= {"top1_agreement": _mean(scores.same_top), "kl_nats": _mean(scores.kl)}
    return details


def _answer(
    task: ScoredTask, model: nn.Module, inputs: tuple[torch.Tensor, ...], targets: torch.Tensor, who: str
) -> torch.Tensor:
    """One finite tensor: a row per target row or, with classes, a number per class for every target."""
    tensors = tensor_leaves(task.answer(model, inputs))
    fits = tensors and (
        tensors[0].shape[:-1] == targets.shape if task.has_classes else tensors[0].shape[:1] == targets.shape[:1]
    )
    if not fits:
        shape = list(tensors[0].shape) if tensors else "no tensor"
        raise _wrong(f"{who} answers the quality task with {shape} where targets are {list(targets.shape)}")
    _refuse_nan(tensors[:1], who)
    return tensors[0]


def _score(task: ScoredTask, answers: torch.Tensor, targets: torch.Tensor) -> list[float]:
    scores = task.score(answers, targets).double()
    if scores.shape != targets.shape[:1] or not bool(((scores >= 0) & (scores <= 1)).all()):
        raise MeasurementFailed(
            f"the task '{task.metric}' scores {len(targets)} rows with {describe(scores)}; it must give one number "
            "between 0 and 1 for each",
            outcome="crashed",
            stage="quality",
        )
    values: list[float] = scores.tolist()
    return values


def _nats(logits: torch.Tensor, targets: torch.Tensor) -> list[float]:
    """Mean negative log-likelihood of each row's targets."""
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten().long(), reduction="none"
    )
    values: list[float] = losses.double().view(len(targets), -1).mean(1).tolist()
    return values


def _score_distributions(scores: _Scores, expected: torch.Tensor, got: torch.Tensor) -> None:
    scores.same_top.append(float((expected.argmax(-1) == got.argmax(-1)).double().mean()))
    p, q = (torch.log_softmax(logits.float(), -1) for logits in (expected, got))
    scores.kl.append(max(0.0, float((p.exp() * (p - q)).sum(-1).double().mean())))


def _refuse_nan(tensors: list[torch.Tensor], who: str) -> None:
    fault = nan_fault(tensors)
    if fault:
        raise _wrong(f"{who} gives {fault} on held-out data")


def _wrong(reason: str) -> MeasurementFailed:
    return MeasurementFailed(reason, outcome="wrong", stage="quality")


def _closeness(expected: torch.Tensor, got: torch.Tensor) -> float:
    """1 minus the relative error, not below 0; for whole numbers the share that is equal."""
    if not expected.is_floating_point() and not expected.is_complex():
        return float((expected == got).double().mean())
    return max(0.0, 1.0 - relative_error(expected, got))


def _looks_like_logits(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() >= 2 and tensor.shape[-1] >= 2


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
