"""Writes elementwise results into their input's buffer, wherever it is proven that nobody else can see that buffer.

Each module's own forward is traced with its children closed. A result may be overwritten when the operation that made
it always returns new memory (never a view or its own input), when nothing else reads it, and when the example shows
that shape and type stay the same. Everything else is left alone. Source of the idea: Chen et al. 2016, section 3
(arXiv 1604.06174).
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torch.nn import functional as F

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.search import Call, is_torch_module, record_calls
from hybrid_core.strategies.base import Applied, Method, Setting, Situation, list_briefly, run_example, tensors_in
from hybrid_core.strategies.pooling.freshness import gives_new_memory, has_hooks
from hybrid_core.strategies.pooling.own_body import Seen, install_body, observe_body, trace_body

# Elementwise operations and the call that writes the same numbers into the first operand.
IN_PLACE_FUNCTIONS: dict[Any, tuple[str, Any]] = {
    operator.add: ("call_method", "add_"), torch.add: ("call_method", "add_"),
    operator.sub: ("call_method", "sub_"), torch.sub: ("call_method", "sub_"),
    operator.mul: ("call_method", "mul_"), torch.mul: ("call_method", "mul_"),
    operator.truediv: ("call_method", "div_"), torch.div: ("call_method", "div_"),
    torch.relu: ("call_method", "relu_"), torch.sigmoid: ("call_method", "sigmoid_"),
    torch.tanh: ("call_method", "tanh_"), F.sigmoid: ("call_method", "sigmoid_"), F.tanh: ("call_method", "tanh_"),
    torch.exp: ("call_method", "exp_"), torch.rsqrt: ("call_method", "rsqrt_"), torch.sqrt: ("call_method", "sqrt_"),
}  # fmt: skip
IN_PLACE_METHODS = {"add", "sub", "mul", "div", "relu", "sigmoid", "tanh", "exp", "rsqrt", "sqrt", "masked_fill"}
SWAPS_OPERANDS = {operator.add, torch.add, operator.mul, torch.mul}
FLAGGED_MODULES: dict[type[nn.Module], Any] = {nn.ReLU: F.relu, nn.SiLU: F.silu, nn.ReLU6: F.relu6, nn.Mish: F.mish,
                                               nn.Hardswish: F.hardswish, nn.Hardsigmoid: F.hardsigmoid}  # fmt: skip
# Marks a node whose result lies in memory that was proven private when this graph was changed.
OURS = "writes into private memory"
HAS_FLAG = set(FLAGGED_MODULES.values())


def use_in_place(model: nn.Module, situation: Situation) -> Applied:
    """Rewrite every module whose forward can be read; raises when nothing is provably safe."""
    before = run_example(model, situation)
    changed, count = [], 0
    for call in record_calls(model, situation):
        done = 0 if is_torch_module(call.module) and not isinstance(call.module, nn.Sequential) else _rewrite(call)
        count += done
        changed += [call.name] * bool(done)
    if not changed:
        raise StrategyUnsupported(
            "no elementwise result is provably private to its next reader, so none can be overwritten"
        )
    _check_same(before, run_example(model, situation))
    return Applied(model, (f"{count} elementwise results overwrite their input, in {list_briefly(changed)}",))


def _check_same(before: Any, after: Any) -> None:
    for one, other in zip(tensors_in(before), tensors_in(after), strict=True):
        if one.shape != other.shape or not torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise StrategyUnsupported("the rewritten forward gives other results, so its text cannot be read reliably")


def _rewrite(call: Call) -> int:
    """Rewrite one module's own forward; returns how many results now overwrite their input."""
    body = trace_body(call.module, call.args, call.kwargs)
    if body is None:
        return 0
    seen = observe_body(call, body)
    if seen is None:
        return 0
    replaced = [node for node in list(body.graph.nodes) if _write_in_place(node, call.module, seen)]
    if replaced:
        body.graph.lint()
        install_body(call.module, body)
    return len(replaced)


def _write_in_place(node: Node, module: nn.Module, seen: dict[Node, Seen]) -> bool:
    """Turn one node into its in-place form when that is safe; returns whether it was."""
    flagged = _flagged_function(node, module)
    if flagged is None and node.target not in (IN_PLACE_METHODS if node.op == "call_method" else IN_PLACE_FUNCTIONS):
        return False
    for operand in _candidates(node):
        if not _is_private(operand, node, module) or not _same_form(seen, operand, node):
            continue
        rest = [a for a in node.args if a is not operand]
        node.meta[OURS] = True
        if flagged is not None:
            node.op, node.target, node.kwargs = "call_function", flagged, {**node.kwargs, "inplace": True}
        elif node.op == "call_method":
            node.target = f"{node.target}_"
        else:
            node.op, node.target = IN_PLACE_FUNCTIONS[node.target]
            node.args = (operand, *rest)
        return True
    return False


def _same_form(seen: dict[Node, Seen], one: Node, other: Node) -> bool:
    return one in seen and other in seen and seen[one][:2] == seen[other][:2]


def _candidates(node: Node) -> list[Node]:
    """The operands whose buffer may take the result: the first, or either one of a sum or product."""
    operands = node.args[:2] if node.target in SWAPS_OPERANDS else node.args[:1]
    if node.kwargs and node.op == "call_function" and node.target in IN_PLACE_FUNCTIONS:
        return []
    return [a for a in operands if isinstance(a, Node)] if len(set(map(id, node.args))) == len(node.args) else []


def _is_private(operand: Node, reader: Node, module: nn.Module) -> bool:
    """True when the operand is new memory that only `reader` ever sees."""
    if list(operand.users) != [reader] or operand in reader.kwargs.values():
        return False
    return OURS in operand.meta or gives_new_memory(operand, module)


def _flagged_function(node: Node, module: nn.Module) -> Any:
    """The function with an `inplace` flag that computes this node, None where there is none."""
    if node.op == "call_function" and node.target in HAS_FLAG and len(node.args) == 1:
        return node.target
    if node.op == "call_module":
        child = module.get_submodule(str(node.target))
        return None if has_hooks(child) else FLAGGED_MODULES.get(type(child))
    return None


IN_PLACE = Method(
    Setting(
        name="in_place",
        sentence="Activations and sums are written into their input's buffer wherever nobody else can see it.",
        stage=30,
        exact=True,
        expected_cost_s=1.5,
        references=("https://arxiv.org/abs/1604.06174",),
    ),
    apply=use_in_place,
)
