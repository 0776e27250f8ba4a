"""`bfloat16`: the whole model computes in bfloat16 and converts at its border, so callers keep passing float32.

Source: Kalamkar et al. 2019 (arXiv 1905.12322).
"""

from __future__ import annotations

import torch
from torch import nn

from hybrid_core.strategies.base import Applied, Method, Setting, Situation
from hybrid_core.strategies.precision.cast_border import cast_to_bfloat16
from hybrid_core.strategies.precision.proof import prove_it_runs


def _unsupported(model: nn.Module, situation: Situation) -> str | None:
    if not any(p.dtype == torch.float32 for p in model.parameters()):
        return "the model has no float32 parameter to cast to bfloat16"
    return None


def _apply(model: nn.Module, situation: Situation) -> Applied:
    with prove_it_runs("bfloat16", model, situation):
        changes = cast_to_bfloat16(model, situation)
    return Applied(model, changes)


BFLOAT16 = Method(
    Setting(
        name="bfloat16",
        sentence="The whole model computes in bfloat16; inputs and outputs stay float32 for the caller.",
        stage=40,
        exact=False,
        expected_cost_s=2.0,
        references=("https://arxiv.org/abs/1905.12322",),
    ),
    apply=_apply,
    unsupported=_unsupported,
)
