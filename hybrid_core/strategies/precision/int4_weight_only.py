"""`int4_group32`, `int4_group128`: weights as packed 4-bit integers, one scale and one zero per group of inputs.

torchao chooses the integers (half-quadratic, no data needed). On a CPU torch's own kernel multiplies them, two in a
byte and with bfloat16 activations: torchao has no packed form there (its `IntxWeightOnlyConfig` keeps one integer per
byte, so it saves what int8 saves), and the same kernel with float32 or float16 activations is 10 to 100 times slower.
On a GPU torchao's tiled form and its kernel do both, inside a model cast to bfloat16.
Sources: torchao (https://docs.pytorch.org/ao); HQQ, https://mobiusml.github.io/hqq_blog; Frantar et al. 2022 on why
groups are needed (arXiv 2210.17323).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from hybrid_core.strategies.base import Applied, Method, Setting, Situation, list_briefly
from hybrid_core.strategies.precision.cast_border import cast_to_bfloat16
from hybrid_core.strategies.precision.linear_layers import float_linears, left_in_float32, replace_each, tied_linears
from hybrid_core.strategies.precision.proof import prove_it_runs
from hybrid_core.strategies.precision.torchao_library import int4_groups, int4_tiles, without_torchao

# What torch's CPU kernel accepts: groups of these sizes, and rows packed in blocks of 16.
GROUPS = (32, 64, 128, 256)
ROWS = 16


class Int4Linear(nn.Module):
    """A linear layer of packed 4-bit weights: `packed` (out, in/2) bytes, `scales_and_zeros` (in/group, out, 2)."""

    packed: Tensor
    scales_and_zeros: Tensor

    def __init__(self, layer: nn.Linear, group: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.group = layer.in_features, layer.out_features, group
        values, scale, zero = int4_groups(layer.weight, group)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.to(torch.int32), 1)
        self.register_buffer("packed", packed)
        self.register_buffer("scales_and_zeros", torch.stack((scale, zero), -1).transpose(0, 1).contiguous().bfloat16())
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply in bfloat16 and add the bias in the type of the inputs."""
        flat = inputs.reshape(-1, self.in_features).to(torch.bfloat16)
        product = torch.ops.aten._weight_int4pack_mm_for_cpu
        sums: Tensor = product(flat, self.packed, self.group, self.scales_and_zeros)
        sums = sums.to(inputs.dtype).reshape(*inputs.shape[:-1], self.out_features)
        return sums if self.bias is None else sums + self.bias


def fits_int4(layer: nn.Linear, group: int) -> bool:
    """Whether the kernel can hold this layer: whole groups, whole blocks of rows."""
    return layer.in_features % group == 0 and layer.out_features % ROWS == 0


def _chosen(model: nn.Module, group: int) -> dict[str, nn.Linear]:
    tied = tied_linears(model)
    return {n: m for n, m in float_linears(model).items() if n not in tied and fits_int4(m, group)}


def _unavailable(device: str, setting: str) -> str | None:
    missing = without_torchao(setting)
    if missing is None and device.startswith("cpu") and not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
        return f"torch {torch.__version__} has no packed int4 product for the CPU; use int8_weight_only"
    if missing is None and device.startswith("cuda") and torch.cuda.get_device_capability(device) < (8, 0):
        return f"the int4 kernel needs compute capability 8.0 and '{device}' has less; use float16"
    return missing


def _unsupported(model: nn.Module, situation: Situation, group: int) -> str | None:
    layers = float_linears(model)
    if not layers:
        return "the model has no float32 nn.Linear layer, and int4 weights are for nothing else"
    if not _chosen(model, group):
        widths = sorted({layer.in_features for layer in layers.values()})
        return (
            f"no nn.Linear has in_features divisible by {group}, out_features divisible by {ROWS} and a weight of its "
            f"own (in_features here: {list_briefly([str(width) for width in widths])}); choose a smaller group"
        )
    return None


def _apply(model: nn.Module, situation: Situation, group: int) -> Applied:
    layers, chosen = float_linears(model), _chosen(model, group)
    changes: tuple[str, ...] = ()
    with prove_it_runs(f"int4_group{group}", model, situation):
        if situation.device.type == "cuda":
            changes = cast_to_bfloat16(model, situation)
            for layer in chosen.values():
                layer.weight = nn.Parameter(int4_tiles(layer.weight, group), requires_grad=False)
        else:
            model = replace_each(model, partial(Int4Linear, group=group), chosen)
    skipped = [name for name in layers if name not in chosen]
    count = f"{len(chosen)} of {len(layers)} nn.Linear weights"
    first = f"packed {count} in 4 bits, groups of {group} ({list_briefly(list(chosen))})"
    kept = f"skipped {list_briefly(skipped)}: in_features % {group} or out_features % {ROWS} is not 0, or it is tied"
    return Applied(model, (first, *([kept] if skipped else []), *changes, *left_in_float32(model)))


def _method(group: int, on_request: str) -> Method:
    name = f"int4_group{group}"
    return Method(
        Setting(
            name=name,
            sentence=f"Linear layers keep packed 4-bit weights, one scale and zero for each {group} inputs.",
            stage=40,
            exact=False,
            expected_cost_s=8.0,
            references=("https://docs.pytorch.org/ao", "https://arxiv.org/abs/2210.17323"),
            on_request=on_request,
        ),
        apply=partial(_apply, group=group),
        unsupported=partial(_unsupported, group=group),
        unavailable=partial(_unavailable, setting=name),
    )


INT4_GROUP32 = _method(32, on_request="")
INT4_GROUP128 = _method(128, on_request="coarser than int4_group32 for few fewer bytes, and it fits fewer layers")
