"""A stack of matrices as one tensor of int8 values and scales, which model code can use where a parameter stood.

Asked for experts by index it widens those alone; any other operator gets the whole stack widened for the call, so an
operator can be slow and never wrong. torchao's own int8 tensor is not used for this: it is refused under
`torch.inference_mode`, ignores scales when it is indexed by a tensor, and has no products of whole stacks.
Source: https://docs.pytorch.org/docs/stable/notes/extending.html (tensor subclasses).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

# What only moves or copies keeps the form; the rest is computed in floating point.
_KEEPING = (torch.ops.aten.detach.default, torch.ops.aten.clone.default, torch.ops.aten.alias.default)

# Inference mode cannot make views of a tensor without memory, so a view is one of the widened stack.
_VIEW_NAMES = (
    "select transpose permute view reshape unbind unsqueeze squeeze flatten unflatten split chunk narrow expand"
)
_VIEWS = {
    Tensor.__getitem__,
    Tensor.mT.__get__,  # type: ignore[attr-defined]
    *(getattr(Tensor, name) for name in _VIEW_NAMES.split()),
    *(getattr(torch, name) for name in _VIEW_NAMES.split() if hasattr(torch, name)),
}


class Int8Stack(Tensor):
    """`weight_int8` (stack, rows, columns) times `scale` (stack, rows, 1), in the type of `scale`."""

    weight_int8: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, weight_int8: Tensor, scale: Tensor) -> Int8Stack:
        """A wrapper without memory of its own."""
        made: Int8Stack = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, weight_int8.shape, dtype=scale.dtype, device=weight_int8.device, requires_grad=False
        )
        return made

    def __init__(self, weight_int8: Tensor, scale: Tensor) -> None:
        self.weight_int8, self.scale = weight_int8, scale

    def widened(self) -> Tensor:
        """The whole stack as a plain tensor."""
        return self.weight_int8 * self.scale

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{type(self).__name__}(shape={tuple(self.shape)}, dtype={self.dtype}, device={self.device})"

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["weight_int8", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, Tensor], facts: Any, size: Any, stride: Any) -> Int8Stack:
        return cls(inner["weight_int8"], inner["scale"])

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """`stack[index]` widens what is asked for; tuples reach into rows and columns and take the long way."""
        if func is Tensor.__getitem__ and type(args[0]) is cls and not isinstance(args[1], tuple):
            return args[0].weight_int8[args[1]] * args[0].scale[args[1]]
        if func in _VIEWS and type(args[0]) is cls:
            args = (args[0].widened(), *args[1:])
        # Not super(), which would dress plain results up as stacks without values.
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _KEEPING:
            return cls(func(args[0].weight_int8), func(args[0].scale))
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") in (None, args[0].dtype):
            where = {"device": (kwargs or {}).get("device")}
            return cls(func(args[0].weight_int8, **where), func(args[0].scale, **where))
        plain_args, plain_kwargs = tree_map(lambda t: t.widened() if type(t) is cls else t, (args, kwargs or {}))
        return func(*plain_args, **plain_kwargs)
