"""`merge`: linear layers that read the same tensor become one wider layer, whose output is split.

Queries, keys and values, or gate and up, read the same input; one wide product reads it once and keeps the cores busier
than several narrow ones. Which layers do is read from the text of their parent's forward, traced with its children
closed: the same node is the same value, and nothing between the first and the last reader may write into it. A cache
of "the product of this input" would have to trust identities or addresses, which in-place writes and reused memory
fool; a rewritten forward has nothing to trust. The merged layer is a plain nn.Linear, so later steps quantize it.
Source: fused projections as in Megatron-LM, Shoeybi et al. 2019 (arXiv 1909.08053).
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional as F

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.search import Call, is_torch_module, record_calls
from hybrid_core.strategies.base import (
    Applied,
    Method,
    Setting,
    Situation,
    list_briefly,
    run_example,
    tensors_in,
)
from hybrid_core.strategies.kernels.consumers import parameter_owners
from hybrid_core.strategies.kernels.writes import Aliases, may_write
from hybrid_core.strategies.pooling.own_body import Body, install_body, trace_body


class MergedPart(nn.Module):
    """Stands where one of the merged layers stood, for whoever still asks for it there; holds no weights of its own."""

    def __init__(self, parent: nn.Module, merged_name: str, layer: nn.Linear, start: int) -> None:
        super().__init__()
        # In a tuple, because a parent is no child: modules(), state_dict() and to() must not come here.
        self._parent = (parent,)
        self.merged_name, self.start, self.end = merged_name, start, start + layer.out_features
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.has_bias = layer.bias is not None
        self.train(layer.training)

    @property
    def weight(self) -> Tensor:
        """The rows of the merged weight that are this layer's; a view."""
        return self._plain_layer().weight[self.start : self.end]

    @property
    def bias(self) -> Tensor | None:
        """The part of the merged bias that is this layer's; a view, None where the layer had none."""
        bias = self._plain_layer().bias
        return bias[self.start : self.end] if self.has_bias and bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        """What the layer answered; the merged layer may have been quantized since and then answers whole."""
        if type(self._layer()) is nn.Linear:
            return F.linear(x, self.weight, self.bias)
        answer: Tensor = self._layer()(x)[..., self.start : self.end]
        return answer

    def _layer(self) -> nn.Module:
        return self._parent[0].get_submodule(self.merged_name)

    def _plain_layer(self) -> nn.Linear:
        layer = self._layer()
        if type(layer) is not nn.Linear:
            raise AttributeError(f"the merged layer '{self.merged_name}' is a {type(layer).__name__} and has no floats")
        return layer


@dataclass(frozen=True)
class _Known:
    """What the whole model says about its layers: how often a parameter and a module are held."""

    owners: Counter[int]
    places: Counter[nn.Module]

    @classmethod
    def of(cls, model: nn.Module) -> _Known:
        places = Counter(c for m in model.modules() for c in m._modules.values() if c is not None)
        return cls(parameter_owners(model), places)

    def allow(self, layer: nn.Module) -> bool:
        """Exact nn.Linear, held once, weights of its own, nobody hooked in."""
        hooked = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
        own = all(self.owners[id(p)] == 1 for p in layer._parameters.values() if p is not None)
        plain = type(layer) is nn.Linear and "forward" not in vars(layer)
        return plain and own and not hooked and self.places[layer] == 1


def merge_readers(model: nn.Module, situation: Situation) -> Applied:
    """Merge whatever a parent's text proves mergeable; raises when there is nothing."""
    before = run_example(model, situation)
    known, merged = _Known.of(model), []
    for call in record_calls(model, situation):
        if not is_torch_module(call.module):
            merged += [f"{call.name}.{names}".lstrip(".") for names in _merge_in(call, known)]
    if not merged:
        raise StrategyUnsupported(
            "nothing can be merged: no module whose forward can be read hands one unchanged tensor to two nn.Linear "
            "layers with weights of their own"
        )
    _check_close(before, run_example(model, situation))
    return Applied(model, (f"merged {len(merged)} groups of layers with the same input: {list_briefly(merged)}",))


def _merge_in(call: Call, known: _Known) -> list[str]:
    """Rewrite one module's own forward; returns the merged groups as 'query+key+value'."""
    body = trace_body(call.module, call.args, call.kwargs)
    if body is None:
        return []
    groups = _groups(call.module, body, known)
    for group in groups:
        _merge(call.module, body, group)
    if groups:
        body.graph.lint()
        install_body(call.module, body)
    return ["+".join(str(node.target) for node in group) for group in groups]


def _groups(module: nn.Module, body: Body, known: _Known) -> list[list[Node]]:
    """Readers of one tensor, in the order of the text, cut wherever something between them may write into it."""
    nodes = list(body.graph.nodes)
    mentioned = Counter(str(n.target) for n in nodes if n.op == "call_module")
    mentioned.update(str(n.target).rpartition(".")[0] for n in nodes if n.op == "get_attr")
    aliases = Aliases(module, body.graph)
    open_groups: dict[tuple[object, ...], list[Node]] = {}
    found: list[list[Node]] = []
    for node in nodes:
        if _is_reader(node, module, known) and mentioned[str(node.target)] == 1:
            layer = module.get_submodule(str(node.target))
            assert isinstance(layer, nn.Linear), "_is_reader asked for it"
            weight = layer.weight
            key: tuple[object, ...] = (
                node.args[0],
                layer.in_features,
                weight.dtype,
                weight.device,
                weight.requires_grad,
            )
            if key not in open_groups:
                found.append(open_groups.setdefault(key, []))
            open_groups[key].append(node)
            continue
        if may_write(node, module):
            touched = {aliases.of(argument) for argument in node.all_input_nodes}
            for key in [k for k in open_groups if isinstance(k[0], Node) and aliases.of(k[0]) in touched]:
                del open_groups[key]
    return [group for group in found if len(group) > 1]


def _is_reader(node: Node, module: nn.Module, known: _Known) -> bool:
    one_tensor = len(node.args) == 1 and isinstance(node.args[0], Node) and not node.kwargs
    return node.op == "call_module" and one_tensor and known.allow(module.get_submodule(str(node.target)))


def _merge(module: nn.Module, body: Body, group: list[Node]) -> None:
    """Put the wide layer at the first reader's place in the text, and a `MergedPart` where each layer was."""
    targets = [str(node.target) for node in group]
    layers = [module.get_submodule(target) for target in targets]
    name = _free_name(module, "merged_" + "_".join(target.replace(".", "_") for target in targets))
    module.add_module(name, _wide([layer for layer in layers if isinstance(layer, nn.Linear)]))
    graph, start, sizes = body.graph, 0, []
    for target, layer in zip(targets, layers, strict=True):
        assert isinstance(layer, nn.Linear), "_is_reader asked for it"
        parent, _, child = target.rpartition(".")
        module.get_submodule(parent)._modules[child] = MergedPart(module, name, layer, start)
        start += layer.out_features
        sizes.append(layer.out_features)
    with graph.inserting_before(group[0]):
        whole = graph.call_module(name, (group[0].args[0],))
        parts = graph.call_method("split", (whole, sizes, -1))
        taken = [graph.call_function(operator.getitem, (parts, index)) for index in range(len(group))]
    for node, part in zip(group, taken, strict=True):
        node.replace_all_uses_with(part)
        graph.erase_node(node)
        _allow_gaps(part, module)


def _allow_gaps(part: Node, module: nn.Module) -> None:
    """A part of a wide row has gaps that `view` may refuse; `reshape` is the same, and copies only where it must."""
    if any(may_write(user, module) for user in part.users):
        return
    for user in part.users:
        if user.op == "call_method" and user.target == "view" and not isinstance(user.args[1], torch.dtype):
            user.target = "reshape"


def _wide(layers: list[nn.Linear]) -> nn.Linear:
    """One layer with the rows of all; where only some have a bias the others add zero."""
    weights = tuple(layer.weight for layer in layers)
    first = layers[0].weight
    has_bias = any(layer.bias is not None for layer in layers)
    wide = nn.Linear(layers[0].in_features, sum(len(w) for w in weights), bias=has_bias, device="meta")
    with torch.no_grad():
        wide.weight = nn.Parameter(torch.cat(weights), requires_grad=first.requires_grad)
        if has_bias:
            biases = tuple(_bias_or_zeros(layer) for layer in layers)
            wide.bias = nn.Parameter(torch.cat(biases), requires_grad=first.requires_grad)
    return wide.train(layers[0].training)


def _bias_or_zeros(layer: nn.Linear) -> Tensor:
    bias: Tensor | None = layer.bias
    return layer.weight.new_zeros(layer.out_features) if bias is None else bias


def _free_name(module: nn.Module, name: str) -> str:
    while hasattr(module, name):
        name += "_"
    return name


def _check_close(before: object, after: object) -> None:
    for one, other in zip(tensors_in(before), tensors_in(after), strict=True):
        if one.shape != other.shape or not torch.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise StrategyUnsupported(
                "the merged layers give other results than the layers apart, so the forward is not what its text says"
            )


MERGE = Method(
    Setting(
        name="merge",
        sentence="Linear layers that read the same input become one wider layer whose output is split.",
        stage=25,
        exact=True,
        expected_cost_s=1.0,
        references=("https://arxiv.org/abs/1909.08053",),
    ),
    apply=merge_readers,
)
