"""`int8_dynamic`: every nn.Linear weight as int8 with one scale per output channel, inputs quantized at each call.

No calibration data is needed. `int8_keep_ends` leaves the first and the last layer that runs as they are: they touch
what goes in and what comes out, and cost accuracy out of proportion to their bytes. On CPUs without VNNI the fast
kernel saturates at full range, so activations keep 7 bits (`reduce_range`) and a probe refuses an engine that adds
wrongly. Stacks of experts are int8 in the same way where the model multiplies one expert at a time; where it does not,
or torchao, which rounds them, is missing, they stay float32 and the change says so.
Sources: Jacob et al. 2018 (arXiv 1712.05877); the FBGEMM paper, Khudia et al. 2021 (arXiv 2101.05615).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.ao.nn.quantized import dynamic as quantized_dynamic
from torch.ao.quantization import per_channel_dynamic_qconfig

from hybrid_core.strategies.base import Applied, Method, Setting, Situation, list_briefly, refuse_when
from hybrid_core.strategies.precision.expert_stacks import find_stacks, quantize_stacks
from hybrid_core.strategies.precision.linear_layers import (
    float_linears,
    left_in_float32,
    replace_each,
    running_order,
    tied_linears,
)
from hybrid_core.strategies.precision.proof import prove_it_runs
from hybrid_core.strategies.precision.saturation import adds_correctly
from hybrid_core.strategies.precision.torchao_library import without_torchao

# Fastest first, as measured on AVX2; each must pass the probe before it is used.
ENGINES = ("x86", "fbgemm", "onednn", "qnnpack")


def correct_engine() -> str | None:
    """The first int8 engine that adds correctly on this processor; None when all saturate or are missing."""
    for engine in ENGINES:
        if engine in torch.backends.quantized.supported_engines and adds_correctly(partial(packed_by, engine)):
            return engine
    return None


def packed_by(engine: str, layer: nn.Linear) -> nn.Module:
    """The packed int8 copy of one layer; leaves the layer as it was."""
    layer.qconfig = per_channel_dynamic_qconfig  # type: ignore[assignment]
    try:
        with engine_set_to(engine):
            quantized: nn.Module = quantized_dynamic.Linear.from_float(layer)  # type: ignore[no-untyped-call]
    finally:
        del layer.qconfig
    return quantized


@contextmanager
def engine_set_to(name: str) -> Iterator[None]:
    """The engine that packs weights is a global of torch; it is put back. Packed weights remember their engine."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def unavailable(device: str, setting: str) -> str | None:
    """int8 activations need a CPU kernel that adds correctly."""
    if not device.startswith("cpu"):
        return f"{setting} has kernels for the CPU only and the device is '{device}'; use bfloat16 there"
    if correct_engine() is None:
        return f"no int8 engine of this PyTorch adds correctly here (tried {', '.join(ENGINES)}); use bfloat16"
    return None


def _unsupported(model: nn.Module, situation: Situation) -> str | None:
    if not float_linears(model) and (not find_stacks(model) or without_torchao("int8_dynamic")):
        return "the model has no float32 nn.Linear layer and no stack of experts, and nothing else is quantized"
    return None


def _too_few(model: nn.Module, situation: Situation) -> str | None:
    layers = len(float_linears(model))
    if layers < 3:
        return f"the model has {layers} float32 nn.Linear layers, and int8_keep_ends needs one between first and last"
    return None


def _apply(model: nn.Module, situation: Situation) -> Applied:
    return _pack(model, situation, "int8_dynamic", kept=[])


def _apply_between_the_ends(model: nn.Module, situation: Situation) -> Applied:
    order, tied = running_order(model, situation), tied_linears(model)
    kept = list(dict.fromkeys([*order[:1], *order[-1:], *tied]))
    idle = set(float_linears(model)) - set(kept)
    refuse_when(None if idle else "every nn.Linear is the first or last that runs, or tied; use int8_dynamic")
    return _pack(model, situation, "int8_keep_ends", kept)


def _pack(model: nn.Module, situation: Situation, setting: str, kept: list[str]) -> Applied:
    """Swap each distinct nn.Linear once, wherever it is held, so that a layer used in two places is packed once."""
    layers, tied = float_linears(model), tied_linears(model)
    engine = correct_engine()
    assert engine is not None, "unavailable() was asked before"
    names = [name for name in layers if name not in kept]
    stacks = () if without_torchao(setting) else quantize_stacks(model, situation, dynamic=True)
    with prove_it_runs(setting, model, situation):
        packed = replace_each(model, partial(packed_by, engine), names)
    count = f"{len(names)} of {len(layers)} nn.Linear layers"
    changes = [f"stored {count} as int8, engine {engine} ({list_briefly(names)})"] if names else []
    refuse_when(None if names or any(said.startswith("stored") for said in stacks) else "; ".join(stacks))
    if kept:
        changes.append(f"kept {list_briefly(kept)} in float32: the ends of the example call, or tied to another module")
    doubled = [name for name in tied if name not in kept]
    if doubled:
        changes.append(f"{list_briefly(doubled)} shares its weight with another module, which keeps the float32 bytes")
    return Applied(packed, (*changes, *stacks, *left_in_float32(packed)))


_REFERENCES = ("https://arxiv.org/abs/1712.05877", "https://arxiv.org/abs/2101.05615")

INT8_DYNAMIC = Method(
    Setting(
        name="int8_dynamic",
        sentence="Linear layers keep int8 weights, one scale per output channel, and quantize inputs at each call.",
        stage=40,
        exact=False,
        expected_cost_s=2.0,
        references=_REFERENCES,
    ),
    apply=_apply,
    unsupported=_unsupported,
    unavailable=partial(unavailable, setting="int8_dynamic"),
)

INT8_KEEP_ENDS = Method(
    Setting(
        name="int8_keep_ends",
        sentence="As int8_dynamic, but the first and the last linear layer that run, and tied ones, stay float32.",
        stage=40,
        exact=False,
        expected_cost_s=2.0,
        references=_REFERENCES,
        on_request="larger than int8_dynamic and not measurably faster; for models that lose too much accuracy with it",
    ),
    apply=_apply_between_the_ends,
    unsupported=_too_few,
    unavailable=partial(unavailable, setting="int8_keep_ends"),
)
