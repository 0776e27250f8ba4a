"""Name the digit on an image: the held-out part of scikit-learn's handwritten digits.

608 images of 8x8, small enough to ship and to answer in a moment. `data/README.md` names source and licence.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hybrid_core.models.checkpoints import DATA, read_tensors
from hybrid_core.models.tasks.base import ClassesTask, check_hash, whole_rows

HELD_OUT_DIGITS = DATA / "held_out_digits.safetensors"
HELD_OUT_DIGITS_SHA256 = "ecfcdab67cfe32879c3db319b3cea37379fea32d685a1ccf330d350b29ff1b35"
DIGIT_LEVELS = 16.0  # scikit-learn's digits count ink from 0 to 16


@functools.cache
def held_out_digits() -> tuple[Tensor, Tensor]:
    """Held-out images (n, 1, 8, 8) float32 in [0, 1] and their labels (n,) int64."""
    check_hash(HELD_OUT_DIGITS_SHA256, HELD_OUT_DIGITS)
    tensors = read_tensors(HELD_OUT_DIGITS)
    return tensors["images"].float().unsqueeze(1) / DIGIT_LEVELS, tensors["labels"].long()


@dataclass(frozen=True)
class DigitsTask(ClassesTask):
    """Name the digit on a held-out image."""

    batch: int = 32
    metric: str = "digit accuracy"
    unit: str = "image"
    bits_per: str | None = None

    def batches(self, rows: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Images (batch, 1, 8, 8) and labels (batch,)."""
        images, labels = held_out_digits()
        count = whole_rows(rows, self.batch, len(labels))
        for start in range(0, count, self.batch):
            yield (images[start : start + self.batch],), labels[start : start + self.batch]

    def trivial_score(self) -> float:
        """Always answering the most frequent digit."""
        labels = held_out_digits()[1]
        return float(torch.bincount(labels).max()) / len(labels)
