"""`int8_weight_only`: weights as int8 with one scale per output channel; activations stay as they are.

The weights are rounded by torchao. Its tensor subclass then costs more per call than the product of a small layer
(measured 1.2 to 2.2 times on a CPU), so the same arithmetic runs in a plain module: the int8 matrix is widened for the
call, multiplied, and the sums are scaled. Stacks of experts stay torchao tensors, which can be taken apart by expert.
Source: torchao, `Int8WeightOnlyConfig` (https://docs.pytorch.org/ao).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybrid_core.strategies.base import Applied, Method, Setting, Situation, list_briefly
from hybrid_core.strategies.precision.expert_stacks import find_stacks, quantize_stacks
from hybrid_core.strategies.precision.linear_layers import float_linears, left_in_float32, replace_each, tied_linears
from hybrid_core.strategies.precision.proof import prove_it_runs
from hybrid_core.strategies.precision.saturation import adds_correctly
from hybrid_core.strategies.precision.torchao_library import int8_rows, without_torchao


class Int8WeightLinear(nn.Module):
    """A linear layer that keeps `weight_int8` (out, in) and `scale` (out, 1); weight = weight_int8 * scale."""

    weight_int8: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        values, scale = int8_rows(layer.weight.detach())
        self.register_buffer("weight_int8", values)
        self.register_buffer("scale", scale.reshape(-1, 1))
        self.bias = layer.bias

    @property
    def weight(self) -> Tensor:
        """The matrix the layer multiplies with, for code that reads it."""
        return self.weight_int8 * self.scale

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply with the unscaled integers, which float32 holds exactly, and scale the sums."""
        sums = nn.functional.linear(inputs, self.weight_int8.to(inputs.dtype))
        scale = self.scale.flatten().to(inputs.dtype)
        return sums.mul_(scale) if self.bias is None else torch.addcmul(self.bias, sums, scale)


def _unavailable(device: str) -> str | None:
    missing = without_torchao("int8_weight_only")
    if missing is None and not adds_correctly(Int8WeightLinear):
        return "the product with widened int8 weights adds wrongly on this processor; use bfloat16"
    return missing


def _unsupported(model: nn.Module, situation: Situation) -> str | None:
    if not set(float_linears(model)) - set(tied_linears(model)) and not find_stacks(model):
        return "the model has no float32 nn.Linear layer of its own weight and no stack of experts to store as int8"
    return None


def _apply(model: nn.Module, situation: Situation) -> Applied:
    stacks = quantize_stacks(model, situation)
    with prove_it_runs("int8_weight_only", model, situation):
        layers, tied = float_linears(model), tied_linears(model)
        names = [name for name in layers if name not in tied]
        model = replace_each(model, Int8WeightLinear, names)
    changes = (
        [f"stored {len(names)} of {len(layers)} nn.Linear weights as int8 ({list_briefly(names)})"] if names else []
    )
    if tied:
        changes.append(f"kept {list_briefly(tied)}: the weight is tied to another module, an int8 copy would add bytes")
    return Applied(model, (*changes, *stacks, *left_in_float32(model)))


INT8_WEIGHT_ONLY = Method(
    Setting(
        name="int8_weight_only",
        sentence="Linear layers and stacked experts keep int8 weights, widened at each call; activations stay float32.",
        stage=40,
        exact=False,
        expected_cost_s=6.0,
        references=("https://docs.pytorch.org/ao", "https://arxiv.org/abs/1712.05877"),
        on_request="never measurably faster than float32 on a CPU; for mixtures with stacked experts, and to save "
        "memory where int4 costs too much accuracy",
    ),
    apply=_apply,
    unsupported=_unsupported,
    unavailable=_unavailable,
)
