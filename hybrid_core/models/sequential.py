"""The example of the documented interface: `nn.Sequential(nn.Linear(128, 256), nn.LayerNorm(256), nn.Linear(256, 64))`.

At that size a call costs mostly the interpreter: what can be gained is the overhead itself, and most recipes lose.
`small` is the same form 32 times as wide, where the matrices weigh. Neither has a task: agreement with the untouched
model is the quality. There is no `full`: nobody published a larger one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybrid_core.models.base import RegistryEntry, check_size
from hybrid_core.records import Workload

INPUTS, HIDDEN, OUTPUTS = 128, 256, 64
TIMES_AS_WIDE = {"tiny": 1, "small": 32}


class SequentialEntry(RegistryEntry):
    """The registry's entry."""

    name = "sequential"
    family = "feed-forward"
    title = "Documented example"
    description = (
        "Linear 128 to 256, layer normalisation, linear 256 to 64: the example of the interface's documentation. The "
        "small size is the same form 32 times as wide."
    )
    architecture = "Linear, layer normalisation, linear; no activation in between."
    sizes: tuple[str, ...] = ("tiny", "small")

    def make(self, size: str) -> nn.Module:
        """Random weights."""
        times = TIMES_AS_WIDE[size]
        inputs, hidden, outputs = times * INPUTS, times * HIDDEN, times * OUTPUTS
        return nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.Linear(hidden, outputs))

    def parameters(self, size: str) -> int:
        """Closed form.

        >>> SequentialEntry().parameters("tiny")
        49984
        """
        check_size(self.name, self.sizes, size)
        times = TIMES_AS_WIDE[size]
        inputs, hidden, outputs = times * INPUTS, times * HIDDEN, times * OUTPUTS
        return (inputs + 1) * hidden + 2 * hidden + (hidden + 1) * outputs

    def workloads(self, size: str) -> tuple[Workload, ...]:
        """One batch of vectors."""
        check_size(self.name, self.sizes, size)
        return (Workload("forward", "forward", batch=64),)

    def make_inputs(self, size: str, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Normal noise (batch, inputs)."""
        check_size(self.name, self.sizes, size)
        return (torch.randn(workload.batch, TIMES_AS_WIDE[size] * INPUTS, generator=generator),)

    def limits(self, size: str) -> list[str]:
        """No size knows anything."""
        check_size(self.name, self.sizes, size)
        return ["random weights: its outputs mean nothing; agreement with the untouched model is measured instead"]
