"""Writes `scaled_dot_product_attention` in place of each understood attention of an exported graph.

Queries, keys and values are brought to (batch, heads, rows, features) by views; scale factors become the kernel's
exact `scale`; everything that was added to or filled into the scores is replayed, in the original order, on a mask of
its own, so that it means the same. A finite fill becomes the lowest number of the type: it absorbs any score it is
added to, so a row masked everywhere stays the uniform row that filling gave.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.nn import functional

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.pattern import Attention, read_attention
from hybrid_core.strategies.attention.scores import Labels, Step, batch_labels, op_name

aten = torch.ops.aten
SOFTMAX = ("softmax", "_softmax", "_safe_softmax")


def fuse_attention(
    graph: Graph, constant: Callable[[Any], float | None], kernel: Callable[..., Any] | None = None
) -> tuple[int, list[str]]:
    """Rewrite every softmax of the graph that is understood; returns how many, and the reasons for the others.

    `kernel` takes the arguments of `scaled_dot_product_attention`, which it is when left out.
    """
    _simplify(graph)
    fused, reasons = 0, []
    for softmax in [node for node in graph.nodes if op_name(node) in SOFTMAX]:
        try:
            _Writer(graph, read_attention(softmax, constant), kernel).write()
            fused += 1
        except StrategyUnsupported as refusal:
            reasons.append(str(refusal))
    graph.eliminate_dead_code()
    graph.lint()
    return fused, reasons


def _simplify(graph: Graph) -> None:
    """Remove what only restates types, because each such node would count as a second reader of the scores."""
    for node in reversed(list(graph.nodes)):
        if op_name(node) == "_assert_tensor_metadata":
            graph.erase_node(node)
        elif op_name(node) == "type_as":
            node.target, node.args = aten.to.dtype, (node.args[0], node.meta["val"].dtype)
    graph.eliminate_dead_code()


class _Writer:
    """Emits the nodes of one attention, right before the product that ends it."""

    def __init__(self, graph: Graph, found: Attention, kernel: Callable[..., Any] | None) -> None:
        self.graph, self.found, self.scores = graph, found, found.scores
        self.kernel = kernel or functional.scaled_dot_product_attention
        self.dtype: torch.dtype = found.final.meta["val"].dtype
        self.batch = [s for s in self.scores.product_labels if s not in ("m", "n")]
        left = (self.scores.left, self.scores.left_labels)
        right = (self.scores.right, self.scores.right_labels)
        self.query, self.key = (left, right) if found.query_label == "m" else (right, left)
        self.mask: Node | None = None
        self.mask_rank = 0
        self.scale: Any = 1.0

    def write(self) -> None:
        """Emit the fused call and let it take the place of the final product."""
        found, scores = self.found, self.scores
        with self.graph.inserting_before(found.final):
            sizes = _batch_sizes(scores.product, scores.product_labels)
            query = self._arranged(*self.query, (found.query_label, "d"), sizes, self._batch_size)
            key = self._arranged(*self.key, (found.key_label, "d"), sizes, self._batch_size)
            labels = scores.product_labels
            for step in scores.steps:
                query, key, labels = self._replay(step, query, key, labels)
            rank = len(labels)
            self._order_mask(labels, (*batch_labels(rank), found.query_label, found.key_label))
            value = self._value(query, rank)
            out = self._returned(self._attend(query, key, value, rank))
        found.final.replace_all_uses_with(out)

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        return self.graph.call_function(target, args, kwargs)

    def _length(self, node: Node, labels: Labels, label: str) -> Any:
        """A size as a number, or as a node where it is not fixed."""
        size = node.meta["val"].shape[labels.index(label)]
        return size if isinstance(size, int) else self._call(aten.sym_size.int, node, labels.index(label))

    def _sizes(self, node: Node, count: int) -> list[Node]:
        return [self._call(aten.sym_size.int, node, i) for i in range(count)]

    def _arranged(
        self, node: Node, labels: Labels, last: Labels, sizes: dict[str, Any], read: Callable[[str], Any]
    ) -> Node:
        """A view (b0, b1, ..., *last): moved, missing dimensions added, single ones repeated, the type converted.

        `sizes` are the batch sizes of the result, and `read` gives one of them as a number or a node.
        """
        kept = node.meta["val"]
        order = [labels.index(s) for s in (*(s for s in sizes if s in labels), *last)]
        arranged = node if order == sorted(order) else self._call(aten.permute.default, node, order)
        for i, name in enumerate(sizes):
            if name not in labels:
                arranged = self._call(aten.unsqueeze.default, arranged, i)
        repeated = [s for s in sizes if sizes[s] != 1 and (s not in labels or kept.shape[labels.index(s)] == 1)]
        if repeated:
            wanted = [read(s) if s in repeated else -1 for s in sizes]
            arranged = self._call(aten.expand.default, arranged, [*wanted, -1, -1])
        return arranged if kept.dtype == self.dtype else self._call(aten.to.dtype, arranged, self.dtype)

    def _batch_size(self, label: str) -> Any:
        sizes = [
            self._length(node, labels, label)
            for node, labels in (self.query, self.key)
            if label in labels and node.meta["val"].shape[labels.index(label)] != 1
        ]
        return sizes[0] if sizes else 1

    def _replay(self, step: Step, query: Node, key: Node, labels: Labels) -> tuple[Node, Node, Labels]:
        """Repeat one step of the scores on the operands and on the mask."""
        if step.kind == "scale":
            return self._scaled(step, query, labels), key, labels
        if step.kind == "permute":
            moved = tuple(labels[i] for i in step.value)
            self._order_mask(labels, moved)
            return query, key, moved
        if step.kind == "view":
            return self._viewed(step, query, key, labels)
        self._masked(step)
        return query, key, labels

    def _scaled(self, step: Step, query: Node, labels: Labels) -> Node:
        factor, symbol = step.value, operator.truediv if step.flag else operator.mul
        if self.mask is not None:
            self.mask = self._call(torch.div if step.flag else torch.mul, self.mask, factor)
        if not isinstance(factor, Node):
            self.scale = (
                symbol(self.scale, factor)
                if not isinstance(self.scale, Node)
                else self._call(symbol, self.scale, factor)
            )
        elif not isinstance(factor.meta["val"], torch.Tensor):
            self.scale = self._call(symbol, self.scale, factor)
        else:
            plain = (*batch_labels(len(labels)), self.found.query_label, self.found.key_label)
            if factor.meta["val"].dim() and labels != plain:  # the query has its dimensions in the plain order
                raise StrategyUnsupported("the scores are scaled by a tensor after they were transposed")
            return self._call(
                aten.to.dtype, self._call(torch.div if step.flag else torch.mul, query, factor), self.dtype
            )
        return query

    def _viewed(self, step: Step, query: Node, key: Node, labels: Labels) -> tuple[Node, Node, Labels]:
        rows, columns = self._length(*self.query, self.found.query_label), self._length(*self.key, self.found.key_label)
        width, leading = self._length(*self.query, "d"), step.value[:-2]
        if self.mask is not None:
            full = [*self._sizes(query, len(labels) - 2), rows, columns]
            spread = self._call(torch.Tensor.expand, self.mask, full)
            self.mask = self._call(torch.reshape, spread, [*leading, rows, columns])
            self.mask_rank = len(step.value)
        query = self._call(torch.reshape, query, [*leading, rows, width])
        key = self._call(torch.reshape, key, [*leading, columns, width])
        return query, key, (*(f"b{i}" for i in range(len(leading))), *labels[-2:])

    def _masked(self, step: Step) -> None:
        if step.kind == "add":
            added = step.value
            if not isinstance(added.meta["val"], torch.Tensor):
                return  # the same number for every score changes nothing after softmax
            rank, node = added.meta["val"].dim(), self._in_our_type(added)
            node = self._call(torch.neg, node) if step.flag else node
            self.mask = node if self.mask is None else self._call(torch.add, self.mask, node)
        else:
            condition, number = step.value
            rank, value = condition.meta["val"].dim(), number if math.isinf(number) else torch.finfo(self.dtype).min
            rest = 0.0 if self.mask is None else self.mask
            chosen = (rest, value) if step.flag else (value, rest)
            node = self._call(torch.where, condition, *chosen)
            self.mask = node if self.dtype == torch.float32 else self._call(aten.to.dtype, node, self.dtype)
        self.mask_rank = max(self.mask_rank, rank)

    def _in_our_type(self, added: Node) -> Node:
        kept = added.meta["val"].dtype
        if kept == self.dtype:
            return added
        if kept.is_floating_point and torch.finfo(kept).max > torch.finfo(self.dtype).max:
            # The lowest float64 would become -inf, and a row of those NaN.
            added = self._call(torch.clamp, added, min=torch.finfo(self.dtype).min)
        return self._call(aten.to.dtype, added, self.dtype)

    def _order_mask(self, labels: Labels, wanted: Labels) -> None:
        """Transpose the mask from one order of labels to another."""
        if self.mask is None or labels == wanted:
            return
        self._raise_mask_to(len(labels))
        self.mask = self._call(aten.permute.default, self.mask, [labels.index(s) for s in wanted])

    def _raise_mask_to(self, rank: int) -> None:
        while self.mask is not None and self.mask_rank < rank:
            self.mask = self._call(aten.unsqueeze.default, self.mask, 0)
            self.mask_rank += 1

    def _value(self, query: Node, rank: int) -> Node:
        found = self.found
        sizes = _batch_sizes(found.final, found.out_labels)
        value = self._arranged(
            found.value, found.value_labels, (found.key_label, "e"), sizes, lambda s: self._outer_size(query, s)
        )
        if found.regrouped is None:
            return value
        columns, width = (self._length(found.value, found.value_labels, s) for s in (found.key_label, "e"))
        return self._call(torch.reshape, value, [*self._sizes(query, rank - 2), columns, width])

    def _outer_size(self, query: Node, label: str) -> Any:
        if self.found.regrouped is not None:
            raise StrategyUnsupported("the values are repeated over a dimension that a view of the probabilities made")
        return self._call(aten.sym_size.int, query, int(label[1:]))

    def _attend(self, query: Node, key: Node, value: Node, rank: int) -> Node:
        """Call the fused kernel, which wants four dimensions."""
        sizes = self._sizes(query, rank - 1) if rank > 4 else []
        if rank > 4:
            self._spread_mask(sizes, key, rank)
            query, key, value = (self._call(torch.flatten, x, 0, rank - 4) for x in (query, key, value))
        for _ in range(4 - rank):
            query, key, value = (self._call(aten.unsqueeze.default, x, 0) for x in (query, key, value))
        if self.mask is not None and self.mask_rank != 2:
            self._raise_mask_to(4)
        out = self._call(self.kernel, query, key, value, attn_mask=self.mask, scale=self.scale)
        for _ in range(4 - rank):
            out = self._call(aten.squeeze.dim, out, 0)
        width = self._length(self.found.value, self.found.value_labels, "e")
        return self._call(torch.reshape, out, [*sizes, width]) if rank > 4 else out

    def _spread_mask(self, sizes: list[Node], key: Node, rank: int) -> None:
        """Give a mask of many dimensions the same flattened ones as the scores."""
        if self.mask is None or self.mask_rank <= 2:
            return
        self._raise_mask_to(rank)
        columns = self._call(aten.sym_size.int, key, rank - 2)
        self.mask = self._call(
            torch.flatten, self._call(torch.Tensor.expand, self.mask, [*sizes, columns]), 0, rank - 4
        )
        self.mask_rank = 4

    def _returned(self, out: Node) -> Node:
        """Bring (batch, queries, features) back to the layout that the product with the values had."""
        found = self.found
        rank = len(found.out_labels)
        if found.regrouped is not None:
            width = self._length(found.value, found.value_labels, "e")
            rows = self._length(*self.query, found.query_label)
            out = self._call(torch.reshape, out, [*found.regrouped[:-2], rows, width])
        plain = (*batch_labels(rank), found.query_label, "e")
        order = [plain.index(s) for s in found.out_labels]
        return out if order == sorted(order) else self._call(aten.permute.default, out, order)


def _batch_sizes(node: Node, labels: Labels) -> dict[str, Any]:
    """Batch label to size, in the order b0, b1, ..."""
    return {s: node.meta["val"].shape[labels.index(s)] for s in sorted(labels) if s.startswith("b")}
