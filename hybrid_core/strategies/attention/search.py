"""Finds where a model computes attention by watching one example run, not by names.

A softmax seen during the run marks the place; the stack of modules being executed at that moment says whose forward
wrote it, and the inputs each of them received are kept so that it can be exported alone. What is already fused
(`scaled_dot_product_attention`, nn.MultiheadAttention) is counted, so that a refusal can say why.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from hybrid_core.strategies.base import Situation, run_example

_SOFTMAX = {
    torch.softmax,
    torch.Tensor.softmax,
    functional.softmax,
    torch.special.softmax,
}
_FUSED = {functional.scaled_dot_product_attention, functional.multi_head_attention_forward}
# What graphs of operators call, such as a program that was exported and brought as a file.
_SOFTMAX_OPERATORS = {"aten::softmax", "aten::_softmax", "aten::_safe_softmax"}
_FUSED_OPERATORS = {"aten::scaled_dot_product_attention", "aten::_scaled_dot_product_flash_attention_for_cpu"}


@dataclass(frozen=True)
class Call:
    """One call of a module during the example: its name in the model and what it received."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Findings:
    """`sites`: for each module that runs a softmax, the calls from it outwards; `fused`: modules already fused."""

    sites: dict[str, tuple[Call, ...]] = field(default_factory=dict)
    fused: list[str] = field(default_factory=list)


def find_attention(model: nn.Module, situation: Situation) -> Findings:
    """Run the example once and report every module whose own forward runs a softmax."""
    stack: list[Call] = []
    first: dict[str, Call] = {}
    handles = [handle for name, module in model.named_modules() for handle in _watch(name, module, stack, first)]
    watcher = _Watcher(stack)
    try:
        with watcher:
            run_example(model, situation)
    finally:
        for handle in handles:
            handle.remove()
    return watcher.findings


def record_calls(model: nn.Module, situation: Situation) -> list[Call]:
    """The first call of every module during the example, in the order entered; caches are kept as they were then."""
    calls: dict[str, Call] = {}

    def remember(name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name not in calls:
                calls[name] = Call(name, module, *pytree.tree_map(_as_it_is_now, (args, kwargs)))

        return enter

    handles = [m.register_forward_pre_hook(remember(n), with_kwargs=True) for n, m in model.named_modules()]
    try:
        run_example(model, situation)
    finally:
        for handle in handles:
            handle.remove()
    return list(calls.values())


def _as_it_is_now(value: Any) -> Any:
    return value if isinstance(value, torch.Tensor | int | float | str | None) else copy.deepcopy(value)


def is_torch_module(module: nn.Module) -> bool:
    """True for modules that PyTorch itself ships, whose forward is not the user's text."""
    return type(module).__module__.startswith("torch.nn")


def count_fused_calls(run: Callable[[], Any]) -> int:
    """How many times `run` calls `scaled_dot_product_attention`."""
    watcher = _Watcher([])
    with watcher:
        run()
    return watcher.fused_calls


def _watch(name: str, module: nn.Module, stack: list[Call], first: dict[str, Call]) -> tuple[Any, Any]:
    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name not in first:  # caches are kept as they are now; later the call could not be made again
            first[name] = Call(name, module, *pytree.tree_map(_as_it_is_now, (args, kwargs)))
        stack.append(first[name])

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        stack.pop()

    return (
        module.register_forward_pre_hook(enter, with_kwargs=True),
        module.register_forward_hook(leave, always_call=True),
    )


class _Watcher(TorchFunctionMode):
    def __init__(self, stack: list[Call]) -> None:
        self.stack = stack
        self.findings = Findings()
        self.fused_calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operator = func._schema.name if isinstance(func, torch._ops.OpOverload) else ""
        if func in _SOFTMAX or operator in _SOFTMAX_OPERATORS:
            self._record_softmax()
        elif func in _FUSED or operator in _FUSED_OPERATORS:
            self.fused_calls += 1
            name = self.stack[-1].name if self.stack else ""
            if name not in self.findings.fused:
                self.findings.fused.append(name)
        return func(*args, **(kwargs or {}))

    def _record_softmax(self) -> None:
        users = [call for call in reversed(self.stack) if not is_torch_module(call.module)]
        if users:
            self.findings.sites.setdefault(users[0].name, tuple(users))
