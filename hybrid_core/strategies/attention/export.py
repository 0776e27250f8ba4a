"""Exports one module with symbolic sizes, has its attention fused, and turns the result into a plain function.

The function runs on the original module's own layers and parameters. Sizes of 1 are fixed by the exporter, other sizes
only where the code depends on them; what the export assumed about types and sizes becomes a test, written out as one
expression, that a call must pass before the function may run it. Source: `torch.export` (PyTorch 2.13).
"""

from __future__ import annotations

import inspect
import logging
import math
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
from hybrid_core.strategies.attention.rewrite import fuse_attention
from hybrid_core.strategies.attention.scores import op_name


@dataclass(frozen=True)
class Form:
    """One rewritten export. `fits(leaves)` tells whether a call has its form; `run(original, *leaves)` computes it."""

    spec: Any
    fits: Callable[..., bool]
    run: Callable[..., Any]
    constants: tuple[Any, ...]
    out_spec: Any
    fused: int
    reasons: tuple[str, ...]


def export_form(
    original: nn.Module,
    linear_names: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    kernel: Callable[..., Any] | None = None,
) -> Form:
    """Export `original` for calls like this one and fuse its attention; the refusal names what stands in the way."""
    program = _export(original, linear_names, args, kwargs)
    graph = _own_graph(program)
    constants = _lift_names(graph, program)
    fused, reasons = fuse_attention(graph, _constant_reader(constants), kernel)
    if not fused:
        raise StrategyUnsupported("; ".join(dict.fromkeys(reasons)) or "its softmax is not part of the exported graph")
    _call_layers(graph, original, linear_names)
    leaves, spec = pytree.tree_flatten((args, kwargs))
    return Form(
        spec, _predicate(graph, program, original, args, kwargs), _compile(graph), tuple(constants.values()),
        program.call_spec.out_spec, fused, tuple(reasons),
    )  # fmt: skip


def _export(
    original: nn.Module, linear_names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ExportedProgram:
    def sizes(value: Any) -> Any:
        return {i: Dim.AUTO for i, n in enumerate(value.shape) if n > 1} if isinstance(value, Tensor) else None

    try:
        with _quiet(), _plain_layers(original, linear_names), torch.inference_mode(False), torch.no_grad():
            shapes = pytree.tree_map(sizes, inspect.signature(original.forward).bind(*args, **kwargs).arguments)
            program = export(original, args, kwargs, dynamic_shapes=dict(shapes), strict=False)
            if any(_writes(node) for node in program.graph.nodes):
                program = program.run_decompositions({})
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
                attribute = graph.create_node("get_attr", str(spec.target))
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


def _predicate(
    graph: Graph, program: ExportedProgram, original: nn.Module, args: Any, kwargs: Any
) -> Callable[..., bool]:
    """A function of the leaves that is true exactly for the calls that the export is valid for."""
    guards: list[str] | None = getattr(program, "_guards_code", None)
    if guards is None:
        raise StrategyUnsupported("this version of PyTorch does not say which sizes an export is valid for")
    leaves = pytree.tree_leaves((args, kwargs))
    nodes = [n for n in graph.nodes if n.op == "placeholder"][: len(leaves)]
    scope: dict[str, Any] = {"Tensor": Tensor, "math": math, "torch": torch}
    tests: list[str] = []
    for i, (leaf, node) in enumerate(zip(leaves, nodes, strict=True)):
        scope[f"v{i}"] = (leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf
        tests += _leaf_tests(i, leaf, node)
    bound = inspect.signature(original.forward).bind(*args, **kwargs).arguments
    paths = [f"L{pytree.keystr(path)}" for path, _ in pytree.tree_flatten_with_path(dict(bound))[0]]
    for guard in guards:
        for i, path in sorted(enumerate(paths), key=lambda pair: -len(pair[1])):
            guard = guard.replace(path, f"a{i}")
        if "L[" in guard:
            raise StrategyUnsupported(f"the export is valid only if '{guard}', which cannot be tested")
        tests.append(f"({guard})")
    names = ", ".join(f"a{i}" for i in range(len(leaves)))
    exec(f"def fits({names}):\n    return {' and '.join(tests) or 'True'}\n", scope)
    fits: Callable[..., bool] = scope["fits"]
    return fits


def _leaf_tests(i: int, leaf: Any, node: Node) -> list[str]:
    if not isinstance(leaf, Tensor):
        return [f"(a{i} is v{i} or (type(a{i}) is type(v{i}) and a{i} == v{i}))"]
    tests = [f"isinstance(a{i}, Tensor)", f"a{i}.dim() == {leaf.dim()}", f"(a{i}.dtype, a{i}.device) == v{i}"]
    for d, size in enumerate(node.meta["val"].shape):
        # Sizes 0 and 1 take other paths through broadcasting, so a symbolic size stands for 2 and more.
        tests.append(f"a{i}.size({d}) == {size}" if isinstance(size, int) else f"a{i}.size({d}) >= 2")
    return tests
