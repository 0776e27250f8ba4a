"""How close a candidate's answers are to the untouched model's, in figures that see damage long before a task does.

A task metric moves only when an answer turns from right to wrong. Beside it stand: how often the top answer is the
same, the KL divergence of the predicted distributions, the relative error, the cosine between the answers, the
signal-to-noise ratio of the difference in decibels (SQNR, the measure of quantization), and the largest single error.
Sums are kept, not answers, so a pass over any number of rows takes no memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from hybrid_core.measurement.correctness import EXACT_BOUNDS, relative_error


@dataclass
class Agreement:
    """Grows row by row; `closeness` has one value per row: 1 minus the relative error, for whole numbers the share
    that is equal.
    """

    closeness: list[float] = field(default_factory=list)
    rounding: float = 0.0
    _whole_numbers: bool = False
    _same_top: list[float] = field(default_factory=list)
    _kl: list[float] = field(default_factory=list)
    _signal: float = 0.0
    _answer: float = 0.0
    _product: float = 0.0
    _noise: float = 0.0
    _largest: float = 0.0

    def add_row(self, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """One row's (expected, got) tensors; the row is as close as its worst tensor."""
        self.closeness.append(min((closeness(a, b) for a, b in pairs), default=1.0))
        for expected, got in pairs:
            if _is_real(expected):
                self._add_numbers(expected, got)
            else:
                self._whole_numbers = True
                self.rounding = max(self.rounding, 1.0 / max(1, expected.numel()))

    def add_distributions(self, expected: torch.Tensor, got: torch.Tensor) -> None:
        """Logits over classes in the last axis."""
        self._same_top.append(float((expected.argmax(-1) == got.argmax(-1)).double().mean()))
        p, q = (torch.log_softmax(logits.double(), -1) for logits in (expected, got))
        self._kl.append(max(0.0, float((p.exp() * (p - q)).sum(-1).mean())))

    @property
    def worst_error(self) -> float:
        """The largest share by which a row's answers differ, at least `rounding`: what their type may cause, of whole
        numbers one.
        """
        return max([self.rounding, *(1.0 - close for close in self.closeness)])

    def details(self) -> dict[str, float]:
        """The figures by name; `sqnr_db` is missing where nothing differs, because it would be infinite."""
        mean = sum(self.closeness) / len(self.closeness) if self.closeness else math.nan
        found = {"equal_answers": mean} if self._whole_numbers else {"relative_error": 1.0 - mean}
        if self._same_top:
            found["top1_agreement"] = sum(self._same_top) / len(self._same_top)
            found["kl_nats"] = sum(self._kl) / len(self._kl)
        if self._signal > 0:
            found["largest_difference"] = self._largest
            if self._answer > 0:
                found["cosine"] = min(1.0, self._product / math.sqrt(self._signal * self._answer))
            if self._noise > 0:
                found["sqnr_db"] = 10.0 * math.log10(self._signal / self._noise)
        return found

    def _add_numbers(self, expected: torch.Tensor, got: torch.Tensor) -> None:
        self.rounding = max(self.rounding, EXACT_BOUNDS.get(expected.dtype, 0.0))
        a, b = (_as_real(tensor).double().flatten() for tensor in (expected, got))
        difference = b - a
        self._signal += float(a @ a)
        self._answer += float(b @ b)
        self._product += float(a @ b)
        self._noise += float(difference @ difference)
        self._largest = max(self._largest, float(difference.abs().max()) if a.numel() else 0.0)


def closeness(expected: torch.Tensor, got: torch.Tensor) -> float:
    """1 minus the relative error, not below 0; for whole numbers the share that is equal.

    >>> closeness(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5]))
    0.75
    """
    if not _is_real(expected):
        return float((expected == got).double().mean())
    return max(0.0, 1.0 - relative_error(expected, got))


def looks_like_logits(tensor: torch.Tensor) -> bool:
    """Whether the last axis may hold classes."""
    return tensor.is_floating_point() and tensor.dim() >= 2 and tensor.shape[-1] >= 2


def _is_real(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _as_real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
