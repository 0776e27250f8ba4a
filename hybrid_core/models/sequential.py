"""The example of the documented interface: `nn.Sequential(nn.Linear(128, 256), nn.LayerNorm(256), nn.Linear(256, 64))`.

So small that a call costs mostly the interpreter: what can be gained is the overhead itself, and most recipes lose. It
has no task; agreement with the untouched model is its quality.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.models.base import Task, check_size, freeze
from hybrid_core.records import Workload

INPUTS, HIDDEN, OUTPUTS = 128, 256, 64


class SequentialEntry:
    """The registry's entry."""

    name = "sequential"
    family = "feed-forward"
    title = "Documented example"
    description = (
        "Linear 128 to 256, layer normalisation, linear 256 to 64: the example of the interface's documentation."
    )
    sizes: tuple[str, ...] = ("tiny",)

    def workloads(self, size: str) -> tuple[Workload, ...]:
        """One batch of vectors."""
        check_size(self.name, self.sizes, size)
        return (Workload("forward", "forward", batch=64),)

    def build(self, size: str, seed: int) -> nn.Module:
        """Random weights from the seed."""
        check_size(self.name, self.sizes, size)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, OUTPUTS))
        return freeze(model)

    def make_inputs(self, size: str, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Normal noise (batch, 128)."""
        check_size(self.name, self.sizes, size)
        return (torch.randn(workload.batch, INPUTS, generator=generator),)

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor:
        """Outputs (batch, 64)."""
        outputs: Tensor = model(*inputs)
        return outputs

    def task(self, size: str) -> Task | None:
        """None: random weights have no task."""
        check_size(self.name, self.sizes, size)
        return None

    def facts(self, size: str) -> dict[str, Any]:
        """See `ModelEntry.facts`."""
        check_size(self.name, self.sizes, size)
        parameters = INPUTS * HIDDEN + HIDDEN + 2 * HIDDEN + HIDDEN * OUTPUTS + OUTPUTS
        limits = ["random weights: its outputs mean nothing; agreement with the untouched model is measured instead"]
        return {"parameters": parameters, "trained": False, "quality": None, "limits": limits}
