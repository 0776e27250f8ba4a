"""Reads and replaces the body of one module's own forward, leaving the module, its children and attributes in place.

torch.fx traces the forward with every child as a closed box; a changed graph becomes a method of the same object, so
the model keeps its identity, copies deeply, and later steps still find every layer. A traced body is only valid for
calls of the same form (which arguments are None, the value of flags), so each other form runs the original forward.
Source: torch.fx, Reed et al. 2022 (arXiv 2112.08429).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node, Proxy, Tracer
from torch.fx.proxy import TraceError

from hybrid_core.strategies.attention.search import Call


@dataclass(frozen=True)
class Body:
    """The traced body: `names` are its parameters, `fixed` the flags and absent arguments it is only valid for."""

    graph: Graph
    names: tuple[str, ...]
    fixed: dict[str, bool | None]


class Seen(NamedTuple):
    """The form of one tensor during the example."""

    shape: torch.Size
    dtype: torch.dtype
    stride: tuple[int, ...]
    device: torch.device

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize


def bind_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments by parameter name, defaults filled in; None where forward has no plain list of parameters."""
    signature = inspect.signature(type(module).forward)
    if any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in signature.parameters.values()):
        return None
    bound = signature.bind(module, *args, **kwargs)
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[1:])


def trace_body(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Body | None:
    """Trace the module's own forward for calls of this form; None where it cannot be read (control flow on data)."""
    arguments = bind_arguments(module, args, kwargs)
    if arguments is None or "forward" in vars(module):
        return None
    fixed = {n: v for n, v in arguments.items() if v is None or isinstance(v, bool)}
    names = tuple(n for n in arguments if n not in fixed)
    try:
        graph = _ChildrenClosed().trace(module, concrete_args=dict(fixed))
    except Exception:  # whatever the user's own code raises when it meets a symbolic value; the module is left alone
        return None
    return Body(_without_fixed(graph, names), names, fixed)


def observe_body(call: Call, body: Body) -> dict[Node, Seen] | None:
    """Run the traced body once on what the module received; None where it runs only inside its model."""
    arguments = bind_arguments(call.module, call.args, call.kwargs)
    assert arguments is not None, "the body was traced, so the arguments bind"
    traced = GraphModule(call.module, body.graph)
    observer, graph_nodes, copied = _Observer(traced), list(body.graph.nodes), list(traced.graph.nodes)
    try:
        with torch.no_grad():
            observer.run(*(arguments[name] for name in body.names))
    except Exception:  # its cache has moved on, say
        return None
    pairs = zip(graph_nodes, copied, strict=True)
    return {mine: observer.seen[theirs] for mine, theirs in pairs if theirs in observer.seen}


def install_body(
    module: nn.Module,
    body: Body,
    *,
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda rewritten: rewritten,
    admits: Callable[..., bool] | None = None,
) -> None:
    """Make the graph the module's forward for calls of its form.

    `wrap` may surround the rewritten function; `admits(*arguments)` may send more calls to the original forward.
    """
    python = body.graph.python_code("self")
    scope: dict[str, Any] = dict(python.globals)
    exec(compile(python.src, f"<rewritten {type(module).__name__}>", "exec"), scope)
    owner: Any = module
    owner.forward = MethodType(_guarded(wrap(scope["forward"]), type(module), body, admits), module)


class _Observer(Interpreter):
    """Notes the form of each tensor that it makes."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[Node, Seen] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.seen[n] = Seen(result.shape, result.dtype, result.stride(), result.device)
        return result


class _PlainProxy(Proxy):
    """A proxy that refuses `x += y`, which torch.fx would silently turn into `x = x + y` and so lose the write."""

    def _refuse(self, *_: Any) -> Any:
        raise TraceError("the forward writes in place")

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __iand__ = __ior__ = __ixor__ = __imatmul__ = _refuse
    __ifloordiv__ = __imod__ = __setitem__ = _refuse


class _ChildrenClosed(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def proxy(self, node: Node) -> Proxy:
        if node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__"):
            raise TraceError("the forward writes in place")
        return _PlainProxy(node, self)


def _without_fixed(graph: Graph, names: tuple[str, ...]) -> Graph:
    """Drop the assertions and inputs that fx adds for fixed arguments; `_guarded` checks them instead."""
    for node in reversed(list(graph.nodes)):
        is_check = node.op == "call_function" and "_assert" in getattr(node.target, "__name__", "")
        is_fixed = node.op == "placeholder" and str(node.target) not in names
        if is_check or ((is_fixed or node.name.startswith("eq")) and not node.users):
            graph.erase_node(node)
    if any(node.op == "placeholder" and str(node.target) not in names for node in graph.nodes):
        raise TraceError("a fixed argument is still used")
    return graph


def _guarded(
    rewritten: Callable[..., Any], owner: type[nn.Module], body: Body, admits: Callable[..., bool] | None
) -> Callable[..., Any]:
    """A function with the parameters of the original forward; written as text because binding costs microseconds."""
    parameters = list(inspect.signature(owner.forward).parameters.values())
    defaults = {f"_default_{p.name}": p.default for p in parameters if p.default is not p.empty}
    heads = [p.name if p.default is p.empty else f"{p.name}=_default_{p.name}" for p in parameters]
    checks = [f"{n} is {v}" for n, v in body.fixed.items()] + [f"{n} is not None" for n in body.names]
    checks += [f"_admits({', '.join(body.names)})"] if admits else []
    call = ", ".join([parameters[0].name, *body.names])
    source = (
        f"def forward({', '.join(heads)}):\n"
        f"    if {' and '.join(checks) or 'True'}:\n"
        f"        return _rewritten({call})\n"
        f"    return _original({', '.join(p.name for p in parameters)})\n"
    )
    scope: dict[str, Any] = {"_rewritten": rewritten, "_original": owner.forward, "_admits": admits, **defaults}
    exec(compile(source, f"<guard of {owner.__name__}>", "exec"), scope)
    guarded: Callable[..., Any] = scope["forward"]
    return guarded
