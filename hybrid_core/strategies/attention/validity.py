"""For which calls an export is valid, as functions that a call must pass before the exported form may run.

What the exporter assumed about types and sizes is written out as one expression, so that the look costs microseconds.
A held object (held_object.py) answers in the middle of the run; what was assumed about its answer is a second test.
Source: the guards of `torch.export` (PyTorch 2.13).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.held_object import Answered, Asked, is_held_object


@dataclass(frozen=True)
class Example:
    """One call to export for: its flattened inputs, what the original returned, and what it asked a held object."""

    leaves: list[Any]
    spec: Any
    out_spec: Any
    held: int | None
    asked: Asked

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Inputs that are tensors, then those that the held object answered with."""
        return (*(leaf for leaf in self.leaves if isinstance(leaf, Tensor)), *self.asked.returned)


def predicates(
    program: ExportedProgram, example: Example, nodes: list[Node]
) -> tuple[Callable[..., bool], Callable[..., bool]]:
    """Two functions, true exactly for the calls that the export is valid for.

    The first takes the leaves of the inputs; the second the tensors among them and what a held object answered.
    """
    guards: list[str] | None = getattr(program, "_guards_code", None)
    if guards is None:
        raise StrategyUnsupported("this version of PyTorch does not say which sizes an export is valid for")
    places = [i for i, leaf in enumerate(example.leaves) if isinstance(leaf, Tensor)]
    names = [f"a{i}" for i in places] + [f"r{i}" for i in range(len(example.asked.returned))]
    scope: dict[str, Any] = {"Tensor": Tensor, "math": math, "torch": torch}
    before = [
        t for i, leaf in enumerate(example.leaves) if i not in places for t in _fixed_tests(i, leaf, scope, example)
    ]
    after: list[str] = []
    for name, tensor, node in zip(names, example.tensors, nodes, strict=True):
        scope[f"v_{name}"] = (tensor.dtype, tensor.device)
        (after if name.startswith("r") else before).extend(_tensor_tests(name, tensor, node))
    for guard in guards:
        for k in reversed(range(len(names))):
            guard = guard.replace(f"L['tensors'][{k}]", names[k])
        if "L[" in guard:
            raise StrategyUnsupported(f"the export is valid only if '{guard}', which cannot be tested")
        (after if any(f"r{i}." in guard for i in range(len(example.asked.returned))) else before).append(f"({guard})")
    leaf_names = [f"a{i}" for i in range(len(example.leaves))]
    return _test("fits", leaf_names, before, scope), _test("fits_after", names, after, scope)


def _test(name: str, arguments: list[str], tests: list[str], scope: dict[str, Any]) -> Callable[..., bool]:
    exec(f"def {name}({', '.join(arguments)}):\n    return {' and '.join(tests) or 'True'}\n", scope)
    test: Callable[..., bool] = scope[name]
    return test


def _fixed_tests(i: int, leaf: Any, scope: dict[str, Any], example: Example) -> list[str]:
    """An input that is no tensor must be the same again; of a held object its class, and what was read of it."""
    if not is_held_object(leaf):
        scope[f"v{i}"] = leaf
        return [f"(a{i} is v{i} or (type(a{i}) is type(v{i}) and a{i} == v{i}))"]
    scope[f"v{i}"] = leaf.kind if isinstance(leaf, Answered) else type(leaf)
    facts = [f"a{i}.{name} == {value!r}" for name, value in example.asked.read.items()]
    return [f"getattr(a{i}, 'kind', type(a{i})) is v{i}", *facts]


def _tensor_tests(name: str, tensor: Tensor, node: Node) -> list[str]:
    tests = [f"isinstance({name}, Tensor)", f"{name}.dim() == {tensor.dim()}"]
    tests.append(f"({name}.dtype, {name}.device) == v_{name}")
    for d, size in enumerate(node.meta["val"].shape):
        # Sizes 0 and 1 take other paths through broadcasting, so a symbolic size stands for 2 and more.
        tests.append(f"{name}.size({d}) == {size}" if isinstance(size, int) else f"{name}.size({d}) >= 2")
    return tests
