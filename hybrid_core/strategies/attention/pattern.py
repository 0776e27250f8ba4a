"""Reads the meaning of an exported attention: which tensors are query, key, value and mask, and at what scale.

From each softmax the scores are followed upwards to a product of two tensors (attention_scores.py) and the
probabilities downwards to the product with the values. The softmax must run over the label that this second product
contracts, and scores and probabilities must have no other reader. Anything not understood is a refusal with its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch.fx import Node

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.scores import (
    SAME,
    VIEWS,
    Labels,
    Scores,
    as_node,
    explain,
    grouped_labels,
    moved_labels,
    op_name,
    read_product,
    regroup_sizes,
    sizes_equal,
)

_UNLIKE = {"tanh": "a soft cap (tanh)", "clamp": "clamping", "clip": "clamping", "dropout": "dropout", "relu": "relu"}


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


def read_attention(softmax: Node, constant: Callable[[Any], float | None]) -> Attention:
    """Understand the attention around one softmax node; raises `StrategyUnsupported` with the reason otherwise.

    `constant(value)` is the number that a graph value always holds, or None.
    """
    source = as_node(softmax.args[0])
    scores = explain(source, constant)
    if scores is None:
        raise StrategyUnsupported(
            f"the softmax input comes through {_obstacle(source)}, not from a plain product of two tensors"
        )
    axis = int(softmax.args[1])  # type: ignore[arg-type]
    key_label = scores.labels[axis]
    own = [s for s in (*scores.left_labels, *scores.right_labels) if s in ("m", "n")]
    if key_label not in own:
        raise StrategyUnsupported(f"the softmax runs over dimension {axis}, which is not the one of the keys")
    query_label = "m" if key_label == "n" else "n"
    _check_private(scores, softmax)
    return _read_downwards(scores, softmax, key_label, query_label)


def _obstacle(source: Node) -> str:
    """What stands between the softmax and a product, as far as it has a name."""
    node = source
    for _ in range(6):
        if op_name(node) in _UNLIKE:
            return _UNLIKE[op_name(node)]
        if not node.all_input_nodes:
            break
        node = node.all_input_nodes[0]
    return f"'{op_name(source) or source.name}'"


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
        elif name in VIEWS and user.args[0] is node:
            if regrouped is not None:
                raise StrategyUnsupported("the attention probabilities go through two views")
            regrouped = regroup_sizes(node, user, labels, query, key)
            labels = grouped_labels(user)(query, key)
        elif (moved := moved_labels(user, node, labels)) is not None:
            labels = moved
        elif name not in SAME or user.args[0] is not node:
            raise StrategyUnsupported(f"the attention probabilities go through '{name or user.name}' before the values")
        node = user


def _finish(draft: Attention, probabilities: Node, labels: Labels) -> Attention:
    """Name the dimensions of the product with the values; it must contract the softmax label."""
    final = draft.final
    product = read_product(final)
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
