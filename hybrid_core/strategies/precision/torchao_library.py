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
from collections.abc import Callable

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

    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=False, device="meta")  # initializing would draw random numbers
    layer.weight = nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)
    quantize_(layer, Int4WeightOnlyConfig(group_size=group, int4_packing_format="tile_packed_to_4d"))
    tiles: Tensor = layer.weight
    return tiles


def make_float8(model: nn.Module, names: set[str]) -> None:
    """Change the named linear layers in place: float8 weights with one scale per row, inputs rounded at each call."""
    _import_quietly()
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
    quantize_(model, config, filter_fn=lambda _module, name: name in names)


def calibrated_int8(
    graph: torch.fx.GraphModule, watch: Callable[[nn.Module], object], seven_bits: bool
) -> tuple[nn.Module, int]:
    """Watch the ranges while `watch(model)` runs an exported graph, then convert it; returns it and its int8 products.

    The float weights that the converted graph no longer reads are dropped.
    """
    _import_quietly()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config(reduce_range=seven_bits))
        prepared = prepare_pt2e(graph, quantizer)
        watch(prepared)
        converted: torch.fx.GraphModule = convert_pt2e(prepared)
    _drop_what_is_not_read(converted, graph, prepared)
    channels = torch.ops.quantized_decomposed.dequantize_per_channel.default
    return converted, sum(node.target is channels for node in converted.graph.nodes)


def _drop_what_is_not_read(converted: torch.fx.GraphModule, *earlier: torch.fx.GraphModule) -> None:
    """Free the float weights: the earlier forms stay alive, the later ones refer to them."""
    read = {str(node.target) for node in converted.graph.nodes if node.op == "get_attr"}
    for graph in (converted, *earlier):
        for owner_name, owner in list(graph.named_modules()):
            for held in (owner._parameters, owner._buffers):
                for name in [n for n in held if f"{owner_name}.{n}".lstrip(".") not in read]:
                    del held[name]
    for method in ("train", "eval"):  # they refuse to be called, and belong to an earlier form
        converted.__dict__.pop(method, None)


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
