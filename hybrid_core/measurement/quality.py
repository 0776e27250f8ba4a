"""How good the candidate's answers are: its own task on held-out data, and agreement with the untouched model.

A task metric on a few hundred rows moves in steps and hides small damage, so beside it stand the numbers of
`agreement.py`. Baseline and candidate answer the same rows, and `row_evidence.py` says what they prove. With an
`accuracy_bound` rows come in growing stages and the pass ends as soon as it is decided whether the bound is kept;
without one all rows are used. A task whose answers are no classes (a generated text, a ranking) scores them itself.
Where a model has no task, agreement alone is the quality: 1 minus the relative error, over many fresh inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from hybrid_core.errors import MeasurementFailed
from hybrid_core.measurement.agreement import Agreement, looks_like_logits
from hybrid_core.measurement.case import Case, ScoredTask
from hybrid_core.measurement.correctness import nan_fault
from hybrid_core.measurement.nested import clone_tensors, describe, map_tensors, tensor_leaves
from hybrid_core.measurement.quality_stages import Stages
from hybrid_core.measurement.row_evidence import LAST_TAIL, mean_of_rows, one_prediction, ratio_of_rows, rows_to_show
from hybrid_core.records import Estimate, Quality

AGREEMENT = "agreement"
MIN_AGREEMENT_CALLS, MAX_AGREEMENT_CALLS = 8, 32

# Rounding of relative size e turns at most this times e of the top answers (simulated, 2 to 256 classes: 0.3 to 1.7).
TURNED_BY_ROUNDING = 2.0


class QualityResult(NamedTuple):
    """Quality, accuracy preservation (candidate / baseline), warnings, and facts about the pass for the environment."""

    quality: Quality
    preservation: Estimate
    warnings: tuple[str, ...]
    facts: dict[str, Any]


@dataclass
class _Scores:
    """One number per row for each model, and what compares the two."""

    right: list[float] = field(default_factory=list)
    baseline_right: list[float] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    baseline_nats: list[float] = field(default_factory=list)
    agreement: Agreement = field(default_factory=Agreement)
    rates: dict[str, float] = field(default_factory=dict)


def measure_quality(
    case: Case,
    baseline: nn.Module,
    candidate: nn.Module,
    samples: int,
    *,
    bound: float | None = None,
    exact: bool = False,
) -> QualityResult:
    """Compare the finished candidate on at most `samples` rows; with a `bound` fewer where it is decided earlier.

    With a `bound` the task's further rates are left out, too: they decide nothing, and can cost more than all else.
    `exact` says that every step promises to change rounding only and was found to keep that on the workload.
    """
    with torch.inference_mode():
        if case.task is None:
            return _judge_agreement(case, baseline, candidate, Stages(samples, bound), ())
        scores = _Scores()
        stages = Stages(samples, bound)
        estimate = lambda tail: _preservation(scores, exact, case.seed, tail)  # noqa: E731
        for rows in _score_batches(case, case.task, baseline, candidate, samples, scores):
            if sum(scores.baseline_right) > 0 and stages.is_over(rows, estimate):
                break
        if sum(scores.baseline_right) > 0:
            scores.rates = _rates(case.task, baseline, candidate) if bound is None else {}
            return _judge_task(case.task, scores, stages, estimate, case.seed)
        warning = (
            f"the untouched model's {case.task.metric} is 0 on {len(scores.right)} rows and cannot be preserved; "
            "agreement is used instead"
        )
        return _judge_agreement(case, baseline, candidate, Stages(samples, bound), (warning,))


def _score_batches(
    case: Case, task: ScoredTask, baseline: nn.Module, candidate: nn.Module, samples: int, scores: _Scores
) -> Iterator[int]:
    """Ask both models batch after batch; yields how many rows were scored so far."""
    for inputs, targets in task.batches(samples):
        placed = map_tensors(inputs, lambda tensor: tensor.to(case.device))
        targets = targets.to(case.device)
        expected = _answer(task, baseline, clone_tensors(placed), targets, "the untouched model")
        got = _answer(task, candidate, placed, targets, "the candidate")
        if got.shape != expected.shape:
            raise _wrong(f"the candidate answers the quality task with {describe(got)}, not {describe(expected)}")
        scores.baseline_right.extend(_score(task, expected, targets))
        scores.right.extend(_score(task, got, targets))
        if task.has_classes:
            scores.baseline_nats.extend(_nats(expected, targets))
            scores.nats.extend(_nats(got, targets))
            scores.agreement.add_distributions(expected, got)
        for a, b in zip(expected, got, strict=True):
            scores.agreement.add_row([(a, b)])
        yield len(scores.right)
    if not scores.right:
        raise MeasurementFailed(
            "the quality task gave no rows; ask for at least one", outcome="crashed", stage="quality"
        )


def _preservation(scores: _Scores, exact: bool, seed: int, tail: float) -> Estimate:
    """Candidate / baseline; what an unseen row may lose depends on whether more than rounding can change it."""
    return ratio_of_rows(scores.right, scores.baseline_right, _unseen_loss(scores, exact), seed, tail)


def _unseen_loss(scores: _Scores, exact: bool) -> float:
    """An independent prediction; of exact steps only the share of top answers that differences as seen can turn."""
    whole = one_prediction(scores.baseline_right)
    return min(whole, TURNED_BY_ROUNDING * scores.agreement.worst_error) if exact else whole


def _rates(task: ScoredTask, baseline: nn.Module, candidate: nn.Module) -> dict[str, float]:
    return dict(task.rates(candidate)) | {f"baseline_{k}": v for k, v in task.rates(baseline).items()}


def _judge_task(
    task: ScoredTask, scores: _Scores, stages: Stages, estimate: Callable[[float], Estimate], seed: int
) -> QualityResult:
    details = _likelihood_details(task, scores) | scores.agreement.details() | scores.rates
    loss = one_prediction(scores.baseline_right)
    value, baseline_value = (mean_of_rows(rows, loss, seed) for rows in (scores.right, scores.baseline_right))
    quality = Quality(task.metric, len(scores.right), value, baseline_value, details)
    preservation, facts = stages.conclude(len(scores.right), estimate, "rows")
    return QualityResult(quality, preservation, _too_few(scores, preservation, stages.bound), facts)


def _too_few(scores: _Scores, preservation: Estimate, bound: float | None) -> tuple[str, ...]:
    """Nothing was lost on any row, and still the bound is not proven: that is for want of rows, and is said."""
    if bound is None or preservation.low >= bound or scores.right != scores.baseline_right:
        return ()
    loss = one_prediction(scores.baseline_right)
    needed = rows_to_show(loss, _mean(scores.baseline_right), bound)
    return (
        f"all {len(scores.right)} rows are answered as well as by the untouched model, but so few cannot show that at "
        f"most {1 - bound:.1%} is lost; about {needed} rows can",
    )


def _judge_agreement(
    case: Case, baseline: nn.Module, candidate: nn.Module, stages: Stages, warnings: tuple[str, ...]
) -> QualityResult:
    """Fresh inputs instead of held-out rows; one call is one row."""
    found, generator = Agreement(), case.generator("quality")
    calls = min(MAX_AGREEMENT_CALLS, max(MIN_AGREEMENT_CALLS, math.ceil(stages.most / max(case.workload.batch, 1))))
    stages = replace(stages, most=calls, next_look=MIN_AGREEMENT_CALLS)
    estimate = lambda tail: _mean_closeness(found, case.seed, tail)  # noqa: E731
    for call in range(1, calls + 1):
        _compare_call(case, baseline, candidate, case.fresh_inputs(generator), found)
        if stages.is_over(call, estimate):
            break
    preservation, facts = stages.conclude(len(found.closeness), estimate, "calls")
    value = _mean_closeness(found, case.seed, LAST_TAIL)
    quality = Quality(AGREEMENT, len(found.closeness), value, Estimate.exact(1.0), found.details())
    return QualityResult(quality, preservation, warnings, facts)


def _compare_call(case: Case, baseline: nn.Module, candidate: nn.Module, inputs: Any, found: Agreement) -> None:
    expected, got = (tensor_leaves(case.call(model, clone_tensors(inputs))) for model in (baseline, candidate))
    _refuse_nan(got, "the candidate")
    pairs = [(a, b) for a, b in zip(expected, got, strict=True) if a.numel()]
    found.add_row(pairs)
    for a, b in pairs[:1]:
        if looks_like_logits(a):
            found.add_distributions(a, b)


def _mean_closeness(found: Agreement, seed: int, tail: float) -> Estimate:
    """An unseen call may be further off than the worst seen by as much as the calls differ, and by rounding."""
    spread = max(found.closeness) - min(found.closeness)
    return mean_of_rows(found.closeness, spread + found.rounding, seed, tail)


def _likelihood_details(task: ScoredTask, scores: _Scores) -> dict[str, float]:
    if not task.has_classes:
        return {}
    name, nats_per_unit = (f"bits_per_{task.bits_per}", math.log(2)) if task.bits_per else ("nll_nats", 1.0)
    return {name: _mean(scores.nats) / nats_per_unit, f"baseline_{name}": _mean(scores.baseline_nats) / nats_per_unit}


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


def _refuse_nan(tensors: list[torch.Tensor], who: str) -> None:
    fault = nan_fault(tensors)
    if fault:
        raise _wrong(f"{who} gives {fault} on held-out data")


def _wrong(reason: str) -> MeasurementFailed:
    return MeasurementFailed(reason, outcome="wrong", stage="quality")


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
