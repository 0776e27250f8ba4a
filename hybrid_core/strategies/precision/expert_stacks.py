"""Stacks of experts: 3-D parameters that hold most of a mixture model's weights and are no nn.Linear.

A filter on nn.Linear misses them silently. torchao rounds each stack (one scale per row of each expert) and an
`Int8Stack` takes its place (`int8_experts` where the inputs are to be int8 too). Libraries that multiply all experts at
once would widen a whole stack for that, so a model that can switch to one expert at a time is switched. What runs is
compared with the same rounded weights in float32: code that reads the stack in a way that nobody thought of must not be
wrong in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.strategies.base import Situation, list_briefly, run_example, tensors_in
from hybrid_core.strategies.precision.int8_experts import DynamicStack, products_are_right
from hybrid_core.strategies.precision.int8_stack import Int8Stack
from hybrid_core.strategies.precision.linear_layers import is_stack
from hybrid_core.strategies.precision.proof import first_line
from hybrid_core.strategies.precision.torchao_library import int8_rows

# The same weights in another form: only the order of additions may differ.
SAME = 1e-3
# Inputs rounded to 8 bits as well.
CLOSE = 0.1


def find_stacks(model: nn.Module) -> list[str]:
    """Names of the float32 parameters that are stacks of matrices."""
    plain = {n: p for n, p in model.named_parameters() if type(p) is nn.Parameter and p.dtype == torch.float32}
    return [name for name, parameter in plain.items() if parameter.dim() == 3 and is_stack(model, name)]


def quantize_stacks(model: nn.Module, situation: Situation, *, dynamic: bool = False) -> tuple[str, ...]:
    """Make every stack int8 where the model runs with it and answers alike; else leave all as they were, and say so.

    With `dynamic` the inputs of each expert are int8 too, which only code that multiplies one expert at a time allows.
    """
    names = find_stacks(model)
    if not names:
        return ()
    shapes = sorted({"x".join(map(str, model.get_parameter(name).shape)) for name in names})
    left = f"left {len(names)} stacks of experts ({list_briefly(shapes)}) in float32 ({list_briefly(names)}): "
    if dynamic and not products_are_right():
        return (left + "torch._int_mm adds wrongly on this processor",)
    original = {name: model.get_parameter(name) for name in names}
    kind = DynamicStack if dynamic else Int8Stack
    rounded = {name: kind(*int8_rows(parameter)) for name, parameter in original.items()}
    _put(model, {name: stack.widened() for name, stack in rounded.items()})
    with torch.inference_mode():
        expected = tensors_in(run_example(model, situation))
    _put(model, rounded)
    undo = _switch_to_single_experts(model)
    why = _differs(model, situation, expected, CLOSE if dynamic else SAME) or _widens(model, names, dynamic)
    if why and undo is not None:
        undo()
        undo, why = None, _differs(model, situation, expected, CLOSE if dynamic else SAME)
        why = why or _widens(model, names, dynamic)
    if why:
        _put(model, original)
        return (left + why,)
    saved = sum(parameter.numel() * 3 for parameter in original.values()) / 1e6
    switched = "" if undo is None else "; experts are multiplied one at a time"
    inputs = ", and round their inputs at each call" if dynamic else ""
    stored = f"stored {len(names)} stacks of experts as int8{inputs}, {saved:.2f} MB less ({list_briefly(names)})"
    return (stored + switched,)


def _widens(model: nn.Module, names: list[str], dynamic: bool) -> str | None:
    """Why dynamic stacks would only be widened: none of an expert's products ran in int8 in the call just made."""
    if not dynamic:
        return None
    idle = [name for name in names if not model.get_parameter(name).products]  # type: ignore[attr-defined]
    if not idle:
        return None
    return f"the model's code does not multiply {list_briefly(idle)} by nn.functional.linear, one expert at a time"


def _differs(model: nn.Module, situation: Situation, expected: list[Tensor], allowed: float) -> str | None:
    """Why the model does not answer as `expected`; tried in inference mode, which is how it will be used."""
    try:
        with torch.inference_mode():
            found = tensors_in(run_example(model, situation))
    except Exception as error:  # tensor subclasses are refused in as many ways as there are operators
        return f"the model's own code cannot use int8 experts, {first_line(error)}"
    pairs = [(a.double(), b.double()) for a, b in zip(expected, found, strict=True) if a.is_floating_point()]
    error_of_worst = max((float((a - b).norm() / (a.norm() + 1e-30)) for a, b in pairs), default=0.0)
    if error_of_worst > allowed:
        return (
            f"an operator reads int8 experts wrongly, relative error {error_of_worst:.1e} where {allowed:g} is allowed"
        )
    return None


def _put(model: nn.Module, tensors: dict[str, Any]) -> None:
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        parameter = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
        model.get_submodule(owner)._parameters[leaf] = parameter


def _switch_to_single_experts(model: nn.Module) -> Callable[[], None] | None:
    """Ask a model of `transformers` for one product per expert; returns what undoes it, None where nothing switches."""
    configs = {id(c): c for m in model.modules() if hasattr(c := getattr(m, "config", None), "_experts_implementation")}
    before = {key: config._experts_implementation for key, config in configs.items()}  # type: ignore[union-attr]
    if not configs or set(before.values()) == {"eager"}:
        return None

    def undo() -> None:
        for key, config in configs.items():
            config._experts_implementation = before[key]  # type: ignore[union-attr]

    for config in configs.values():
        config._experts_implementation = "eager"  # type: ignore[union-attr]
    return undo
