"""Elementwise operations of a traced body, and the function with `out=` that computes the same.

Only operations that read each element before they write it, so that a buffer may be source and target at once.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional as F

from hybrid_core.strategies.pooling.freshness import has_hooks

# One tensor and numbers, or two operands; each function takes `out=`.
_UNARY: dict[Any, Callable[..., Tensor]] = {
    torch.exp: torch.exp, torch.sigmoid: torch.sigmoid, F.sigmoid: torch.sigmoid, torch.tanh: torch.tanh,
    F.tanh: torch.tanh, torch.sqrt: torch.sqrt, torch.rsqrt: torch.rsqrt, torch.neg: torch.neg,
    operator.neg: torch.neg, torch.abs: torch.abs, torch.sin: torch.sin, torch.cos: torch.cos, torch.log: torch.log,
    torch.erf: torch.erf, torch.square: torch.square,
}  # fmt: skip
_BINARY: dict[Any, Callable[..., Tensor]] = {
    operator.add: torch.add, torch.add: torch.add, operator.sub: torch.sub, torch.sub: torch.sub,
    operator.mul: torch.mul, torch.mul: torch.mul, operator.truediv: torch.div, torch.div: torch.div,
    operator.pow: torch.pow, torch.pow: torch.pow, torch.maximum: torch.maximum, torch.minimum: torch.minimum,
}  # fmt: skip
_METHODS: dict[Any, Callable[..., Tensor]] = {
    "exp": torch.exp, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt,
    "neg": torch.neg, "abs": torch.abs, "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div,
    "pow": torch.pow,
}  # fmt: skip
_COMMUTES = {torch.add, torch.mul}
_ACTIVATIONS: dict[Any, Callable[..., Tensor]] = {
    F.silu: torch.ops.aten.silu.out, nn.SiLU: torch.ops.aten.silu.out, nn.Sigmoid: torch.sigmoid, nn.Tanh: torch.tanh,
    F.gelu: torch.ops.aten.gelu.out, nn.GELU: torch.ops.aten.gelu.out,
}  # fmt: skip
_RELUS = (torch.relu, F.relu, nn.ReLU, "relu")


@dataclass(frozen=True)
class OutForm:
    """What a node becomes: `function(*args, **kwargs, out=buffer)`."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def find_out_form(node: Node, module: nn.Module) -> OutForm | None:
    """The same operation as a function with `out=`; None where there is none or it might mean something else."""
    target, args, kwargs = node.target, node.args, dict(node.kwargs)
    if node.op == "call_module":
        child = module.get_submodule(str(target))
        if has_hooks(child) or getattr(child, "inplace", False):
            return None
        target = type(child)
        kwargs |= {"approximate": child.approximate} if isinstance(child, nn.GELU) else {}
    elif node.op not in ("call_function", "call_method"):
        return None
    if target in _RELUS and len(args) == 1 and not kwargs:
        return OutForm(torch.clamp_min, (args[0], 0), {})  # what relu is inside, and it has an `out=`
    if target in _ACTIVATIONS and len(args) == 1 and set(kwargs) <= {"approximate"}:
        return OutForm(_ACTIVATIONS[target], args, kwargs)
    known = _METHODS if node.op == "call_method" else {**_UNARY, **_BINARY}
    function: Callable[..., Tensor] | None = known.get(target)
    return None if function is None or kwargs else _with_tensor_first(function, args)


def _with_tensor_first(function: Callable[..., Tensor], args: tuple[Any, ...]) -> OutForm | None:
    """Torch's functions want a tensor first; a number on the left is only moved where the order does not matter."""
    if isinstance(args[0], Node):
        return OutForm(function, args, {})
    return OutForm(function, args[::-1], {}) if function in _COMMUTES and isinstance(args[1], Node) else None
