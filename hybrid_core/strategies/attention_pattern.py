"""Reads the meaning of an exported attention: which tensors are query, key, value and mask, and at what scale.

Every dimension carries a label. The product of queries and keys contracts one label and leaves two of its own; every
step between it and the softmax either moves labels (transpose, view), scales, or adds to and fills scores; the softmax
must run over the label that the product with the values contracts. Anything not understood is a refusal with its
reason, never a guess. The graph read here is what `torch.export` gives before decompositions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from hybrid_core.errors import StrategyUnsupported

# A score filled with less than this is certainly zero after softmax; a larger one is part of the arithmetic.
FILLED_AWAY = -1e4
_SAME = {"contiguous", "clone", "alias", "detach", "detach_", "to", "_to_copy", "type_as", "lift_fresh_copy"}
_UNLIKE = {"tanh": "a soft cap (tanh)", "clamp": "clamping", "clip": "clamping", "dropout": "dropout", "relu": "relu"}
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


@dataclass(frozen=True)
class Attention:
    """One understood attention: scores, softmax, and the product with the values that ends it."""

    scores: Scores
    softmax: Node
    key_label: str
    query_label: str
    final: Node
    value: Node
    value_labels: Labels
    out_labels: Labels
    regrouped: list[Any] | None = field(default=None)


def op_name(node: Any) -> str:
    """'matmul' for a call of `aten.matmul.default`; '' for anything that is not a call of a PyTorch operator."""
    target = getattr(node, "target", None)
    return target._schema.name.split("::")[1] if isinstance(target, torch._ops.OpOverload) else ""


def read_attention(softmax: Node, constant: Callable[[Any], float | None]) -> Attention:
    """Understand the attention around one softmax node; raises `StrategyUnsupported` with the reason otherwise.

    `constant(value)` is the number that a graph value always holds, or None.
    """
    source = _node(softmax.args[0])
    scores = _explain(source, constant)
    if scores is None:
        through = _UNLIKE.get(op_name(source), f"'{op_name(source) or source.name}'")
        raise StrategyUnsupported(f"the softmax input comes through {through}, not from a plain product of two tensors")
    axis = int(softmax.args[1])  # type: ignore[arg-type]
    key_label = scores.labels[axis]
    own = [s for s in (*scores.left_labels, *scores.right_labels) if s in ("m", "n")]
    if key_label not in own:
        raise StrategyUnsupported(f"the softmax runs over dimension {axis}, which is not the one of the keys")
    query_label = "m" if key_label == "n" else "n"
    _check_private(scores, softmax)
    return _read_downwards(scores, softmax, key_label, query_label)


def _check_private(scores: Scores, softmax: Node) -> None:
    """The scores must have no other reader, or they would be computed all the same; and nobody may broadcast them."""
    family = {*scores.chain, softmax}
    for node in scores.chain:
        for reader in node.users:
            is_constant = op_name(reader) == "full_like" and set(reader.users) <= family
            if reader not in family and not is_constant:
                raise StrategyUnsupported("the attention scores are returned or used a second time")
    if any(
        not sizes_equal(_size(scores.product, scores.product_labels, s), _size(softmax, scores.labels, s))
        for s in scores.labels
        if s in ("m", "n") or not any(step.kind == "view" for step in scores.steps)
    ):
        raise StrategyUnsupported("a mask has dimensions that the scores lack")


def _size(node: Node, labels: Labels, label: str) -> Any:
    return node.meta["val"].shape[labels.index(label)]


def _read_downwards(scores: Scores, softmax: Node, key: str, query: str) -> Attention:
    labels, node, regrouped = scores.labels, softmax, None
    while True:
        users = list(node.users)
        if len(users) != 1 or users[0].op == "output":
            raise StrategyUnsupported("the attention probabilities are returned or used a second time")
        user, name = users[0], op_name(users[0])
        if name in ("matmul", "bmm", "einsum", "linalg_matmul"):
            return _finish(Attention(scores, softmax, key, query, user, node, (), (), regrouped), node, labels)
        if name == "dropout":
            if user.args[2] and user.args[1]:
                raise StrategyUnsupported("dropout on the attention probabilities is active; call eval() first")
        elif name in ("view", "reshape", "_unsafe_view") and user.args[0] is node:
            if regrouped is not None:
                raise StrategyUnsupported("the attention probabilities go through two views")
            regrouped = _regroup_sizes(node, user, labels, query, key)
            labels = _grouped_labels(user)(query, key)
        elif (moved := _moved(user, node, labels)) is not None:
            labels = moved
        elif name not in _SAME or user.args[0] is not node:
            raise StrategyUnsupported(f"the attention probabilities go through '{name or user.name}' before the values")
        node = user


def _finish(draft: Attention, probabilities: Node, labels: Labels) -> Attention:
    """Name the dimensions of the product with the values; it must contract the softmax label."""
    final = draft.final
    product = _read_product(final)
    is_left = product.left is probabilities
    if product.left is product.right:
        raise StrategyUnsupported("the attention probabilities are multiplied by themselves")
    own, other = (product.left_labels, product.right_labels) if is_left else (product.right_labels, product.left_labels)
    if len(own) != len(labels):
        raise StrategyUnsupported("the probabilities are broadcast over new dimensions of the values")
    names = dict(zip(own, labels, strict=True))
    if names.get(product.contracted) != draft.key_label:
        raise StrategyUnsupported("the product with the values does not sum over the dimension of the softmax")
    (width,) = [s for s in product.labels if s not in own] or [""]
    if not width or draft.query_label not in [names.get(s) for s in product.labels]:
        raise StrategyUnsupported("the product with the values leaves no dimension of queries and of features")
    names[width] = "e"
    if any(s not in names for s in (*other, *product.labels)) or any(
        not sizes_equal(_size(final, product.labels, s), _size(probabilities, own, s))
        for s in product.labels
        if s in own
    ):
        raise StrategyUnsupported("the values have dimensions that the probabilities lack")
    value = product.right if is_left else product.left
    return replace(
        draft,
        value=value,
        value_labels=tuple(names[s] for s in other),
        out_labels=tuple(names[s] for s in product.labels),
    )


def _explain(node: Node, constant: Callable[[Any], float | None]) -> Scores | None:
    """Follow a value upwards to the product it comes from; None when there is none on understood steps."""
    name = op_name(node)
    if name in ("matmul", "bmm", "linalg_matmul", "einsum"):
        return _read_product(node)
    if name in _SAME:
        same = _explain(_node(node.args[0]), constant)
        return None if same is None else same.then(node)
    if name in ("mul", "multiply", "div", "divide", "true_divide"):
        return _explain_scaling(node, name.startswith(("div", "true")), constant)
    if name in ("add", "sub"):
        return _explain_sum(node, name == "sub", constant)
    if name in ("masked_fill", "where"):
        return _explain_fill(node, name, constant)
    if name == "baddbmm":
        return _explain_baddbmm(node)
    inner = _explain(_node(node.args[0]), constant) if _is_layout(name) else None
    if inner is None:
        return None
    moved = _moved(node, _node(node.args[0]), inner.labels)
    if moved is not None:
        return inner.then(node, Step("permute", [inner.labels.index(s) for s in moved]), moved)
    sizes = _regroup_sizes(_node(node.args[0]), node, inner.labels, "m", "n")
    return inner.then(node, Step("view", sizes), _grouped_labels(node)("m", "n"))


def _explain_scaling(node: Node, divides: bool, constant: Callable[[Any], float | None]) -> Scores | None:
    first, second = node.args[0], node.args[1]
    if len(node.args) > 2 or node.kwargs:
        return None
    for scaled, factor in ((first, second),) if divides else ((first, second), (second, first)):
        inner = _explain(scaled, constant) if isinstance(scaled, Node) and _is_factor(factor) else None
        if inner is not None:
            number = constant(factor)
            return inner.then(node, Step("scale", factor if number is None else number, divides))
    return None


def _explain_sum(node: Node, subtracts: bool, constant: Callable[[Any], float | None]) -> Scores | None:
    if node.kwargs.get("alpha", 1) != 1 or len(node.args) > 2:
        return None
    first, second = node.args[0], node.args[1]
    rank = _rank(node)
    for scores, added in ((first, second),) if subtracts else ((first, second), (second, first)):
        inner = _explain(scores, constant) if isinstance(scores, Node) else None
        if inner is not None and _rank(_node(scores)) == rank:
            return inner.then(node, Step("add", added, subtracts) if isinstance(added, Node) else None)
    return None


def _explain_fill(node: Node, name: str, constant: Callable[[Any], float | None]) -> Scores | None:
    if name == "masked_fill":
        scores, condition, filled, keeps = node.args[0], node.args[1], node.args[2], False
        inner = _explain(_node(scores), constant)
    else:
        condition, scores, filled, keeps = node.args[0], node.args[1], node.args[2], True
        inner = _explain(scores, constant) if isinstance(scores, Node) else None
        if inner is None and isinstance(filled, Node):
            scores, filled, keeps = filled, scores, False
            inner = _explain(_node(scores), constant)
    if inner is None:
        return None
    value = constant(filled)
    if value is None or math.isnan(value) or value > FILLED_AWAY:
        shown = "an unknown value" if value is None else f"{value:g}"
        raise StrategyUnsupported(f"masked scores are filled with {shown}, which is not certainly zero after softmax")
    if _rank(_node(scores)) != _rank(node):
        return None
    return inner.then(node, Step("fill", (condition, value), keeps))


def _explain_baddbmm(node: Node) -> Scores:
    beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
    scores = _matmul_labels(node, _node(node.args[1]), _node(node.args[2]))
    if alpha != 1:
        scores = scores.then(node, Step("scale", alpha))
    if beta == 0:
        return scores
    if beta != 1:
        raise StrategyUnsupported(
            f"the scores are added to a tensor scaled by beta={beta}; only 0 and 1 are understood"
        )
    return scores.then(node, Step("add", node.args[0]))


def _read_product(node: Node) -> Scores:
    if op_name(node) == "einsum":
        return _einsum_labels(node)
    return _matmul_labels(node, _node(node.args[0]), _node(node.args[1]))


def _matmul_labels(node: Node, left: Node, right: Node) -> Scores:
    if _rank(left) < 2 or _rank(right) < 2:
        raise StrategyUnsupported("the product is with a vector, not with a matrix")
    batch = _batch_labels(_rank(node))
    return Scores(
        node,
        left,
        (*batch[len(batch) - _rank(left) + 2 :], "m", "d"),
        right,
        (*batch[len(batch) - _rank(right) + 2 :], "d", "n"),
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
    names = dict(zip(batch, _batch_labels(len(batch) + 2), strict=True)) | {
        summed[0]: "d",
        lefts[0]: "m",
        rights[0]: "n",
    }
    left, right, result = (tuple(names[c] for c in p) for p in (*parts, out))
    assert isinstance(operands, list | tuple)
    return Scores(node, _node(operands[0]), left, _node(operands[1]), right, "d", result, result, chain=(node,))


def _batch_labels(rank: int) -> Labels:
    return tuple(f"b{i}" for i in range(rank - 2))


def _grouped_labels(node: Node) -> Callable[[str, str], Labels]:
    return lambda row, column: (*_batch_labels(_rank(node)), row, column)


def _is_layout(name: str) -> bool:
    return name in ("transpose", "permute", "mT", "swapaxes", "swapdims", "view", "reshape", "_unsafe_view")


def _moved(node: Node, source: Node, labels: Labels) -> Labels | None:
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


def _regroup_sizes(source: Node, node: Node, labels: Labels, row: str, column: str) -> list[Any]:
    """The sizes of a view that only regroups leading dimensions; refuses one that mixes queries or keys in."""
    before, after = source.meta["val"].shape, node.meta["val"].shape
    keeps_rows = labels == (*_batch_labels(len(labels)), row, column) and len(after) >= 3
    if not keeps_rows or not all(sizes_equal(a, b) for a, b in zip(before[-2:], after[-2:], strict=True)):
        raise StrategyUnsupported("a view of the scores mixes the dimensions of queries and keys with others")
    return list(node.args[1])  # type: ignore[arg-type]


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


def _rank(node: Node) -> int:
    return int(node.meta["val"].dim())


def _node(value: Any) -> Node:
    if not isinstance(value, Node):
        raise StrategyUnsupported(f"the scores are computed from the plain number {value!r}")
    return value
