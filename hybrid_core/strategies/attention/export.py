"""Exports one module with symbolic sizes, has its attention fused, and turns the result into a plain function.

The function runs on the original module's own layers and parameters. Sizes of 1 are fixed by the exporter, other sizes
only where the code depends on them; what the export assumed about types and sizes becomes a test, written out as one
expression, that a call must pass before the function may run it. Source: `torch.export` (PyTorch 2.13).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.held_object import put_call_in_place, stand_in
from hybrid_core.strategies.attention.rewrite import fuse_attention
from hybrid_core.strategies.attention.scores import op_name
from hybrid_core.strategies.attention.validity import Example, predicates


@dataclass(frozen=True)
class Form:
    """One rewritten export. `fits(leaves)` tells whether a call has its form; `run(original, *leaves)` computes it.

    Of the leaves, `run` takes the tensors and then the object at place `held`, if there is one.
    """

    spec: Any
    fits: Callable[..., bool]
    run: Callable[..., Any]
    constants: tuple[Any, ...]
    out_spec: Any
    fused: int
    reasons: tuple[str, ...]
    held: int | None = None

    def compute(self, original: nn.Module, leaves: list[Any]) -> list[Any]:
        """The leaves of what `original` returns; raises `OtherSizes` where a held object answers with them."""
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        held = () if self.held is None else (leaves[self.held],)
        return list(self.run(original, *tensors, *held, *self.constants))


def export_form(
    original: nn.Module,
    linear_names: tuple[str, ...],
    example: Example,
    kernel: Callable[..., Any] | None = None,
) -> Form:
    """Export `original` for calls like this one and fuse its attention; the refusal names what stands in the way."""
    program = _export(original, linear_names, example)
    graph = _own_graph(program)
    constants = _lift_names(graph, program)
    fused, reasons = fuse_attention(graph, _constant_reader(constants), kernel)
    if not fused:
        raise StrategyUnsupported("; ".join(dict.fromkeys(reasons)) or "its softmax is not part of the exported graph")
    _call_layers(graph, original, linear_names)
    fits = _cut_out(graph, program, example)
    return Form(
        example.spec, fits, _compile(graph), tuple(constants.values()), example.out_spec, fused, tuple(reasons),
        example.held if example.asked.calls else None,
    )  # fmt: skip


def _cut_out(graph: Graph, program: ExportedProgram, example: Example) -> Callable[..., bool]:
    """Leave only the original's outputs and inputs, and put a held object's call in its place; returns `fits`."""
    nodes = [n for n in graph.nodes if n.op == "placeholder"][: len(example.tensors)]
    inputs, returned = (
        nodes[: len(nodes) - len(example.asked.returned)],
        nodes[len(nodes) - len(example.asked.returned) :],
    )
    fits, fits_after = predicates(program, example, nodes)
    (output,) = [n for n in graph.nodes if n.op == "output"]
    flat = list(output.args[0])  # type: ignore[arg-type]
    own = example.out_spec.num_leaves
    output.args = (tuple(flat[:own]),)
    if example.asked.calls:
        put_call_in_place(graph, example.asked, inputs, returned, flat[own:], fits_after)
        graph.lint()
    return fits


class _Flat(nn.Module):
    """The original with its tensors as the only inputs; everything else is fixed, a held object stood in for."""

    def __init__(self, original: nn.Module, example: Example) -> None:
        super().__init__()
        self.original = original
        fixed = [None if isinstance(leaf, Tensor) else leaf for leaf in example.leaves]
        # A closure, as the exporter would take attributes for state.
        self.arrange = lambda tensors: _arranged(example, fixed, list(tensors))

    def forward(self, *tensors: Tensor) -> Any:
        (args, kwargs), handed = self.arrange(tensors)  # type: ignore[no-untyped-call]
        return self.original(*args, **kwargs), handed


def _arranged(example: Example, fixed: list[Any], tensors: list[Tensor]) -> tuple[Any, list[Any]]:
    """The original's inputs with these tensors, and the list that what is handed to a held object will be in."""
    own, returned = (
        tensors[: len(tensors) - len(example.asked.returned)],
        tensors[len(tensors) - len(example.asked.returned) :],
    )
    rest, handed = iter(own), list[Any]()
    leaves = [
        next(rest) if isinstance(leaf, Tensor) else value for leaf, value in zip(example.leaves, fixed, strict=True)
    ]
    if example.held is not None and example.asked.calls:
        leaves[example.held] = stand_in(example.asked, example.leaves[example.held], returned, handed)
    return pytree.tree_unflatten(leaves, example.spec), handed


def _without_base(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy of a view: the exporter would guard the sizes of what it is a view of.

    The next call may bring no view at all, and then such a guard could not even be asked.
    """
    if tensor._base is None:
        return tensor
    try:
        copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
        return copy.copy_(tensor)
    except RuntimeError:  # elements that share memory cannot be written one by one
        return tensor.clone()


def _export(original: nn.Module, linear_names: tuple[str, ...], example: Example) -> ExportedProgram:
    try:
        with _quiet(), _plain_layers(original, linear_names), torch.inference_mode(False), torch.no_grad():
            tensors = tuple(_without_base(tensor) for tensor in example.tensors)
            shapes = tuple({i: Dim.AUTO for i, n in enumerate(t.shape) if n > 1} for t in tensors)
            flat = _Flat(original, example).train(original.training)
            program = export(flat, tensors, dynamic_shapes={"tensors": shapes}, strict=False)
            if any(_writes(node) for node in program.graph.nodes):
                program = program.run_decompositions({})
    except StrategyUnsupported:
        raise
    except Exception as error:  # user code can fail to export in as many ways as there are programs
        first = (str(error).splitlines() or [""])[0]
        raise StrategyUnsupported(
            f"{type(original).__name__} cannot be exported ({type(error).__name__}: {first})"
        ) from error
    if any(spec.kind is not OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs):
        raise StrategyUnsupported(
            f"{type(original).__name__} changes its inputs or its own state, which a rewrite would lose"
        )
    return program


def _writes(node: Node) -> bool:
    return (
        isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable and op_name(node) != "detach_"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Sizes of 1 are fixed on purpose, and an export that fails is a refusal with its reason: no need to log either."""
    loggers = [logging.getLogger(f"torch.{name}") for name in ("_export.non_strict_utils", "_subclasses.fake_tensor")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _plain_layers(original: nn.Module, linear_names: tuple[str, ...]) -> Iterator[None]:
    """Let plain nn.Linear stand in for layers that were quantized since; the text calls the layer by name anyway."""
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    for name in linear_names:
        layer = original.get_submodule(name)
        if type(layer) is nn.Linear or name == "":
            continue
        parent, _, own = name.rpartition(".")
        plain = nn.Linear(int(layer.in_features), int(layer.out_features))  # type: ignore[arg-type]
        swapped.append((original.get_submodule(parent), own, layer))
        original.get_submodule(parent)._modules[own] = plain
    try:
        yield
    finally:
        for holder, own, layer in swapped:
            holder._modules[own] = layer


def _own_graph(program: ExportedProgram) -> Graph:
    """A copy without an owner, so that its attributes may be those of the original module."""
    graph = Graph()
    result = graph.graph_copy(program.graph, {})
    graph.output(result)
    return graph


def _lift_names(graph: Graph, program: ExportedProgram) -> dict[str, Any]:
    """Turn parameter inputs into attributes of the original and move constants to the end; returns the constants."""
    constants: dict[str, Any] = {}
    kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node in inputs:
        spec = kinds[node.name]
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            with graph.inserting_after(inputs[-1]):
                attribute = graph.create_node("get_attr", str(spec.target).removeprefix("original."))
            attribute.meta = dict(node.meta)
            node.replace_all_uses_with(attribute)
            graph.erase_node(node)
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            constants[node.name] = program.constants[str(spec.target)]
            inputs[-1].append(node)
        elif spec.kind is not InputKind.USER_INPUT:
            raise StrategyUnsupported(f"the module uses a {spec.kind.name.lower()} object, which cannot be rewritten")
    return constants


def _constant_reader(constants: dict[str, Any]) -> Callable[[Any], float | None]:
    """The number that a value of the graph always holds: a literal, a filled tensor, or a one-element constant."""

    def read(value: Any) -> float | None:
        if isinstance(value, int | float):
            return float(value)
        if not isinstance(value, Node):
            return None
        name = op_name(value)
        if name in ("full", "full_like"):
            return read(value.args[1])
        if name in ("scalar_tensor", "lift_fresh_copy", "detach", "detach_", "to", "_to_copy", "clone", "alias"):
            return read(value.args[0])
        held = constants.get(value.name)
        return float(held) if isinstance(held, Tensor) and held.numel() == 1 else None

    return read


def _call_layers(graph: Graph, original: nn.Module, linear_names: tuple[str, ...]) -> None:
    """Linear operations on a layer's own weight become calls of that layer, so that replacing the layer still works."""
    for node in list(graph.nodes):
        if op_name(node) != "linear" or not isinstance(node.args[1], Node) or node.args[1].op != "get_attr":
            continue
        weight = str(node.args[1].target)
        name = weight.removesuffix(".weight")
        bias = node.args[2] if len(node.args) > 2 else None
        bias_name = bias.target if isinstance(bias, Node) else None
        if name in linear_names and bias_name in (None, f"{name}.bias"):
            node.op, node.target, node.args, node.kwargs = "call_module", name, (node.args[0],), {}
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)


def _compile(graph: Graph) -> Callable[..., Any]:
    python = graph.python_code("self")
    scope: dict[str, Any] = dict(python.globals)
    exec(compile(python.src, "<fused attention>", "exec"), scope)
    function: Callable[..., Any] = scope["forward"]
    return function
