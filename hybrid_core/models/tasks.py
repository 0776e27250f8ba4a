"""Quality tasks on data that ships with the package, so that a quality number is the same on every machine.

Next byte: 512 windows of held-out standard-library source. Digits: the held-out part of scikit-learn's handwritten
digits. Each task also knows the score of the best answer that ignores the input: a bare percentage says nothing.
`data/README.md` names sources and licences; the SHA-256 of the text is checked when it is read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hybrid_core.errors import InvalidInput
from hybrid_core.models.checkpoints import DATA, read_tensors, sha256_of

HELD_OUT_TEXT = DATA / "held_out_python.txt"
HELD_OUT_TEXT_SHA256 = "f1fce960a2a3bc736747a89013161d1cee661e011320b974094114700a49326b"
HELD_OUT_DIGITS = DATA / "held_out_digits.safetensors"
HELD_OUT_DIGITS_SHA256 = "ecfcdab67cfe32879c3db319b3cea37379fea32d685a1ccf330d350b29ff1b35"
DIGIT_LEVELS = 16.0  # scikit-learn's digits count ink from 0 to 16


@functools.cache
def held_out_bytes() -> Tensor:
    """The held-out source text as int64 tokens."""
    _check_hash(HELD_OUT_TEXT_SHA256, HELD_OUT_TEXT)
    return torch.frombuffer(bytearray(HELD_OUT_TEXT.read_bytes()), dtype=torch.uint8).long()


@functools.cache
def held_out_digits() -> tuple[Tensor, Tensor]:
    """Held-out images (n, 1, 8, 8) float32 in [0, 1] and their labels (n,) int64."""
    _check_hash(HELD_OUT_DIGITS_SHA256, HELD_OUT_DIGITS)
    tensors = read_tensors(HELD_OUT_DIGITS)
    return tensors["images"].float().unsqueeze(1) / DIGIT_LEVELS, tensors["labels"].long()


@dataclass(frozen=True)
class NextByteTask:
    """Predict each byte of held-out source text from the bytes before it in its window."""

    window: int = 256
    batch: int = 4
    metric: str = "next-byte accuracy"
    bits_per: str | None = "byte"

    @property
    def unit(self) -> str:
        """One row."""
        return f"window of {self.window} bytes"

    def batches(self, rows: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Windows (batch, window) with the bytes that follow as targets; the first rows already span the whole text."""
        text = held_out_bytes()
        windows = (len(text) - 1) // self.window
        order = _spread(windows)[: _whole_rows(rows, self.batch, windows)]
        for start in range(0, len(order), self.batch):
            offsets = torch.tensor(order[start : start + self.batch]) * self.window
            picked = text[offsets[:, None] + torch.arange(self.window + 1)]
            yield (picked[:, :-1],), picked[:, 1:]

    def trivial_accuracy(self) -> float:
        """Always answering the text's most frequent byte."""
        return float(torch.bincount(held_out_bytes()[1:]).max()) / (len(held_out_bytes()) - 1)


@dataclass(frozen=True)
class DigitsTask:
    """Name the digit on a held-out image."""

    batch: int = 32
    metric: str = "digit accuracy"
    unit: str = "image"
    bits_per: str | None = None

    def batches(self, rows: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Images (batch, 1, 8, 8) and labels (batch,)."""
        images, labels = held_out_digits()
        count = _whole_rows(rows, self.batch, len(labels))
        for start in range(0, count, self.batch):
            yield (images[start : start + self.batch],), labels[start : start + self.batch]

    def trivial_accuracy(self) -> float:
        """Always answering the most frequent digit."""
        labels = held_out_digits()[1]
        return float(torch.bincount(labels).max()) / len(labels)


def _whole_rows(rows: int, batch: int, available: int) -> int:
    if rows < 1:
        raise InvalidInput(f"rows={rows} is not allowed; ask for at least 1 held-out row")
    return max(batch, min(rows, available) // batch * batch)


def _spread(count: int) -> list[int]:
    """0..count-1 in golden-ratio steps: any beginning of the list is spread evenly over the whole."""
    step = round(count * (math.sqrt(5) - 1) / 2)
    while math.gcd(step, count) != 1:
        step += 1
    return [i * step % count for i in range(count)]


def _check_hash(expected: str, path: Path) -> None:
    found = sha256_of(path)
    if found != expected:
        raise InvalidInput(
            f"{path} has SHA-256 {found[:12]}... but {expected[:12]}... was released; restore the file, because a "
            "quality measured on other data cannot be compared"
        )
