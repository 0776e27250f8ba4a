"""`float16`: half the bytes; on a CPU the weights only, on a GPU the whole model.

Processors without half-precision arithmetic widen every number first: a product in float16 was 4 to 10 times slower
than in float32. torch's packed half weights (FBGEMM) are widened inside the product and all sums are float32, which
costs little and rounds once. GPUs compute in float16 with the same border as `bfloat16`. A value beyond 65,504 would
become infinite, so a model that has one is refused.
Sources: Micikevicius et al. 2017 (arXiv 1710.03740); Khudia et al. 2021 (arXiv 2101.05615).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import dynamic as quantized_dynamic
from torch.ao.quantization import float16_dynamic_qconfig

from hybrid_core.strategies.base import Applied, Method, Setting, Situation, list_briefly
from hybrid_core.strategies.precision.cast_border import cast_model
from hybrid_core.strategies.precision.int8_dynamic import engine_set_to
from hybrid_core.strategies.precision.linear_layers import float_linears, left_in_float32, replace_each, tied_linears
from hybrid_core.strategies.precision.proof import prove_it_runs

LARGEST = torch.finfo(torch.float16).max
# The engines of torch that hold half weights; the others say so only when they are asked to pack.
ENGINES = ("x86", "fbgemm")


def packing_engine() -> str | None:
    """The engine of torch that packs half weights here, None where there is none."""
    supported = torch.backends.quantized.supported_engines
    return next((engine for engine in ENGINES if engine in supported), None)


def packed_half(layer: nn.Linear, engine: str) -> nn.Module:
    """The copy of one layer with float16 weights; leaves the layer as it was."""
    layer.qconfig = float16_dynamic_qconfig  # type: ignore[assignment]
    try:
        with engine_set_to(engine):
            packed: nn.Module = quantized_dynamic.Linear.from_float(layer)  # type: ignore[no-untyped-call]
    finally:
        del layer.qconfig
    return packed


def _unavailable(device: str) -> str | None:
    if device.startswith("cpu") and packing_engine() is None:
        found = ", ".join(torch.backends.quantized.supported_engines)
        return f"half weights on a CPU need torch's fbgemm engine and this one has {found}; use bfloat16"
    return None


def _unsupported(model: nn.Module, situation: Situation) -> str | None:
    on_cpu = situation.device.type == "cpu"
    layers = float_linears(model)
    if on_cpu and not set(layers) - set(tied_linears(model)):
        return "the model has no float32 nn.Linear layer of its own weight, and on a CPU float16 packs nothing else"
    tensors: list[Tensor] = [m.weight for m in layers.values()] if on_cpu else list(model.parameters())
    if not any(t.dtype == torch.float32 for t in tensors):
        return "the model has no float32 parameter to store as float16"
    largest = max(float(t.detach().abs().max()) for t in tensors if t.dtype == torch.float32 and t.numel())
    if not largest <= LARGEST:
        return f"a weight reaches {largest:g} and float16 ends at {LARGEST:g}; use bfloat16"
    return None


def _apply(model: nn.Module, situation: Situation) -> Applied:
    with prove_it_runs("float16", model, situation):
        on_cpu = situation.device.type == "cpu"
        return _pack(model) if on_cpu else Applied(model, cast_model(model, situation, torch.float16))


def _pack(model: nn.Module) -> Applied:
    layers, tied, engine = float_linears(model), tied_linears(model), packing_engine()
    assert engine is not None, "unavailable() was asked before"
    names = [name for name in layers if name not in tied]
    packed = replace_each(model, partial(packed_half, engine=engine), names)
    count = f"{len(names)} of {len(layers)} nn.Linear weights"
    change = f"packed {count} as float16, sums stay float32 ({list_briefly(names)})"
    return Applied(packed, (change, *left_in_float32(packed)))


FLOAT16 = Method(
    Setting(
        name="float16",
        sentence="Half-precision weights on a CPU, with sums in float32; the whole model computes in float16 on a GPU.",
        stage=40,
        exact=False,
        expected_cost_s=2.0,
        references=("https://arxiv.org/abs/1710.03740", "https://arxiv.org/abs/2101.05615"),
        on_request="saves memory and no time on a CPU, and on a GPU bfloat16 does the same with more range",
    ),
    apply=_apply,
    unsupported=_unsupported,
    unavailable=_unavailable,
)
