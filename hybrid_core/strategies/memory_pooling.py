"""Memory pooling: buffers are allocated once and used again, instead of anew for every call."""

from __future__ import annotations

from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Conflict, Setting, Situation


class MemoryPooling:
    """Reuses buffers: a preallocated KV cache, activations in their input's place, a batch run in slices."""

    name = "memory_pooling"
    title = "Memory pooling"
    purpose = "Reuses buffers instead of allocating new ones, which lowers the peak memory of a call."
    claimed = {"speed": 1.1, "memory": 1.8, "accuracy": 1.0}
    conflicts: tuple[Conflict, ...] = ()
    settings = (
        Setting(
            name="in_place",
            sentence="Activation functions write into their input's buffer wherever nobody else can see it.",
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
        return None

    def apply(self, setting: str, model: nn.Module, situation: Situation) -> Applied:
        """Apply the setting."""
        raise StrategyUnsupported("memory pooling is not finished")
