"""What is measured: how to build the untouched model, feed it, call it and judge it.

A `Case` holds recipes for objects, not objects: baseline and candidate are both built from it, from the same seed, so
that nothing a candidate does to itself can reach the model it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from hybrid_core.measurement.makers import MakersTensors
from hybrid_core.measurement.nested import map_tensors
from hybrid_core.records import Workload


class ScoredTask(Protocol):
    """The part of a model's quality task that measuring needs: held-out rows, how to ask, how right an answer is."""

    @property
    def metric(self) -> str:
        """What the mean score is called, for example "digit accuracy"."""
        ...

    @property
    def bits_per(self) -> str | None:
        """Unit of one prediction for "bits per ...", or None where that means nothing."""
        ...

    @property
    def has_classes(self) -> bool:
        """Whether answers are logits over classes, so that likelihood and KL mean something."""
        ...

    def batches(self, rows: int) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        """At most `rows` rows as (inputs, targets); targets have the shape of logits without the last axis."""
        ...

    def answer(self, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """What the model says to one batch; `inputs` are on the model's device, and so is the answer."""
        ...

    def score(self, answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """How right each row is, (rows,) between 0 and 1."""
        ...

    def rates(self, model: nn.Module) -> dict[str, float]:
        """Further figures by name; the task makes its own inputs and puts them where the model's weights are."""
        ...


@dataclass(frozen=True)
class Case:
    """One model under one workload on one device, ready to be built any number of times."""

    build: Callable[[], nn.Module]
    make_inputs: Callable[[torch.Generator], tuple[Any, ...]]
    call: Callable[[nn.Module, tuple[Any, ...]], Any]
    task: ScoredTask | None
    workload: Workload
    device: torch.device
    threads: int
    seed: int
    makers: MakersTensors = field(default_factory=MakersTensors, compare=False, repr=False)

    def build_model(self) -> nn.Module:
        """A fresh model on the device; the global generator is seeded first, so two builds are equal."""
        torch.manual_seed(self.seed)
        return self.build().to(self.device)

    def fresh_inputs(self, generator: torch.Generator) -> tuple[Any, ...]:
        """New inputs of one call, on the device."""
        made = self.makers.watch(lambda: tuple(self.make_inputs(generator)))
        inputs: tuple[Any, ...] = map_tensors(made, lambda t: t.to(self.device))
        return inputs

    def generator(self, phase: str) -> torch.Generator:
        """Random source of one phase: the same for a seed, different between phases, never the global one."""
        offset = sum(ord(letter) * 31**place for place, letter in enumerate(phase)) % 1_000_003
        return torch.Generator().manual_seed(self.seed * 1_000_003 + offset)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything it was given; nothing to do on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
