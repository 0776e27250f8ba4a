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
from torch.ao.nn.quantized import dynamic as quantized_dynamic
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import functional as F

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.search import Call, is_torch_module, record_calls
from hybrid_core.strategies.base import Applied, Method, Setting, Situation, list_briefly, run_example, tensors_in
from hybrid_core.strategies.pooling.own_body import Body, bind_arguments, install_body, trace_body

# Children and functions that always return new memory. Conversions and reshapes may return their input, so: not here.
FRESH_MODULES = (
    nn.Linear, quantized_dynamic.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.BatchNorm1d,
    nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Embedding, nn.SiLU, nn.GELU, nn.ReLU,
    nn.Sigmoid, nn.Tanh, nn.Softmax,
)  # fmt: skip
FRESH_FUNCTIONS = {
    torch.matmul, torch.bmm, torch.einsum, torch.softmax, torch.cat, torch.relu, torch.sigmoid, torch.tanh, torch.exp,
    torch.rsqrt, torch.sqrt, torch.pow, torch.add, torch.sub, torch.mul, torch.div, F.linear, F.conv1d, F.conv2d,
    F.layer_norm, F.rms_norm, F.batch_norm, F.gelu, F.silu, F.relu, F.softmax, F.sigmoid, F.tanh, F.embedding,
    F.scaled_dot_product_attention, operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul,
    operator.neg,
}  # fmt: skip
FRESH_METHODS = {"matmul", "softmax", "pow", "rsqrt", "sqrt", "exp", "add", "sub", "mul", "div", "mean", "sum", "relu",
                 "sigmoid", "tanh", "bmm"}  # fmt: skip
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
    seen = _observe(call, body)
    if seen is None:
        return 0
    replaced = [node for node in list(body.graph.nodes) if _write_in_place(node, call.module, seen)]
    if replaced:
        body.graph.lint()
        install_body(call.module, body)
    return len(replaced)


class _Observer(Interpreter):
    """Runs the traced body once and notes shape and type of each tensor."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[Node, tuple[torch.Size, torch.dtype]] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.seen[n] = (result.shape, result.dtype)
        return result


def _observe(call: Call, body: Body) -> dict[Node, tuple[torch.Size, torch.dtype]] | None:
    arguments = bind_arguments(call.module, call.args, call.kwargs)
    assert arguments is not None, "the body was traced, so the arguments bind"
    traced = GraphModule(call.module, body.graph)
    observer, graph_nodes, copied = _Observer(traced), list(body.graph.nodes), list(traced.graph.nodes)
    try:
        with torch.no_grad():
            observer.run(*(arguments[name] for name in body.names))
    except Exception:  # a body that runs only inside its model (its cache has moved on, say) is left alone
        return None
    pairs = zip(graph_nodes, copied, strict=True)
    return {mine: observer.seen[theirs] for mine, theirs in pairs if theirs in observer.seen}


def _write_in_place(node: Node, module: nn.Module, seen: dict[Node, Any]) -> bool:
    """Turn one node into its in-place form when that is safe; returns whether it was."""
    flagged = _flagged_function(node, module)
    if flagged is None and node.target not in (IN_PLACE_METHODS if node.op == "call_method" else IN_PLACE_FUNCTIONS):
        return False
    for operand in _candidates(node):
        if not _is_private(operand, node, module) or seen.get(operand, 0) != seen.get(node, 1):
            continue
        rest = [a for a in node.args if a is not operand]
        if flagged is not None:
            node.op, node.target, node.kwargs = "call_function", flagged, {**node.kwargs, "inplace": True}
        elif node.op == "call_method":
            node.target = f"{node.target}_"
        else:
            node.op, node.target = IN_PLACE_FUNCTIONS[node.target]
            node.args = (operand, *rest)
        return True
    return False


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
    if operand.op == "call_module":
        # Exact types: a subclass may return anything. A hook may have kept the result.
        child = module.get_submodule(str(operand.target))
        return type(child) in FRESH_MODULES and not child._forward_hooks
    if operand.op == "call_method":
        return operand.target in FRESH_METHODS or str(operand.target).rstrip("_") in IN_PLACE_METHODS
    return operand.op == "call_function" and (operand.target in FRESH_FUNCTIONS or bool(operand.kwargs.get("inplace")))


def _flagged_function(node: Node, module: nn.Module) -> Any:
    """The function with an `inplace` flag that computes this node, None where there is none."""
    if node.op == "call_function" and node.target in HAS_FLAG and len(node.args) == 1:
        return node.target
    if node.op == "call_module":
        child = module.get_submodule(str(node.target))
        return None if child._forward_hooks or child._forward_pre_hooks else FLAGGED_MODULES.get(type(child))
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
