"""`compile_regional`: one repeated block is compiled once, and all its equals run the same code.

A decoder of 32 layers is 32 times one text with other weights. Compiled as a whole it is traced and generated 32 times
over; compiled as a block, with parameters as inputs of the generated code, once. So compile time stops growing with
depth, at the price of a few kernels between blocks that stay eager. That blocks really share is proven before anything
is generated: all of them are traced, and more than a form or two refuses. Source: regional compilation of PyTorch
(https://docs.pytorch.org/tutorials/recipes/regional_compilation.html).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.search import Call, is_torch_module, record_calls
from hybrid_core.strategies.base import Applied, Method, Setting, Situation, list_briefly
from hybrid_core.strategies.kernels.compilation import no_compiler_reason, refusing_endless_forms

# A second form is normal: the first block may be told that it is the first.
MOST_FORMS = 2


class SharedCode:
    """The compiled form of the call of a block, whichever of its equals it is given."""

    def __init__(
        self, dynamic: bool | None, backend: str | Callable[..., Any] = "inductor", whole: bool = False
    ) -> None:
        def run(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return block._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]

        # Compiled forms are kept, and limited in number, per code object: two kinds of blocks must not share one.
        run.__code__ = run.__code__.replace()
        self._run = torch.compile(run, dynamic=dynamic, backend=backend, fullgraph=whole)

    def __call__(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Call one of the blocks; the first call of each form compiles."""
        with refusing_endless_forms():
            return self._run(block, *args, **kwargs)


class BlockCall:
    """What a block's compiled slot holds: the shared code, and the block to run it on."""

    def __init__(self, shared: SharedCode, block: nn.Module) -> None:
        self.shared, self.block = shared, block

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the block."""
        return self.shared(self.block, *args, **kwargs)


def compile_regions(model: nn.Module, situation: Situation) -> Applied:
    """Give all blocks of a kind one compiled code; raises where there are none, or where they would not share it."""
    dynamic = None if situation.workload.kind == "decode" else False
    calls = {call.module: call for call in record_calls(model, situation)}
    reasons: list[str] = []
    regions = [region for group in repeated_blocks(model) for region in _regions(group, calls, dynamic, reasons)]
    if not regions:
        why = reasons[0] if reasons else "no ModuleList or Sequential holds two blocks of one class and equal shapes"
        raise StrategyUnsupported(f"there is no region to compile once: {why}")
    names = {module: name for name, module in model.named_modules()}
    for blocks in regions:
        shared = SharedCode(dynamic)
        for block in blocks:
            block._compiled_call_impl = BlockCall(shared, block)  # type: ignore[assignment]
    listed = list_briefly([f"{len(blocks)} x {names[blocks[0]]}" for blocks in regions])
    return Applied(model, (f"{len(regions)} kinds of repeated blocks are compiled once each and shared ({listed})",))


def repeated_blocks(model: nn.Module) -> list[list[nn.Module]]:
    """Children of one container with equal class and equal shapes inside, two or more; outermost containers only."""
    found: list[list[nn.Module]] = []
    inside: set[nn.Module] = set()
    for container in model.modules():
        if not isinstance(container, nn.ModuleList | nn.Sequential) or container in inside:
            continue
        groups: dict[Any, list[nn.Module]] = {}
        for child in dict.fromkeys(container):
            if not _is_single_operation(child):
                groups.setdefault(_shape_of(child), []).append(child)
        for blocks in groups.values():
            if len(blocks) > 1:
                found.append(blocks)
                inside.update(part for block in blocks for part in block.modules())
    return found


def _shape_of(block: nn.Module) -> Any:
    """Equal for blocks that differ in nothing but the values of their weights."""
    return tuple(
        (name, type(part), *((k, t.shape, t.dtype, t.device) for k, t in _tensors(part) if t is not None))
        for name, part in block.named_modules()
    )


def _tensors(part: nn.Module) -> list[tuple[str, torch.Tensor | None]]:
    return [*part._parameters.items(), *part._buffers.items()]


def _regions(
    blocks: list[nn.Module], calls: dict[nn.Module, Call], dynamic: bool | None, reasons: list[str]
) -> list[list[nn.Module]]:
    """The blocks themselves where they can share one code; else the parts of them that can."""
    called = [block for block in blocks if block in calls]
    if len(called) < 2:
        return []
    reason = _no_sharing_reason([calls[block] for block in called], dynamic)
    if reason is None:
        return [called]
    reasons.append(reason)
    children = [name for name, child in called[0].named_children() if not _is_single_operation(child)]
    parts = [[block.get_submodule(name) for block in called if hasattr(block, name)] for name in children]
    return [region for part in parts for region in _regions(part, calls, dynamic, reasons)]


def _is_single_operation(module: nn.Module) -> bool:
    """A layer of the library without children is one kernel already; a list of modules cannot be called."""
    return isinstance(module, nn.ModuleList) or (is_torch_module(module) and not module._modules)


def _no_sharing_reason(calls: list[Call], dynamic: bool | None) -> str | None:
    """Trace every block on what it received, generating nothing; None when they share at most `MOST_FORMS` forms."""
    name = calls[0].name or type(calls[0].module).__name__
    for leaf in pytree.tree_leaves([(call.args, call.kwargs) for call in calls]):
        if not isinstance(leaf, torch.Tensor | int | float | str | None):
            return f"'{name}' is handed a {type(leaf).__name__}, whose state differs from block to block"
    forms = 0

    def note(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        nonlocal forms
        forms += 1
        return graph.forward

    traced = SharedCode(dynamic, backend=note, whole=True)
    with _uncounted(), torch.no_grad():
        for call in calls:
            try:
                traced(call.module, *call.args, **call.kwargs)
            except Exception as error:  # whatever a user's forward or the tracer raises: the block is no region
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                return f"'{call.name}' cannot be traced as one graph ({first:.120})"
    most = min(MOST_FORMS, len(calls) - 1)
    return None if forms <= most else f"{len(calls)} blocks like '{name}' gave {forms} different graphs"


@contextmanager
def _uncounted() -> Iterator[None]:
    """Leave dynamo's counters as they were: tracing to find out compiles nothing."""
    from torch._dynamo.utils import counters  # late: importing the compiler costs seconds

    before = {kind: dict(counts) for kind, counts in counters.items()}
    try:
        yield
    finally:
        for kind in list(counters):
            counters[kind].clear()
            counters[kind].update(before.get(kind, {}))


COMPILE_REGIONAL = Method(
    Setting(
        name="compile_regional",
        sentence="One of the model's repeated blocks is compiled and all its equals share the code; the rest is eager.",
        stage=90,
        exact=True,
        expected_cost_s=18.0,
        references=("https://docs.pytorch.org/tutorials/recipes/regional_compilation.html",),
        compiles=True,
        on_request="its code is that of compile, block by block, and was not faster; for models too deep to compile",
    ),
    apply=compile_regions,
    unavailable=lambda device: no_compiler_reason(device),
)
