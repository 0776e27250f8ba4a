"""Buffers that are allocated once and lent out for the length of one call.

A module borrows what it needs and gives it back when its forward ends, so modules that run one after the other share
the same few buffers, while nested ones and several threads each hold their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from hybrid_core.strategies.pooling.own_body import Seen


class BufferPool:
    """As many buffers of each form as were ever borrowed at the same moment."""

    def __init__(self) -> None:
        self._free: dict[Seen, list[Tensor]] = {}
        self.held_bytes = 0
        self.count = 0

    @contextmanager
    def lend(self, forms: Sequence[Seen]) -> Iterator[list[Tensor]]:
        """Tensors of these forms that nobody else holds until the block ends; what they contain is undefined."""
        borrowed = [self._take(form) for form in forms]
        try:
            yield borrowed
        finally:
            for form, buffer in zip(forms, borrowed, strict=True):
                self._free[form].append(buffer)

    def _take(self, form: Seen) -> Tensor:
        free = self._free.setdefault(form, [])
        try:
            return free.pop()  # atomic, so that two threads never get the same one
        except IndexError:
            self.held_bytes += form.nbytes
            self.count += 1
            # A tensor born in inference mode could never be written outside of it.
            with torch.inference_mode(False):
                return torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device=form.device)
