"""The one door to torchao: imported when first needed, quietly, and only the parts that this project uses.

Its import takes seconds and warns of each kernel library that is for another processor, once per start. The warnings
are held back while it is imported; the libraries themselves are not skipped, a GPU needs them.
Source: torchao 0.18, https://github.com/pytorch/ao.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import warnings

import torch
from torch import Tensor, nn

GROUPED_BITS = 4
NOISY = ("torchao", "torchao.kernel.intmm", "torch.utils._pytree")


def without_torchao(setting: str) -> str | None:
    """A sentence when torchao is not installed; cheap, it imports nothing."""
    if importlib.util.find_spec("torchao") is None:
        return f"{setting} rounds weights with torchao, which is not installed; pip install torchao==0.18"
    return None


def int8_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values of a matrix, or a stack of them, and the scale of each row; symmetric around zero."""
    _import_quietly()
    from torchao.quantization import Int8Tensor, PerRow

    quantized = Int8Tensor.from_hp(weight.detach(), PerRow())
    return quantized.qdata, quantized.scale


def int4_groups(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values 0..15 (out, in), scales and zeros (out, in/group); weight = (values - 8) * scale + zero.

    Half-quadratic quantization (HQQ) moves the zeros so that outliers cost less; it needs no data.
    """
    _import_quietly()
    from torchao.quantization.quant_primitives import _choose_qparams_and_quantize_affine_hqq

    values, scale, zero, _ = _choose_qparams_and_quantize_affine_hqq(
        weight.detach().float(),
        nbits=GROUPED_BITS,
        group_size=group,
        axis=1,
        compute_dtype=torch.float32,
        device=str(weight.device),
    )
    rows = weight.shape[0]
    return values.reshape(weight.shape), scale.reshape(rows, -1), zero.reshape(rows, -1)


def int4_tiles(weight: Tensor, group: int) -> Tensor:
    """The same for a GPU: a torchao tensor that holds the packed tiles of its kernel and multiplies in bfloat16."""
    _import_quietly()
    from torchao.quantization import Int4WeightOnlyConfig, quantize_

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=torch.bfloat16)
    layer.weight.data.copy_(weight)
    quantize_(layer, Int4WeightOnlyConfig(group_size=group, int4_packing_format="tile_packed_to_4d"))
    return layer.weight


def make_float8(model: nn.Module, names: set[str]) -> None:
    """Change the named linear layers in place: float8 weights with one scale per row, inputs rounded at each call."""
    _import_quietly()
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
    quantize_(model, config, filter_fn=lambda _module, name: name in names)


def _import_quietly() -> None:
    if "torchao.quantization" in sys.modules:
        return
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("torchao.quantization")
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
