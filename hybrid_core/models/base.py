"""What a model of the registry must be able to do: build itself, make its own inputs, be called, be judged.

Everything above (evaluation, search, pages) speaks to models through these two protocols only, so a new architecture is
one file and one line in the registry. `RegistryEntry` holds what the built-in families share, so that a family's file
is about its architecture. `tests/contracts/model_contract.py` holds every entry to the protocol.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.capacity import refuse_what_does_not_fit, weights_bytes
from hybrid_core.models.checkpoints import load_weights, read_facts
from hybrid_core.records import Workload

BYTES_OF_CACHED_VALUE = {"float32": 4, "bfloat16": 2}


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

    @property
    def has_classes(self) -> bool:
        """Whether answers are logits of shape targets.shape + (classes,), so that likelihood and KL can be reported."""

    def batches(self, rows: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """At most `rows` rows in a fixed order, as (inputs, targets); targets are integers where `has_classes`.

        All batches have the same shape, so a compiled model is compiled once; `rows` is rounded down to whole batches
        but never below one.
        """

    def answer(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """What the model says to one batch: a forward pass, or a whole generation; calls of constant shapes only."""

    def score(self, answers: Tensor, targets: Tensor) -> Tensor:
        """How right each row is, (rows,) float64 between 0 and 1."""

    def rates(self, model: nn.Module) -> dict[str, float]:
        """Further figures of the model, by name, shown beside the metric; empty where there are none."""

    def trivial_score(self) -> float:
        """The mean score of the best answer that ignores the input."""


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

        The seed decides the weights of an untrained size; trained weights do not depend on it. A size that does not fit
        into this machine's memory is refused before anything is allocated.
        """

    def skeleton(self, size: str) -> nn.Module:
        """The same module on the meta device: every shape, no memory."""

    def make_inputs(self, size: str, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Fresh inputs of one call, on the CPU."""

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """The one call that is timed. Decode is teacher-forced: inputs are (context, next tokens)."""

    def task(self, size: str) -> Task | None:
        """The quality task, None where there is none and agreement with the untouched model is all there is."""

    def facts(self, size: str) -> dict[str, Any]:
        """What the page shows: parameters, bytes, trained, quality, limits. JSON-able, quick, builds no model."""


class RegistryEntry(ABC):
    """The shared half of a built-in family: sizes, building, weights, the card of facts.

    A family says `make`, `parameters`, `workloads`, `make_inputs` and `limits`; `tiny` is the trained size if there is
    a `checkpoint`.
    """

    name: str
    family: str
    title: str
    description: str
    architecture: str
    sources: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ("tiny", "small", "full")
    checkpoint: Path | None = None
    published_parameters: int | None = None
    """What the size `full` is published to have; None where no such model was published."""

    @abstractmethod
    def make(self, size: str) -> nn.Module:
        """The untrained module on the default device, initialised from the global generator."""

    @abstractmethod
    def parameters(self, size: str) -> int:
        """The count in closed form."""

    @abstractmethod
    def workloads(self, size: str) -> tuple[Workload, ...]:
        """See `ModelEntry.workloads`."""

    @abstractmethod
    def make_inputs(self, size: str, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """See `ModelEntry.make_inputs`."""

    @abstractmethod
    def limits(self, size: str) -> list[str]:
        """Sentences about what this size cannot do, at least one."""

    def build(self, size: str, seed: int) -> nn.Module:
        """See `ModelEntry.build`."""
        check_size(self.name, self.sizes, size)
        refuse_what_does_not_fit(f"{self.name} {size}", self.parameters(size))
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            model = self.make(size)
        if self.is_trained(size):
            load_weights(model, self.trained_weights())
        return freeze(model)

    def skeleton(self, size: str) -> nn.Module:
        """See `ModelEntry.skeleton`."""
        check_size(self.name, self.sizes, size)
        with torch.device("meta"):
            return freeze(self.make(size))

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """One forward pass."""
        outputs: Tensor = model(*inputs)
        return outputs

    def task(self, size: str) -> Task | None:
        """The family's task for the trained size; random weights have no quality to keep."""
        check_size(self.name, self.sizes, size)
        return self.trained_task() if self.is_trained(size) else None

    def trained_task(self) -> Task | None:
        """The task of the trained size."""
        return None

    def is_trained(self, size: str) -> bool:
        """Whether this size comes with weights."""
        return size == "tiny" and self.checkpoint is not None

    def trained_weights(self) -> Path:
        """The checkpoint of the trained size."""
        assert self.checkpoint is not None, f"{self.name} has no checkpoint"
        return self.checkpoint

    def cache_values_per_token(self, size: str) -> int | None:
        """Numbers that decoding keeps for each token, None where nothing is cached."""
        check_size(self.name, self.sizes, size)
        return None

    def card(self, size: str) -> dict[str, Any]:
        """What the family adds to the facts of a size."""
        check_size(self.name, self.sizes, size)
        return {}

    def facts(self, size: str) -> dict[str, Any]:
        """See `ModelEntry.facts`."""
        check_size(self.name, self.sizes, size)
        count, cached = self.parameters(size), self.cache_values_per_token(size)
        training = read_facts(self.trained_weights()) if self.is_trained(size) else None
        return {
            "parameters": count,
            "published_parameters": self.published_parameters if size == "full" else None,
            "weights_bytes": weights_bytes(count),
            "kv_cache_bytes_per_token": None
            if cached is None
            else {dtype: cached * width for dtype, width in BYTES_OF_CACHED_VALUE.items()},
            "architecture": self.architecture,
            "sources": list(self.sources),
            "trained": training is not None,
            "quality": training["quality"] if training else None,
            "training": training,
            "limits": self.limits(size),
            **self.card(size),
        }


def check_size(name: str, sizes: tuple[str, ...], size: str) -> None:
    """Refuse an unknown size by name."""
    if size not in sizes:
        raise InvalidInput(f"size {size!r:.60} of model '{name}' is unknown; choose one of {', '.join(sizes)}")


def freeze(model: nn.Module) -> nn.Module:
    """Eval mode and no gradients: a measured call must not build an autograd graph, whoever calls it."""
    return model.eval().requires_grad_(False)
