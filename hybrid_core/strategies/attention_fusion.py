"""Attention fusion: an attention written as matmul, softmax, matmul becomes one fused kernel.

The written-out form stores a score for every pair of positions; `scaled_dot_product_attention` walks over them in
tiles and never stores them, which saves memory that grows with the square of the length, and time. Works on any
module: the attention is found by running the example, its meaning is read from `torch.export`, and only a form that is
proven equal is replaced. Sources: FlashAttention, Dao et al. 2022 (arXiv 2205.14135); Rabe and Staats 2021
(arXiv 2112.05682).
"""

from __future__ import annotations

from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Conflict, Setting, Situation


class AttentionFusion:
    """Written-out attention becomes PyTorch's fused kernel, in any user module."""

    name = "attention_fusion"
    title = "Attention fusion"
    purpose = "Replaces written-out attention by one fused kernel that never stores the square score matrix."
    claimed = {"speed": 1.3, "memory": 1.4, "accuracy": 0.98}
    conflicts: tuple[Conflict, ...] = ()
    settings = (
        Setting(
            name="sdpa",
            sentence="Attention written as matmul, softmax, matmul becomes one scaled_dot_product_attention call.",
            stage=10,
            exact=True,
            expected_cost_s=4.0,
            references=("https://arxiv.org/abs/2205.14135", "https://arxiv.org/abs/2112.05682"),
        ),
    )

    def unavailable(self, setting: str, device: str) -> str | None:
        """The fused kernel exists on every device PyTorch runs on."""
        return None

    def unsupported(self, setting: str, model: nn.Module, situation: Situation) -> str | None:
        """Whether there is attention is only known by running the example, which `apply` does."""
        return None

    def apply(self, setting: str, model: nn.Module, situation: Situation) -> Applied:
        """Find, rewrite and replace every written-out attention of the model."""
        raise StrategyUnsupported("the rewrite is not finished")
