"""What the maker of the inputs keeps for itself, which is neither model's memory.

An input generator may remember what it decoded or tokenized, and goes on remembering while a candidate is measured. A
census of everything alive cannot tell such tensors from those that the candidate hides. So the tensors that appear
while inputs are made, and are not handed out as inputs, are noted by weak reference; those still alive when bytes are
counted belong to nobody. What is handed out is not noted: a candidate that keeps its inputs has to answer for them.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import TypeVar

import torch

from hybrid_core.measurement.nested import tensor_leaves

Made = TypeVar("Made")


class MakersTensors:
    """Notes what stays alive from making inputs; one per case."""

    def __init__(self) -> None:
        self._noted: list[weakref.ref[torch.Tensor]] = []

    def watch(self, make: Callable[[], Made]) -> Made:
        """Make inputs, noting which other tensors were made with them and live on."""
        was_on = gc.isenabled()
        gc.collect(0)  # from here the youngest generation holds only what `make` creates
        gc.disable()
        try:
            made = make()
            young = [item for item in gc.get_objects(generation=0) if type(item) is torch.Tensor]
        finally:
            if was_on:
                gc.enable()
        handed_out = {_address(tensor) for tensor in tensor_leaves(made)} | {0}
        self._noted = [ref for ref in self._noted if ref() is not None]
        for tensor in young:
            if _address(tensor) not in handed_out:
                self._noted.append(weakref.ref(tensor))
        return made

    def kept(self) -> list[torch.Tensor]:
        """The noted tensors that are still alive."""
        return [tensor for ref in self._noted if (tensor := ref()) is not None]


def _address(tensor: torch.Tensor) -> int:
    """Where its storage begins; 0 for what has none, as a sparse tensor."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0
