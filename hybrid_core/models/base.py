"""What a model of the registry must be able to do: build itself, make its own inputs, be called, be judged.

Everything above (evaluation, search, pages) speaks to models through these two protocols only, so a new architecture is
one file and one line in the registry. `tests/contracts/model_contract.py` holds every entry to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.records import Workload


@runtime_checkable
class Task(Protocol):
    """Held-out data on which the quality of a model of this kind is counted."""

    @property
    def metric(self) -> str:
        """What is counted, for example "next-byte accuracy"."""

    @property
    def unit(self) -> str:
        """What one row is, for example "window of 256 bytes"; intervals are taken over rows, not over bytes."""

    @property
    def bits_per(self) -> str | None:
        """What one target is, "byte", where the negative log-likelihood is reported as bits per byte; else None."""

    def batches(self, rows: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """At most `rows` rows in a fixed order, as (inputs, integer targets of shape outputs.shape[:-1]).

        All batches have the same shape, so a compiled model is compiled once; `rows` is rounded down to whole batches
        but never below one.
        """


@runtime_checkable
class ModelEntry(Protocol):
    """One family of the registry in one or more sizes."""

    name: str
    family: str
    title: str
    description: str
    sizes: tuple[str, ...]

    def workloads(self, size: str) -> tuple[Workload, ...]:
        """What may be timed; the first is the default."""

    def build(self, size: str, seed: int) -> nn.Module:
        """In eval mode, float32, on the CPU, without gradients; trained weights where `facts` says trained.

        The seed decides the weights of an untrained size; trained weights do not depend on it.
        """

    def make_inputs(self, size: str, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Fresh inputs of one call, on the CPU."""

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """The one call that is timed. Decode is teacher-forced: inputs are (context, next tokens)."""

    def task(self, size: str) -> Task | None:
        """The quality task, None where there is none and agreement with the untouched model is all there is."""

    def facts(self, size: str) -> dict[str, Any]:
        """What the page shows: parameters, trained, quality, limits, data. JSON-able, quick, builds no model."""


def check_size(name: str, sizes: tuple[str, ...], size: str) -> None:
    """Refuse an unknown size by name."""
    if size not in sizes:
        raise InvalidInput(f"size {size!r:.60} of model '{name}' is unknown; choose one of {', '.join(sizes)}")


def freeze(model: nn.Module) -> nn.Module:
    """Eval mode and no gradients: a measured call must not build an autograd graph, whoever calls it."""
    return model.eval().requires_grad_(False)
