"""Stacks of experts whose products are int8 on both sides: the rows that reach an expert are rounded at each call.

`stack[expert]` gives a matrix that `torch.nn.functional.linear` multiplies by `torch._int_mm`, with one scale for each
row of the inputs; packed kernels would do the same, but hide their weights from everything that counts or copies
tensors. Whatever else is done with a stack or with one of its matrices widens it, as in `int8_stack`, so that it is
slow and never wrong. Products are counted, because code that multiplies all experts at once never makes one.
Source: Jacob et al. 2018 (arXiv 1712.05877).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.strategies.precision.int8_stack import Int8Stack
from hybrid_core.strategies.precision.saturation import adds_correctly
from hybrid_core.strategies.precision.torchao_library import int8_rows

LARGEST = 127


def dynamic_product(inputs: Tensor, weight_int8: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Inputs (..., in) times a matrix (out, in) of int8 with scales (out, 1); the inputs get a scale for each row."""
    rows = inputs.reshape(-1, inputs.shape[-1])
    if not len(rows):
        return inputs.new_zeros(*inputs.shape[:-1], len(weight_int8))
    steps = rows.abs().amax(-1, keepdim=True).clamp_min_(torch.finfo(rows.dtype).tiny * LARGEST).div_(LARGEST)
    sums = torch._int_mm((rows / steps).round_().to(torch.int8), weight_int8.t())
    product = sums.to(inputs.dtype).mul_(steps).mul_(scale.flatten())
    product = product if bias is None else product.add_(bias)
    return product.reshape(*inputs.shape[:-1], len(weight_int8))


class Int8Expert(Int8Stack):
    """One matrix of a stack; `stack` is whose it is."""

    stack: DynamicStack

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """A linear layer is computed in int8."""
        if func is nn.functional.linear and len(args) > 1 and type(args[1]) is cls and type(args[0]) is not cls:
            bias = args[2] if len(args) > 2 else (kwargs or {}).get("bias")
            args[1].stack.products += 1
            return dynamic_product(args[0], args[1].weight_int8, args[1].scale, bias)
        return super().__torch_function__(func, types, args, kwargs)


class DynamicStack(Int8Stack):
    """A stack that gives matrices of the kind above; `products` counts those that were multiplied."""

    products = 0

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One expert, asked for by its number, stays int8."""
        if func is Tensor.__getitem__ and type(args[0]) is cls and _is_number(args[1]):
            expert = Int8Expert(args[0].weight_int8[args[1]], args[0].scale[args[1]])
            expert.stack = args[0]
            return expert
        return super().__torch_function__(func, types, args, kwargs)


def _is_number(index: Any) -> bool:
    if isinstance(index, Tensor):
        return index.dim() == 0 and index.dtype in (torch.int64, torch.int32)
    return isinstance(index, int) and not isinstance(index, bool)


def products_are_right() -> bool:
    """Whether `torch._int_mm` adds in 32 bits on this processor; asked once for each change of a model."""

    class Probe(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.values, self.scale = int8_rows(layer.weight.detach())

        def forward(self, inputs: Tensor) -> Tensor:
            return dynamic_product(inputs, self.values, self.scale.reshape(-1, 1))

    try:
        return adds_correctly(Probe)
    except (RuntimeError, NotImplementedError):  # built without the kernel
        return False
