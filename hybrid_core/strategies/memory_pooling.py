"""Memory pooling: buffers are used again instead of allocated anew, which lowers the peak of a call.

Eager PyTorch already frees each result when its last reader is done, and a planner over all intermediates finds next to
nothing below that. What is left to gain is in the three places named by the settings, each in a file of its own.
"""

from __future__ import annotations

from torch import nn

from hybrid_core.strategies.base import Applied, Conflict, Setting, Situation, refuse_when
from hybrid_core.strategies.in_place import refuse_in_place, use_in_place
from hybrid_core.strategies.micro_batch import refuse_micro_batch, use_micro_batch
from hybrid_core.strategies.static_cache import refuse_static_cache, use_static_cache

_REFUSALS = {"in_place": refuse_in_place, "static_cache": refuse_static_cache, "micro_batch": refuse_micro_batch}
_ACTIONS = {"in_place": use_in_place, "static_cache": use_static_cache, "micro_batch": use_micro_batch}


class MemoryPooling:
    """Reuses buffers: elementwise results in their input's place, a preallocated KV cache, a batch run in slices."""

    name = "memory_pooling"
    title = "Memory pooling"
    purpose = "Reuses buffers instead of allocating new ones, which lowers the peak memory of a call."
    claimed = {"speed": 1.1, "memory": 1.8, "accuracy": 1.0}
    conflicts: tuple[Conflict, ...] = ()
    settings = (
        Setting(
            name="in_place",
            sentence="Activations and sums are written into their input's buffer wherever nobody else can see it.",
            stage=30,
            exact=True,
            expected_cost_s=1.5,
            references=("https://arxiv.org/abs/1604.06174",),
        ),
        Setting(
            name="static_cache",
            sentence="Keys and values of a decode go into a buffer allocated once, instead of growing copies.",
            stage=50,
            exact=True,
            expected_cost_s=1.0,
            references=("https://arxiv.org/abs/2309.06180",),
        ),
        Setting(
            name="micro_batch",
            sentence="The batch runs in quarter slices into one preallocated output, so that less is alive at once.",
            stage=95,
            exact=True,
            expected_cost_s=1.5,
            references=("https://arxiv.org/abs/1811.06965",),
        ),
    )

    def unavailable(self, setting: str, device: str) -> str | None:
        """Plain PyTorch: available on every machine."""
        return None

    def unsupported(self, setting: str, model: nn.Module, situation: Situation) -> str | None:
        """Cheap checks of workload and model."""
        return _REFUSALS[setting](model, situation)

    def apply(self, setting: str, model: nn.Module, situation: Situation) -> Applied:
        """Apply the setting, or raise with the reason why not."""
        refuse_when(self.unsupported(setting, model, situation))
        return _ACTIONS[setting](model, situation)
