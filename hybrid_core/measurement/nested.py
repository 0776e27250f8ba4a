"""Walking the nested tuples, lists and dicts that models take and give.

Outputs of real models are seldom one tensor. Everything that compares, copies or moves them goes through `leaves` and
`map_tensors`, so structure is understood in one place; a leaf's path ("output[1].logits") is what error sentences name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch


def leaves(value: Any, path: str = "output") -> Iterator[tuple[str, Any]]:
    """Every leaf with its path, in order.

    >>> [path for path, _ in leaves({"a": (1, [2])})]
    ["output['a'][0]", "output['a'][1][0]"]
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}[{key!r}]")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def tensor_leaves(value: Any) -> list[torch.Tensor]:
    """The tensors of a nested value, in order."""
    return [leaf for _, leaf in leaves(value) if isinstance(leaf, torch.Tensor)]


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same structure with every tensor changed; other leaves are passed through."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(item, change) for item in value)
    return value


def clone_tensors(value: Any) -> Any:
    """A copy that shares no memory with the original."""
    return map_tensors(value, lambda tensor: tensor.detach().clone())


def snapshot(value: Any) -> Any:
    """A copy as `clone_tensors` makes it, but of plain tensors only.

    A tensor subclass stays what it is: copying could make it compute now what it should have computed before.
    """
    plain = (torch.Tensor, torch.nn.Parameter)
    return map_tensors(value, lambda tensor: tensor.detach().clone() if type(tensor) in plain else tensor)


def describe(value: Any) -> str:
    """Short text for error sentences and fingerprints: 'float32[1, 512, 256]'."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__
