"""`int8_static`: products and convolutions in int8 with the ranges of activations learned from a few calls beforehand.

torchao's export flow watches the model on calibration inputs, puts quantize and dequantize steps around every linear
layer and convolution, and torch's compiler turns these into oneDNN's int8 kernels: without compiling they are slower
than float32, so this setting compiles. Both kernels are tried at full range on this processor first; where they
saturate, activations keep 7 bits.
Sources: Jacob et al. 2018 (arXiv 1712.05877); https://docs.pytorch.org/ao (PT2E, X86InductorQuantizer).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import ANY_SETTING, Applied, Conflict, Method, Setting, Situation, tensors_in
from hybrid_core.strategies.kernels.compilation import compile_in_place, no_compiler_reason
from hybrid_core.strategies.precision.proof import first_line, prove_it_runs
from hybrid_core.strategies.precision.saturation import static_range
from hybrid_core.strategies.precision.sensitivity import inputs_like_the_example
from hybrid_core.strategies.precision.torchao_library import calibrated_int8, without_torchao

CALIBRATION_INPUTS = 8
QUANTIZED = (nn.Linear, nn.Conv2d)


class StaticInt8(nn.Module):
    """The exported int8 form of a model, called like the model; its other attributes are gone."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph."""
        return self.graph(*args, **kwargs)


def _unavailable(device: str) -> str | None:
    if not device.startswith("cpu"):
        return f"int8_static generates kernels for the CPU only and the device is '{device}'; use float16 or float8"
    if (reason := without_torchao("int8_static")) is not None:
        return reason
    if static_range() is None:
        return "oneDNN's int8 products add wrongly or are missing on this processor; use bfloat16"
    return no_compiler_reason(device)


def _unsupported(model: nn.Module, situation: Situation) -> str | None:
    if situation.workload.kind == "decode":
        return (
            "int8_static exports the model's call, and a decode calls it with a cache that it changes; use int8_dynamic"
        )
    if not any(type(module) in QUANTIZED for module in model.modules()):
        return "the model has no nn.Linear and no nn.Conv2d, and int8_static quantizes nothing else"
    return None


def _apply(model: nn.Module, situation: Situation) -> Applied:
    args, kwargs = _in_a_batch_of_two(model, *_only_call(model, situation))
    ranges = static_range()
    assert ranges is not None, "unavailable() was asked before"
    inputs = inputs_like_the_example(situation, CALIBRATION_INPUTS)
    before = sum(type(module) in QUANTIZED for module in model.modules())
    try:
        with torch.inference_mode(False), torch.no_grad():
            exported = torch.export.export(
                model, args, kwargs, dynamic_shapes=_sizes(model, args, kwargs), strict=False
            )
            graph, count = calibrated_int8(
                exported.module(), lambda watched: [situation.call(watched, one) for one in inputs], ranges == 127
            )
    except Exception as error:  # user code can fail to export in as many ways as there are programs
        raise StrategyUnsupported(f"{type(model).__name__} cannot be exported for int8, {first_line(error)}") from error
    if not count:
        raise StrategyUnsupported(f"none of the {before} linear layers and convolutions could be given int8 operands")
    changed = StaticInt8(graph)
    with prove_it_runs("int8_static", changed, situation):
        pass
    compiled = compile_in_place(changed, situation, freezing=True)
    bits = 8 if ranges == 255 else 7
    first = (
        f"gave {count} products and convolutions int8 operands, activations in {bits} bits, from {len(inputs)} calls"
    )
    return Applied(compiled.model, (first, *compiled.changes))


def _only_call(model: nn.Module, situation: Situation) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with which the workload calls the model, which must be once."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = model.register_forward_pre_hook(lambda _model, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    try:
        with torch.no_grad():
            situation.call(model, situation.example_inputs)
    finally:
        hook.remove()
    if len(seen) != 1:
        raise StrategyUnsupported(
            f"one call of the workload calls the model {len(seen)} times, and int8_static needs one"
        )
    return seen[0]


def _in_a_batch_of_two(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call twice in one batch, where the model takes rows one by one: the exporter fixes sizes of 1."""

    def doubled(value: Any) -> Any:
        return torch.cat([value, value]) if isinstance(value, Tensor) and value.shape[:1] == (1,) else value

    two_args, two_kwargs = pytree.tree_map(doubled, (args, kwargs))
    try:
        with torch.no_grad():
            once, twice = tensors_in(model(*args, **kwargs)), tensors_in(model(*two_args, **two_kwargs))
    except Exception:  # code that is written for one row, whatever it raises for two
        return args, kwargs
    shapes = [(2, *one.shape[1:]) == two.shape for one, two in zip(once, twice, strict=True)]
    alike = all(shapes) and all(torch.allclose(two[:1], one, 1e-3, 1e-5) for one, two in zip(once, twice, strict=True))
    return (two_args, two_kwargs) if alike else (args, kwargs)


def _sizes(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Sizes above 1 may differ in later calls where the code allows it."""

    def free(value: Any) -> Any:
        return {i: Dim.AUTO for i, n in enumerate(value.shape) if n > 1} if isinstance(value, Tensor) else None

    return dict(pytree.tree_map(free, inspect.signature(model.forward).bind(*args, **kwargs).arguments))


INT8_STATIC = Method(
    Setting(
        name="int8_static",
        sentence="Linear layers and convolutions compute in int8 with ranges learned beforehand; compiled by Inductor.",
        stage=40,
        exact=False,
        expected_cost_s=45.0,
        references=("https://arxiv.org/abs/1712.05877", "https://docs.pytorch.org/ao"),
        compiles=True,
    ),
    apply=_apply,
    unsupported=_unsupported,
    unavailable=_unavailable,
    conflicts=(
        Conflict(
            "int8_static",
            "kernel_fusion",
            ANY_SETTING,
            "int8_static exports and compiles the whole model itself, so there is nothing left to fuse",
        ),
        Conflict(
            "int8_static",
            "memory_pooling",
            "micro_batch",
            "int8_static is compiled for the sizes of a whole call, and micro_batch calls the model with parts of it",
        ),
    ),
)
