"""`int8_dynamic`: every nn.Linear weight as int8 with one scale per output channel, inputs quantized at each call.

No calibration data is needed. On CPUs without VNNI the fast kernel saturates at full range, so activations keep 7 bits
(`reduce_range`) and a probe refuses an engine that adds wrongly.
Sources: Jacob et al. 2018 (arXiv 1712.05877); the FBGEMM paper, Khudia et al. 2021 (arXiv 2101.05615).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.ao.nn.quantized import dynamic as quantized_dynamic
from torch.ao.quantization import per_channel_dynamic_qconfig

from hybrid_core.strategies.base import Applied, Method, Setting, Situation, list_briefly
from hybrid_core.strategies.precision.proof import prove_it_runs

# Fastest first, as measured on AVX2; each must pass the probe below before it is used.
ENGINES = ("x86", "fbgemm", "onednn", "qnnpack")


def correct_engine() -> str | None:
    """The first int8 engine that sums 512 products of ones to 512; None when all saturate or are missing.

    Eight-bit activations times eight-bit weights overflow the 16-bit lanes of AVX2 and silently give about 256.
    """
    for engine in ENGINES:
        if engine in torch.backends.quantized.supported_engines and _adds_correctly(engine):
            return engine
    return None


def _adds_correctly(engine: str) -> bool:
    layer = nn.Linear(512, 16, bias=False)
    nn.init.ones_(layer.weight)
    with _engine(engine), torch.no_grad():
        total = _int8_linear(layer)(torch.ones(4, 512))
    return bool((total - 512).abs().max() < 512 * 0.01)


@contextmanager
def _engine(name: str) -> Iterator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def _int8_linear(layer: nn.Linear) -> nn.Module:
    """The packed int8 copy of one layer; leaves the layer as it was."""
    layer.qconfig = per_channel_dynamic_qconfig  # type: ignore[assignment]
    try:
        quantized: nn.Module = quantized_dynamic.Linear.from_float(layer)  # type: ignore[no-untyped-call]
    finally:
        del layer.qconfig
    return quantized


def _linear_names(model: nn.Module) -> list[str]:
    # Exact type: subclasses (for example the output projection inside nn.MultiheadAttention) are read by other code.
    return [n for n, m in model.named_modules() if type(m) is nn.Linear and m.weight.dtype == torch.float32]


def _quantize_linears(model: nn.Module) -> tuple[str, ...]:
    """Swap each distinct nn.Linear once, wherever it is held, so that a layer used in two places is packed once."""
    names = _linear_names(model)
    packed: dict[nn.Module, nn.Module] = {}
    engine = correct_engine()
    assert engine is not None, "unavailable() was asked before"
    with _engine(engine):
        for parent in list(model.modules()):
            for name, child in list(parent._modules.items()):
                if type(child) is nn.Linear and child.weight.dtype == torch.float32:
                    packed[child] = packed.get(child) or _int8_linear(child)
                    parent._modules[name] = packed[child]
    return (f"stored {len(packed)} of {len(names)} nn.Linear layers as int8, engine {engine} ({list_briefly(names)})",)


def _unavailable(device: str) -> str | None:
    """int8 needs a CPU kernel that adds correctly."""
    if not device.startswith("cpu"):
        return f"int8_dynamic has kernels for the CPU only and the device is '{device}'; use bfloat16 there"
    if correct_engine() is None:
        return f"no int8 engine of this PyTorch adds correctly here (tried {', '.join(ENGINES)}); use bfloat16"
    return None


def _unsupported(model: nn.Module, situation: Situation) -> str | None:
    if not _linear_names(model):
        return "the model has no float32 nn.Linear layer, and int8_dynamic quantizes nothing else"
    return None


def _apply(model: nn.Module, situation: Situation) -> Applied:
    with prove_it_runs("int8_dynamic", model, situation):
        changes = _quantize_linears(model)
    return Applied(model, changes)


INT8_DYNAMIC = Method(
    Setting(
        name="int8_dynamic",
        sentence="Linear layers keep int8 weights, one scale per output channel, and quantize inputs at each call.",
        stage=40,
        exact=False,
        expected_cost_s=2.0,
        references=("https://arxiv.org/abs/1712.05877", "https://arxiv.org/abs/2101.05615"),
    ),
    apply=_apply,
    unsupported=_unsupported,
    unavailable=_unavailable,
)
