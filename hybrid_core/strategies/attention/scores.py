"""Reads where attention scores come from: upwards from the softmax to the product of queries and keys.

Every dimension carries a label. The product contracts one label ("d") and leaves two of its own ("m" of the left
operand, "n" of the right); every step between it and the softmax moves labels (transpose, view), scales, or adds to and
fills scores. What is not understood is refused or not found, never guessed. The graph read here is what
`torch.export` gives before decompositions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from hybrid_core.errors import StrategyUnsupported

# A score filled with less than this is certainly zero after softmax; a larger one is part of the arithmetic.
FILLED_AWAY = -1e4
SAME = {"contiguous", "clone", "alias", "detach", "detach_", "to", "_to_copy", "type_as", "lift_fresh_copy"}
VIEWS = ("view", "reshape", "_unsafe_view", "flatten", "unflatten")
Labels = tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One step between product and softmax. `kind`: scale, add, fill, permute or view; `value` is its operand.

    scale: multiply by `value` (divide if `flag`). add: add `value` (subtract if `flag`). fill: `value` is
    (condition, number), filled where the condition holds (where it does not if `flag`). permute: the dims. view: sizes.
    """

    kind: str
    value: Any
    flag: bool = False


@dataclass(frozen=True)
class Scores:
    """A product of two tensors, the steps applied to it, and the labels its dimensions now carry."""

    product: Node
    left: Node
    left_labels: Labels
    right: Node
    right_labels: Labels
    contracted: str
    product_labels: Labels
    labels: Labels
    steps: tuple[Step, ...] = ()
    chain: tuple[Node, ...] = ()

    def then(self, node: Node, step: Step | None = None, labels: Labels | None = None) -> Scores:
        """The same scores after one more step, which `node` computes."""
        steps = self.steps if step is None else (*self.steps, step)
        return replace(self, steps=steps, chain=(*self.chain, node), labels=self.labels if labels is None else labels)


def op_name(node: Any) -> str:
    """'matmul' for a call of `aten.matmul.default`; '' for anything that is not a call of a PyTorch operator."""
    target = getattr(node, "target", None)
    return target._schema.name.split("::")[1] if isinstance(target, torch._ops.OpOverload) else ""


def explain(node: Node, constant: Callable[[Any], float | None]) -> Scores | None:
    """Follow a value upwards to the product it comes from; None when there is none on understood steps."""
    name = op_name(node)
    if name in ("matmul", "bmm", "linalg_matmul", "einsum"):
        return read_product(node)
    if name in SAME:
        same = explain(as_node(node.args[0]), constant)
        return None if same is None else same.then(node)
    if name in ("mul", "multiply", "div", "divide", "true_divide"):
        return _explain_scaling(node, name.startswith(("div", "true")), constant)
    if name in ("add", "sub"):
        return _explain_sum(node, name == "sub", constant)
    if name in ("masked_fill", "where"):
        return _explain_fill(node, name, constant)
    if name == "baddbmm":
        return _explain_baddbmm(node)
    inner = explain(as_node(node.args[0]), constant) if _is_layout(name) else None
    if inner is None:
        return None
    moved = moved_labels(node, as_node(node.args[0]), inner.labels)
    if moved is not None:
        return inner.then(node, Step("permute", [inner.labels.index(s) for s in moved]), moved)
    sizes = regroup_sizes(as_node(node.args[0]), node, inner.labels, "m", "n")
    return inner.then(node, Step("view", sizes), grouped_labels(node)("m", "n"))


def _explain_scaling(node: Node, divides: bool, constant: Callable[[Any], float | None]) -> Scores | None:
    first, second = node.args[0], node.args[1]
    if len(node.args) > 2 or node.kwargs:
        return None
    for scaled, factor in ((first, second),) if divides else ((first, second), (second, first)):
        inner = explain(scaled, constant) if isinstance(scaled, Node) and _is_factor(factor) else None
        if inner is not None:
            number = constant(factor)
            return inner.then(node, Step("scale", factor if number is None else number, divides))
    return None


def _explain_sum(node: Node, subtracts: bool, constant: Callable[[Any], float | None]) -> Scores | None:
    if node.kwargs.get("alpha", 1) != 1 or len(node.args) > 2:
        return None
    first, second = node.args[0], node.args[1]
    rank = rank_of(node)
    for scores, added in ((first, second),) if subtracts else ((first, second), (second, first)):
        inner = explain(scores, constant) if isinstance(scores, Node) else None
        if inner is not None and rank_of(as_node(scores)) == rank:
            return inner.then(node, Step("add", added, subtracts) if isinstance(added, Node) else None)
    return None


def _explain_fill(node: Node, name: str, constant: Callable[[Any], float | None]) -> Scores | None:
    if name == "masked_fill":
        scores, condition, filled, keeps = node.args[0], node.args[1], node.args[2], False
        inner = explain(as_node(scores), constant)
    else:
        condition, scores, filled, keeps = node.args[0], node.args[1], node.args[2], True
        inner = explain(scores, constant) if isinstance(scores, Node) else None
        if inner is None and isinstance(filled, Node):
            scores, filled, keeps = filled, scores, False
            inner = explain(as_node(scores), constant)
    if inner is None:
        return None
    value = constant(filled)
    if value is None or math.isnan(value) or value > FILLED_AWAY:
        shown = "an unknown value" if value is None else f"{value:g}"
        raise StrategyUnsupported(f"masked scores are filled with {shown}, which is not certainly zero after softmax")
    if rank_of(as_node(scores)) != rank_of(node):
        return None
    return inner.then(node, Step("fill", (condition, value), keeps))


def _explain_baddbmm(node: Node) -> Scores:
    beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
    scores = _matmul_labels(node, as_node(node.args[1]), as_node(node.args[2]))
    if alpha != 1:
        scores = scores.then(node, Step("scale", alpha))
    if beta == 0:
        return scores
    if beta != 1:
        raise StrategyUnsupported(
            f"the scores are added to a tensor scaled by beta={beta}; only 0 and 1 are understood"
        )
    return scores.then(node, Step("add", node.args[0]))


def read_product(node: Node) -> Scores:
    """Label the dimensions of a matmul, bmm or einsum of two tensors."""
    if op_name(node) == "einsum":
        return _einsum_labels(node)
    return _matmul_labels(node, as_node(node.args[0]), as_node(node.args[1]))


def _matmul_labels(node: Node, left: Node, right: Node) -> Scores:
    if rank_of(left) < 2 or rank_of(right) < 2:
        raise StrategyUnsupported("the product is with a vector, not with a matrix")
    batch = batch_labels(rank_of(node))
    return Scores(
        node,
        left,
        (*batch[len(batch) - rank_of(left) + 2 :], "m", "d"),
        right,
        (*batch[len(batch) - rank_of(right) + 2 :], "d", "n"),
        "d",
        (*batch, "m", "n"),
        (*batch, "m", "n"),
        chain=(node,),
    )


def _einsum_labels(node: Node) -> Scores:
    """Rename the letters of an einsum of two operands: shared and kept = batch, shared and summed = d."""
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    inputs, arrow, out = equation.partition("->")
    parts = inputs.split(",")
    if len(parts) != 2 or not arrow or "." in equation or any(len(set(p)) != len(p) for p in (*parts, out)):
        raise StrategyUnsupported(f"einsum '{equation}' is not a plain product of two tensors")
    shared = set(parts[0]) & set(parts[1])
    summed = sorted(shared - set(out))
    lefts, rights = (sorted(set(p) - shared) for p in parts)
    if len(summed) != 1 or len(lefts) != 1 or len(rights) != 1 or not set(lefts + rights) <= set(out):
        raise StrategyUnsupported(f"einsum '{equation}' is not a product of rows with rows")
    batch = [c for c in out if c in shared]
    names = dict(zip(batch, batch_labels(len(batch) + 2), strict=True)) | {
        summed[0]: "d",
        lefts[0]: "m",
        rights[0]: "n",
    }
    left, right, result = (tuple(names[c] for c in p) for p in (*parts, out))
    assert isinstance(operands, list | tuple)
    return Scores(node, as_node(operands[0]), left, as_node(operands[1]), right, "d", result, result, chain=(node,))


def batch_labels(rank: int) -> Labels:
    """b0, b1, ... for all but the last two dimensions."""
    return tuple(f"b{i}" for i in range(rank - 2))


def grouped_labels(node: Node) -> Callable[[str, str], Labels]:
    """Fresh labels for the dimensions that a view made, given those of the last two."""
    return lambda row, column: (*batch_labels(rank_of(node)), row, column)


def _is_layout(name: str) -> bool:
    return name in ("transpose", "permute", "mT", "swapaxes", "swapdims") or name in VIEWS


def moved_labels(node: Node, source: Node, labels: Labels) -> Labels | None:
    """The labels after a transpose or permute of `source`; None when the node is something else."""
    if not node.args or node.args[0] is not source:
        return None
    order = list(range(len(labels)))
    name = op_name(node)
    if name in ("transpose", "swapaxes", "swapdims", "mT"):
        one, two = (-1, -2) if name == "mT" else (int(node.args[1]), int(node.args[2]))  # type: ignore[arg-type]
        order[one], order[two] = order[two], order[one]
    elif name == "permute":
        order = [int(i) for i in node.args[1]]  # type: ignore[arg-type, union-attr]
    else:
        return None
    return tuple(labels[i] for i in order)


def regroup_sizes(source: Node, node: Node, labels: Labels, row: str, column: str) -> list[Any]:
    """The sizes of a view that only regroups leading dimensions; refuses one that mixes queries or keys in.

    The last two are those of the source and may be None here.
    """
    before, after = source.meta["val"].shape, node.meta["val"].shape
    keeps_rows = labels == (*batch_labels(len(labels)), row, column) and len(after) >= 3
    if not keeps_rows or not all(sizes_equal(a, b) for a, b in zip(before[-2:], after[-2:], strict=True)):
        raise StrategyUnsupported("a view of the scores mixes the dimensions of queries and keys with others")
    if op_name(node) == "flatten":
        return [-1, None, None] if len(after) == 3 else _mixed()
    if op_name(node) == "unflatten":
        return [*node.args[2], None, None] if len(before) == 3 else _mixed()  # type: ignore[misc, union-attr]
    return list(node.args[1])  # type: ignore[arg-type]


def _mixed() -> list[Any]:
    raise StrategyUnsupported("a view of the scores regroups some leading dimensions and keeps others")


def sizes_equal(one: Any, two: Any) -> bool:
    """True when two sizes, symbolic or not, are certainly equal."""
    return bool(statically_known_true(one == two))


def _is_factor(value: Any) -> bool:
    """A number, a symbolic number, a scalar tensor, or a tensor of one value per row of scores."""
    if not isinstance(value, Node):
        return isinstance(value, int | float)
    held = value.meta.get("val")
    if not isinstance(held, torch.Tensor):
        return held is not None
    return held.dim() == 0 or held.shape[-1] == 1


def rank_of(node: Node) -> int:
    """The number of dimensions of a node's tensor."""
    return int(node.meta["val"].dim())


def as_node(value: Any) -> Node:
    """The value as a node; a plain number in its place is a refusal."""
    if not isinstance(value, Node):
        raise StrategyUnsupported(f"the scores are computed from the plain number {value!r}")
    return value
