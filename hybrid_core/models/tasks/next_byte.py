"""Predict each byte of source code: 512 windows of held-out modules of Python's standard library.

The shared task of the byte-level decoders: it needs no tokenizer, its answer is a plain yes or no for each byte, and
131,072 bytes make small damage visible. `data/README.md` names source and licence.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hybrid_core.models.checkpoints import DATA
from hybrid_core.models.tasks.base import ClassesTask, check_hash, spread, whole_rows

HELD_OUT_TEXT = DATA / "held_out_python.txt"
HELD_OUT_TEXT_SHA256 = "f1fce960a2a3bc736747a89013161d1cee661e011320b974094114700a49326b"


@functools.cache
def held_out_bytes() -> Tensor:
    """The held-out source text as int64 tokens."""
    check_hash(HELD_OUT_TEXT_SHA256, HELD_OUT_TEXT)
    return torch.frombuffer(bytearray(HELD_OUT_TEXT.read_bytes()), dtype=torch.uint8).long()


@dataclass(frozen=True)
class NextByteTask(ClassesTask):
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
        order = spread(windows)[: whole_rows(rows, self.batch, windows)]
        for start in range(0, len(order), self.batch):
            offsets = torch.tensor(order[start : start + self.batch]) * self.window
            picked = text[offsets[:, None] + torch.arange(self.window + 1)]
            yield (picked[:, :-1],), picked[:, 1:]

    def trivial_score(self) -> float:
        """Always answering the text's most frequent byte."""
        return float(torch.bincount(held_out_bytes()[1:]).max()) / (len(held_out_bytes()) - 1)
