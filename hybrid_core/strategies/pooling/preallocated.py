"""Large elementwise results that never leave their module go into buffers that are allocated once.

The C library hands blocks above 32 MiB back to the system as soon as they are freed, so each call gets fresh pages and
pays a page fault for every 4 KiB, which costs more than the arithmetic. Each module's own forward is traced with its
children closed; a result whose readers all return memory of their own cannot be seen outside, and may be written with
`out=` into a buffer of a pool. What is returned stays a fresh tensor. Source: the mallopt manual on M_MMAP_THRESHOLD.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.search import Call, is_torch_module, record_calls
from hybrid_core.strategies.base import (
    Applied,
    Conflict,
    Method,
    Setting,
    Situation,
    list_briefly,
    run_example,
    tensors_in,
)
from hybrid_core.strategies.pooling.buffer_pool import BufferPool
from hybrid_core.strategies.pooling.freshness import gives_new_memory
from hybrid_core.strategies.pooling.out_forms import OutForm, find_out_form
from hybrid_core.strategies.pooling.own_body import Body, Seen, install_body, observe_body, trace_body

# From 32 MiB on every block is mapped anew; chains of blocks of half that are often trimmed from the heap's end.
LEAST_BYTES = 16 << 20
_MIB = 1 << 20
_COMPILED = (
    ("kernel_fusion", "compile"),
    ("kernel_fusion", "compile_freezing"),
    ("kernel_fusion", "compile_max_autotune"),
    ("kernel_fusion", "compile_regional"),
    ("quantization", "int8_static"),
)


@dataclass
class _Found:
    """What the search saw: how many results moved, where, and the largest elementwise result of all."""

    count: int = 0
    names: tuple[str, ...] = ()
    largest: int = 0


def use_buffers(model: nn.Module, situation: Situation, least_bytes: int = LEAST_BYTES) -> Applied:
    """Rewrite every module with large private elementwise results; refuses with the largest one it saw."""
    before, pool, found = run_example(model, situation), BufferPool(), _Found()
    for call in record_calls(model, situation):
        if not is_torch_module(call.module) or isinstance(call.module, nn.Sequential):
            _rewrite(call, pool, found, least_bytes)
    if not found.count:
        raise StrategyUnsupported(_why_none(found, least_bytes))
    _check_same(before, run_example(model, situation))
    held = f"{pool.count} buffers of together {pool.held_bytes / _MIB:.1f} MiB, allocated once and held between calls"
    moved = f"{found.count} large elementwise results, in {list_briefly(list(found.names))}, go into {held}"
    return Applied(model, (moved, "calls that record gradients or have other shapes run as before"))


def _why_none(found: _Found, least_bytes: int) -> str:
    if found.largest < least_bytes:
        return (
            f"the largest elementwise result is {found.largest / _MIB:.1f} MiB, below the {least_bytes / _MIB:g} MiB "
            "from where freed memory goes back to the system and is paid for again in every call"
        )
    return (
        f"elementwise results of up to {found.largest / _MIB:.1f} MiB leave their module, so each must be a new tensor"
    )


def _check_same(before: Any, after: Any) -> None:
    for one, other in zip(tensors_in(before), tensors_in(after), strict=True):
        if one.shape != other.shape or not torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise StrategyUnsupported("the rewritten forward gives other results, so its text cannot be read reliably")


def _rewrite(call: Call, pool: BufferPool, found: _Found, least_bytes: int) -> None:
    """Move what can be moved in one module's own forward."""
    body = trace_body(call.module, call.args, call.kwargs)
    seen = observe_body(call, body) if body is not None else None
    if body is None or seen is None:
        return
    wanted: dict[Node, OutForm] = {}
    for node in body.graph.nodes:
        rewrite = find_out_form(node, call.module)
        if rewrite is None or node not in seen:
            continue
        found.largest = max(found.largest, seen[node].nbytes)
        if seen[node].nbytes >= least_bytes and _stays_inside(node, call.module, seen):
            wanted[node] = rewrite
    if wanted:
        forms = _move(body.graph, wanted, seen)
        install_body(call.module, body, wrap=_lending(pool, forms), admits=_same_form_as(body, seen))
        found.count, found.names = found.count + len(wanted), (*found.names, call.name)


def _stays_inside(node: Node, module: nn.Module, seen: dict[Node, Seen]) -> bool:
    """True when every reader returns memory of its own, so that nothing outside can ever see this result."""
    form = seen[node]
    spanned = torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device="meta").untyped_storage().nbytes()
    return spanned == form.nbytes and bool(node.users) and all(gives_new_memory(user, module) for user in node.users)


def _move(graph: Graph, wanted: dict[Node, OutForm], seen: dict[Node, Seen]) -> list[Seen]:
    """Give every wanted node a buffer, reused as soon as its last reader is done; returns the buffers' forms."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    forms: list[Seen] = []
    busy_until: list[int] = []
    chosen: dict[Node, int] = {}
    for node in wanted:
        last = max(order[user] for user in node.users)
        # A buffer whose last reader is this very node may take its result: elementwise, so each element is read
        # before it is written, and of the same form, so nothing is broadcast.
        free = [i for i, end in enumerate(busy_until) if forms[i] == seen[node] and end <= order[node]]
        if not free:
            forms.append(seen[node])
            busy_until.append(-1)
        chosen[node] = free[0] if free else len(forms) - 1
        busy_until[chosen[node]] = last
    _insert_buffers(graph, wanted, chosen, len(forms))
    return forms


def _insert_buffers(graph: Graph, wanted: dict[Node, OutForm], chosen: dict[Node, int], count: int) -> None:
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    buffers: list[Node] = []
    for i in range(count):
        with graph.inserting_after(([*inputs, *buffers] or [graph._root])[-1]):
            buffers.append(graph.placeholder(f"lent_buffer_{i}"))
    for node, rewrite in wanted.items():
        node.op, node.target, node.args = "call_function", rewrite.function, rewrite.args
        node.kwargs = {**rewrite.kwargs, "out": buffers[chosen[node]]}
    graph.lint()


def _lending(pool: BufferPool, forms: list[Seen]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrap(rewritten: Callable[..., Any]) -> Callable[..., Any]:
        def with_buffers(module: nn.Module, *arguments: Any) -> Any:
            with pool.lend(forms) as buffers:
                return rewritten(module, *arguments, *buffers)

        return with_buffers

    return wrap


def _same_form_as(body: Body, seen: dict[Node, Seen]) -> Callable[..., bool]:
    """The buffers fit calls of the example's shapes; `out=` has no gradient, and a compiler plans its own buffers."""
    inputs = [node for node in body.graph.nodes if node.op == "placeholder" and str(node.target) in body.names]
    expected = [seen.get(node) for node in inputs]

    def admits(*arguments: Any) -> bool:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        return all(form is None or _has_form(value, form) for form, value in zip(expected, arguments, strict=True))

    return admits


def _has_form(value: Any, form: Seen) -> bool:
    return isinstance(value, Tensor) and (value.shape, value.dtype, value.device) == (
        form.shape,
        form.dtype,
        form.device,
    )


PREALLOCATED = Method(
    Setting(
        name="preallocated",
        sentence="Elementwise results of 16 MiB and more go into buffers that are allocated once for all calls.",
        # After quantization, whose types decide what the buffers hold.
        stage=45,
        exact=True,
        expected_cost_s=1.5,
        references=("https://man7.org/linux/man-pages/man3/mallopt.3.html",),
        on_request="it needs elementwise results of 16 MiB and more, which hardly any model has",
    ),
    apply=use_buffers,
    conflicts=tuple(
        Conflict("preallocated", strategy, compiled, "compiled code plans its buffers itself and would pass these by")
        for strategy, compiled in _COMPILED
    ),
)
