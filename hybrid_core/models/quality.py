"""Counts the quality of a finished model on its task, with an honest interval.

Bytes of one window share a file and a style, so they are not independent: the interval is taken over rows. Where a row
is right or wrong as a whole the score is often near 1, where the normal interval leaves [0, 1]; there Wilson's interval
is used (Wilson 1927). This is for training and for facts; candidates are judged by `hybrid_core.measurement`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybrid_core.models.base import Task

Z_95 = 1.959964
ALL_ROWS = 10**9


@torch.no_grad()
def task_quality(model: nn.Module, task: Task, rows: int = ALL_ROWS) -> dict[str, Any]:
    """The metric with its interval; `bits_per_<target>` and `rates` only where the task has them."""
    scores, nats = _per_row(model, task, rows)
    low, high = score_interval(scores)
    quality: dict[str, Any] = {
        "metric": task.metric,
        "value": scores.mean().item(),
        "low": low,
        "high": high,
        "samples": len(scores),
        "unit": task.unit,
        "trivial": task.trivial_score(),
    }
    if nats is not None:
        quality[f"bits_per_{task.bits_per}"] = nats.mean().item() / math.log(2)
    rates = task.rates(model)
    return {**quality, "rates": rates} if rates else quality


def score_interval(scores: Tensor) -> tuple[float, float]:
    """95 % interval of the mean of independent rows in [0, 1]: Wilson's where all are 0 or 1, else the normal one."""
    if bool(((scores == 0) | (scores == 1)).all()):
        return wilson_interval(round(scores.sum().item()), len(scores))
    value, half = scores.mean().item(), Z_95 * scores.std().item() / math.sqrt(len(scores))
    return value - half, value + half


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share.

    >>> [round(x, 4) for x in wilson_interval(98, 100)]
    [0.93, 0.9945]
    """
    share, z2 = hits / count, Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return centre - half, centre + half


def _per_row(model: nn.Module, task: Task, rows: int) -> tuple[Tensor, Tensor | None]:
    """Score of each row and, where the task reports it, the mean negative log-likelihood of its targets."""
    scores, nats = [], []
    for inputs, targets in task.batches(rows):
        answers = task.answer(model, inputs)
        scores.append(task.score(answers, targets))
        if task.bits_per is not None:
            loss = F.cross_entropy(answers.float().flatten(0, -2), targets.flatten(), reduction="none")
            nats.append(loss.double().view(len(targets), -1).mean(1))
    return torch.cat(scores), torch.cat(nats) if nats else None
