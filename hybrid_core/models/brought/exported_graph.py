"""Builds the graph of an exported program again, node by node, from its checked JSON.

This stands where `torch.export.load` would: nothing of the file is evaluated, unpickled or put into generated code. All
names are made here; operations come from an allow-list; metadata, guards and symbols are not read. Parts that export
wraps to switch gradients or autocasting are taken in place, as no gradients are computed and autocasting must be off.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.exported_arguments import read_argument, single
from hybrid_core.models.brought.exported_operations import AUTOCAST, IGNORED, LINEAR, SET_GRADIENT, find_operation

MAX_NODES, MAX_NESTING = 200_000, 8
Names = dict[str, Any]


@dataclass(frozen=True)
class Signature:
    """What goes in and out: the names of user inputs, of what is held (name in the graph to name of the tensor), of
    constants, and of the outputs.
    """

    inputs: tuple[str, ...]
    held: Mapping[str, str]
    constants: Mapping[str, Any]
    outputs: tuple[dict[str, Any], ...]


def build_module(graph: Mapping[str, Any], signature: Signature, tensors: Mapping[str, Tensor]) -> GraphModule:
    """A module of plain tensor operations: user inputs in, one tensor or a tuple out.

    Raises:
        InvalidInput: the graph holds something that is not allowed.
    """
    root, names = nn.Module(), dict(signature.constants)
    builder = _Builder(root)
    for place, name in enumerate(signature.inputs):
        names[name] = builder.graph.placeholder(f"input_{place}")
    for place, (name, tensor_name) in enumerate(signature.held.items()):
        own = f"held_{place}_{re.sub(r'[^A-Za-z0-9]', '_', tensor_name)[:80]}"
        tensor = tensors[tensor_name]
        if isinstance(tensor, nn.Parameter):
            root.register_parameter(own, tensor)
        else:
            root.register_buffer(own, tensor)
        names[name] = builder.graph.get_attr(own)
    builder.add_nodes(graph, names, 0)
    found = [read_argument(output, lookup(names)) for output in signature.outputs]
    answers = tuple(value for value in found if isinstance(value, Node))
    if not answers:
        raise InvalidInput("the program gives no tensor; export a module whose forward returns one")
    builder.graph.output(answers[0] if len(answers) == 1 else answers)
    for node in [node for node in builder.graph.nodes if node.op == "get_attr" and not node.users]:
        builder.graph.erase_node(node)  # before the module takes over what its graph names
    module = GraphModule(root, builder.graph, class_name="ExportedProgram")
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module


def lookup(names: Names) -> Any:
    """A function from the name of a value to what stands for it."""

    def find(name: Any) -> Any:
        if not isinstance(name, str) or name not in names:
            raise InvalidInput(f"the program uses {name!r:.80} before it is there; export it again")
        return names[name]

    return find


class _Builder:
    """Adds the nodes of a graph and of those inside it to one flat graph."""

    def __init__(self, root: nn.Module) -> None:
        self.graph = Graph()
        self._root = root
        self._count = 0

    def add_nodes(self, graph: Mapping[str, Any], names: Names, depth: int) -> None:
        """Every node in order; `names` grows by what they give."""
        nodes = graph.get("nodes")
        if not isinstance(nodes, list) or depth > MAX_NESTING:
            raise InvalidInput(f"the program has no list of nodes or nests more than {MAX_NESTING} graphs")
        for node in nodes:
            self._count += 1
            if not isinstance(node, dict) or self._count > MAX_NODES:
                raise InvalidInput(f"the program has a damaged node or more than {MAX_NODES:,}")
            self._add(node, names, depth)

    def _add(self, node: Mapping[str, Any], names: Names, depth: int) -> None:
        target, inputs = node.get("target"), node.get("inputs")
        if not isinstance(target, str) or not isinstance(inputs, list) or not isinstance(node.get("outputs"), list):
            raise InvalidInput(f"the program has a node without target, inputs or outputs: {node!r:.80}")
        if target in IGNORED:
            return
        if target in (SET_GRADIENT, AUTOCAST):
            self._take_in(target, inputs, node["outputs"], names, depth)
            return
        operation = find_operation(target)
        arguments, keywords = _arguments(operation, inputs, names)
        made = None if keywords or target != LINEAR else self._linear(*arguments)
        made = made or self.graph.call_function(operation, arguments, keywords)
        self._name_outputs(made, node["outputs"], names)

    def _linear(self, x: Any, weight: Any, bias: Any = None) -> Node | None:
        """A layer again, where the weights are parameters: layers are what quantization looks for."""
        own_weight, own_bias = self._parameter(weight), self._parameter(bias)
        if own_weight is None or own_weight.ndim != 2 or (own_bias is None) != (bias is None):
            return None
        layer = nn.Linear(own_weight.shape[1], own_weight.shape[0], bias=own_bias is not None, device="meta")
        layer.weight = own_weight
        if own_bias is not None:
            layer.bias = own_bias
        name = f"linear_{self._count}"
        self._root.add_module(name, layer)
        return self.graph.call_module(name, (x,))

    def _parameter(self, value: Any) -> nn.Parameter | None:
        """The parameter that a node reads, None where it reads something else."""
        if not isinstance(value, Node) or value.op != "get_attr":
            return None
        found = getattr(self._root, str(value.target))
        return found if isinstance(found, nn.Parameter) else None

    def _take_in(self, target: str, inputs: list[Any], outputs: list[Any], names: Names, depth: int) -> None:
        """The inside of a wrapped graph, as if it stood here."""
        tagged = [single(_argument_of(entry), "an argument") for entry in inputs]
        place = next((i for i, (kind, _) in enumerate(tagged) if kind == "as_graph"), None)
        graph = tagged[place][1].get("graph") if place is not None and isinstance(tagged[place][1], dict) else None
        if place is None or not isinstance(graph, dict) or not isinstance(graph.get("inputs"), list):
            raise InvalidInput(f"{target} has no graph inside; export the program again")
        if target == AUTOCAST and tagged[2] != ("as_bool", False):
            raise InvalidInput("the program casts by itself (autocast); export it with autocasting off")
        given = [read_argument(_argument_of(entry), lookup(names)) for entry in inputs[place + 1 :]]
        wanted = [_name_of(entry) for entry in graph["inputs"]]
        if len(given) != len(wanted):
            raise InvalidInput(f"{target} gives {len(given)} values to a graph of {len(wanted)}; export it again")
        inner: Names = dict(zip(wanted, given, strict=True))
        self.add_nodes(graph, inner, depth + 1)
        answers = [read_argument(entry, lookup(inner)) for entry in graph.get("outputs") or []]
        _bind([_name_of(entry) for entry in _flat(outputs)], answers, names)

    def _name_outputs(self, made: Node, outputs: list[Any], names: Names) -> None:
        if len(outputs) == 1 and single(outputs[0], "an output")[0] not in ("as_tensors", "as_none"):
            _bind([_name_of(outputs[0])], [made], names)
            return
        for place, output in enumerate(_flat(outputs)):
            if single(output, "an output")[0] != "as_none":
                _bind([_name_of(output)], [self.graph.call_function(operator.getitem, (made, place))], names)


def _arguments(operation: Any, inputs: list[Any], names: Names) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by the operation's own schema; arithmetic on sizes takes them in order."""
    find = lookup(names)
    values = [(entry.get("name"), read_argument(_argument_of(entry), find)) for entry in inputs]
    if not isinstance(operation, torch._ops.OpOverload):
        return tuple(value for _, value in values), {}
    given = dict(values)
    schema = operation._schema.arguments
    if len(given) != len(values) or not set(given) <= {argument.name for argument in schema}:
        raise InvalidInput(f"{operation} is called with {sorted(map(str, given))!r:.120}; export the program again")
    positional: list[Any] = []
    for argument in schema:
        if argument.kwarg_only or argument.name not in given:
            break
        positional.append(given.pop(argument.name))
    return tuple(positional), given


def _bind(wanted: list[str], values: list[Any], names: Names) -> None:
    for name, value in zip(wanted, values, strict=False):
        if name in names:
            raise InvalidInput(f"the program gives {name!r:.80} twice; export it again")
        names[name] = value


def _argument_of(entry: Any) -> Any:
    if not isinstance(entry, dict) or "arg" not in entry:
        raise InvalidInput(f"the program has an argument without a value: {entry!r:.80}")
    return entry["arg"]


def _flat(outputs: list[Any]) -> list[Any]:
    """Outputs one by one: a list of tensors counts as that many."""
    flat: list[Any] = []
    for output in outputs:
        kind, value = single(output, "an output")
        flat.extend({"as_tensor": item} for item in value) if kind == "as_tensors" else flat.append(output)
    return flat


def _name_of(tagged: Any) -> str:
    kind, value = single(tagged, "a value")
    name = value.get("name", value.get("as_name")) if isinstance(value, dict) else None
    if not isinstance(name, str):
        raise InvalidInput(f"the program has a value of kind {kind!r:.40} without a name; it is not read")
    return name
