"""Which operations of a traced forward may write into a tensor they are given, and which tensors share memory.

Both answers are cautious: what is not known to make new memory may be a view of its inputs, what is not PyTorch's own
may write into them, and all inputs of the forward count as one memory, because a caller may pass one tensor twice.
"""

from __future__ import annotations

import operator

import torch
from torch import nn
from torch.fx import Graph, Node
from torch.nn import functional as F

from hybrid_core.strategies.attention.search import is_torch_module
from hybrid_core.strategies.pooling.freshness import gives_new_memory, has_hooks

_PURE_OPERATORS = {
    getattr, operator.getitem, operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv,
    operator.matmul, operator.neg, operator.pow,
}  # fmt: skip


class Aliases:
    """Puts the nodes of a graph into classes; nodes of different classes surely share no memory."""

    def __init__(self, module: nn.Module, graph: Graph) -> None:
        self._parent: dict[Node, Node] = {node: node for node in graph.nodes}
        given = [node for node in graph.nodes if node.op in ("placeholder", "get_attr")]
        for node in given[1:]:
            self._join(node, given[0])
        for node in graph.nodes:
            if may_write(node, module) or not gives_new_memory(node, module):
                for argument in node.all_input_nodes:
                    self._join(node, argument)

    def of(self, node: Node) -> Node:
        """The representative of the node's class."""
        while self._parent[node] is not node:
            node = self._parent[node]
        return node

    def _join(self, one: Node, other: Node) -> None:
        self._parent[self.of(one)] = self.of(other)


def may_write(node: Node, module: nn.Module) -> bool:
    """True unless the operation is known to leave its inputs alone."""
    if node.op == "call_module":
        child = module.get_submodule(str(node.target))
        # A container is the library's, what it holds need not be.
        known = is_torch_module(child) and not child._modules and not has_hooks(child)
        return not known or bool(getattr(child, "inplace", False))
    if node.op == "call_method":
        # Tracing has refused the writing methods of tensors; other objects (a cache) may do anything.
        name = str(node.target)
        return not hasattr(torch.Tensor, name) or (name.endswith("_") and not name.endswith("__"))
    return node.op == "call_function" and not _is_pure_function(node)


def _is_pure_function(node: Node) -> bool:
    function, name = node.target, getattr(node.target, "__name__", "")
    if "out" in node.kwargs or node.kwargs.get("inplace") or name.endswith("_"):
        return False
    if function in _PURE_OPERATORS:
        return True
    # `inplace` may be given by position; a True that means something else only costs a merge.
    flagged = any(argument is True for argument in node.args[1:])
    library = str(getattr(function, "__module__", "") or "")
    of_torch = library.startswith("torch") or hasattr(torch, name) and getattr(torch, name) is function
    return (of_torch or hasattr(F, name) and getattr(F, name) is function) and not flagged
