"""Counts the quality of a finished model on its task, with an honest interval.

Bytes of one window share a file and a style, so they are not independent: the interval is taken over windows. Images
are independent and their score is near 1, where the normal interval leaves [0, 1]; there Wilson's interval is used
(Wilson 1927). This is for training and for facts; candidates are judged by `hybrid_core.measurement`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybrid_core.models.tasks import DigitsTask, NextByteTask

Z_95 = 1.959964
ALL_ROWS = 10**9


def next_byte_quality(model: nn.Module, task: NextByteTask, rows: int = ALL_ROWS) -> dict[str, Any]:
    """Accuracy and bits per byte over held-out windows."""
    hits, nats = _per_row(model, task, rows)
    value, half = hits.mean().item(), Z_95 * hits.std().item() / math.sqrt(len(hits))
    return {
        "metric": task.metric,
        "value": value,
        "low": value - half,
        "high": value + half,
        "samples": len(hits),
        "unit": task.unit,
        "trivial": task.trivial_accuracy(),
        "bits_per_byte": nats.mean().item() / math.log(2),
    }


def digit_quality(model: nn.Module, task: DigitsTask, rows: int = ALL_ROWS) -> dict[str, Any]:
    """Accuracy over held-out images."""
    hits, _ = _per_row(model, task, rows)
    low, high = wilson_interval(round(hits.sum().item()), len(hits))
    return {
        "metric": task.metric,
        "value": hits.mean().item(),
        "low": low,
        "high": high,
        "samples": len(hits),
        "unit": task.unit,
        "trivial": task.trivial_accuracy(),
    }


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share.

    >>> [round(x, 4) for x in wilson_interval(98, 100)]
    [0.93, 0.9945]
    """
    share, z2 = hits / count, Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return centre - half, centre + half


@torch.no_grad()
def _per_row(model: nn.Module, task: NextByteTask | DigitsTask, rows: int) -> tuple[Tensor, Tensor]:
    hits, nats = [], []
    for inputs, targets in task.batches(rows):
        logits = model(*inputs).float()
        right = (logits.argmax(-1) == targets).double()
        loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape).double()
        hits.append(right.reshape(len(targets), -1).mean(1))
        nats.append(loss.reshape(len(targets), -1).mean(1))
    return torch.cat(hits), torch.cat(nats)
