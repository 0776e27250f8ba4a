"""`float8`: weights and activations as 8-bit floating point, multiplied by the tensor cores of recent GPUs.

The model is cast to bfloat16 first, which is what torchao's kernel answers in; then every linear layer whose sizes are
multiples of 16 keeps float8 weights, one scale per row, and rounds its inputs at each call. CPUs have no float8
arithmetic: torchao's weight-only form runs there at less than half the speed of float32, so it is not offered.
Sources: Micikevicius et al. 2022 (arXiv 2209.05433); torchao, `Float8DynamicActivationFloat8WeightConfig`.
"""

from __future__ import annotations

import torch
from torch import nn

from hybrid_core.strategies.base import Applied, Method, Setting, Situation, list_briefly
from hybrid_core.strategies.precision.cast_border import cast_to_bfloat16
from hybrid_core.strategies.precision.linear_layers import float_linears
from hybrid_core.strategies.precision.proof import prove_it_runs
from hybrid_core.strategies.precision.torchao_library import make_float8, without_torchao

# Compute capability of the first GPUs with float8 tensor cores, and what their kernels need of both sizes.
CAPABILITY = (8, 9)
MULTIPLE = 16


def too_old(capability: tuple[int, int]) -> bool:
    """Whether a GPU of that compute capability lacks float8 arithmetic.

    >>> too_old((8, 6)), too_old((9, 0))
    (True, False)
    """
    return capability < CAPABILITY


def _unavailable(device: str) -> str | None:
    if not device.startswith("cuda"):
        return f"float8 products need a GPU of compute capability 8.9 or more and the device is '{device}'"
    capability = torch.cuda.get_device_capability(device)
    if too_old(capability):
        found = ".".join(str(part) for part in capability)
        return f"float8 products need compute capability 8.9 and '{device}' has {found}; use float16"
    return without_torchao("float8")


def fitting(model: nn.Module) -> list[str]:
    """Names of the linear layers whose sizes the float8 kernel takes."""
    layers = float_linears(model)
    return [n for n, m in layers.items() if m.in_features % MULTIPLE == 0 and m.out_features % MULTIPLE == 0]


def _unsupported(model: nn.Module, situation: Situation) -> str | None:
    if not fitting(model):
        return f"no float32 nn.Linear layer has both sizes divisible by {MULTIPLE}, which float8 products need"
    return None


def _apply(model: nn.Module, situation: Situation) -> Applied:
    names, count = fitting(model), len(float_linears(model))
    with prove_it_runs("float8", model, situation):
        changes = cast_to_bfloat16(model, situation)
        make_float8(model, set(names))
    first = f"{len(names)} of {count} nn.Linear layers multiply in float8 ({list_briefly(names)})"
    return Applied(model, (first, *changes))


FLOAT8 = Method(
    Setting(
        name="float8",
        sentence="Linear layers multiply float8 weights and inputs on GPUs that can; the rest computes in bfloat16.",
        stage=40,
        exact=False,
        expected_cost_s=6.0,
        references=("https://arxiv.org/abs/2209.05433", "https://docs.pytorch.org/ao"),
    ),
    apply=_apply,
    unsupported=_unsupported,
    unavailable=_unavailable,
)
