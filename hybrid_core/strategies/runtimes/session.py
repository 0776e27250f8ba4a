"""A model that runs in another runtime: an nn.Module whose call is a session's, and never PyTorch's own.

One session is made for the sizes of the example, where fixed sizes let the runtime plan better, and a second one with
open sizes when the first call of other sizes comes (a quality task has its own batch). A call that the exported graph
is not valid for is refused by name; the untouched model is gone, so nothing can quietly run in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Situation
from hybrid_core.strategies.runtimes.call_form import CallForm, describe_tensors, record_call, sizes_of
from hybrid_core.strategies.runtimes.foreign_memory import OutsideMemory, growth_during, how_it_is_found
from hybrid_core.strategies.runtimes.graph_file import GraphFile, private_folder, write_graph

# Some runtimes settle their buffers at the second call of a size.
CALLS_UNTIL_SETTLED = 2


Sizes = tuple[tuple[int, ...], ...]


class Session(Protocol):
    """A loaded graph. The tensors it gives must not share memory with what the next call writes.

    `weight_bytes` is what it holds of weights where making it allocates more than these, else None.
    """

    weight_bytes: int | None

    def run(self, tensors: list[Tensor]) -> list[Tensor]:
        """One call."""
        ...


class Engine(Protocol):
    """A runtime: `open` loads a graph file, for these sizes of its inputs or, with None, for any."""

    name: str

    def open(self, path: Path, sizes: Sizes | None) -> Session:
        """A session of its own."""
        ...


# What is done to a graph file before it is opened: returns the file to open and a sentence about it.
Preparation = Callable[[GraphFile], tuple[Path, str]]


class RuntimeModule(nn.Module):
    """The model in another runtime. `kept` is the folder of its graph file, which disappears with the module."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        # Tasks ask where a model is by its first parameter; there is none left, so this empty one answers.
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)
        self._graph: GraphFile | None = None
        self._path: Path | None = None
        self._fixed: Session | None = None
        self._open: Session | None = None
        self._seen: set[tuple[Any, ...]] = set()
        self._weights = self._working = 0
        self.eval()

    def load(self, graph: GraphFile, path: Path, example: tuple[Tensor, ...]) -> None:
        """Open the session of the example's sizes and let it settle.

        Twice, and the first one is thrown away: what the library sets up once in a process is none of the model's.
        """
        self._graph, self._path = graph, path
        self.engine.open(path, graph.sizes).run(list(example))
        self._fixed = self._opened(graph.sizes)
        self._run(list(example))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the session; the answer is nested as the model's was.

        Raises:
            StrategyUnsupported: the graph is not valid for a call of this form or these sizes.
        """
        assert self._graph is not None, "load() comes first"
        tensors = self._graph.form.tensors_of(args, kwargs)
        if tensors is None or not self._graph.fits(tensors):
            raise StrategyUnsupported(
                f"the {self.engine.name} session was exported from a call with {self._graph.described} and cannot "
                f"answer one with {describe_tensors(_tensors(args, kwargs))}; leave this setting off for such calls"
            )
        return self._graph.form.answer_of(self._run(tensors))

    def outside_memory(self) -> OutsideMemory:
        """What the sessions keep that no tensor of PyTorch shows."""
        return OutsideMemory(max(0, self._weights), max(0, self._working), how_it_is_found())

    def export_files(self) -> dict[str, Path]:
        """The graph as the runtime opens it, with the weights that lie beside it, to be taken along as files."""
        path = self._path
        assert path is not None, "load() comes first"
        return {file.name: file for file in sorted(path.parent.glob(f"{path.stem}.*")) if file.is_file()}

    def __deepcopy__(self, memo: dict[int, Any]) -> RuntimeModule:
        """A session cannot be copied, and is never changed by a call: the copy is the same module."""
        return self

    def _run(self, tensors: list[Tensor]) -> list[Tensor]:
        sizes = sizes_of(tensors)
        session = self._session_for(sizes)
        if sizes not in self._seen:
            # The first calls of a size make the runtime's buffers; what stays of them is working memory.
            _, grown = growth_during(lambda: [len(session.run(tensors)) for _ in range(CALLS_UNTIL_SETTLED)])
            self._working += grown
            self._seen.add(sizes)
        return session.run(tensors)

    def _session_for(self, sizes: tuple[tuple[int, ...], ...]) -> Session:
        assert self._graph is not None and self._fixed is not None, "load() comes first"
        if sizes == self._graph.sizes:
            return self._fixed
        if self._open is None:
            self._open = self._opened(None)
        return self._open

    def _opened(self, sizes: Sizes | None) -> Session:
        path = self._path
        assert path is not None, "load() comes first"
        session, grown = growth_during(lambda: self.engine.open(path, sizes))
        weights = grown if session.weight_bytes is None else session.weight_bytes
        self._weights += weights
        self._working += grown - weights
        return session


def run_elsewhere(
    model: nn.Module, situation: Situation, engine: Engine, bound: float, prepare: Preparation | None = None
) -> Applied:
    """Export, open and prove: the session must answer the example as the model does, up to `bound` (relative).

    Open sizes are tried first; a model whose code fixes its sizes gets a session for the example's sizes alone.
    """
    form, example, expected = record_call(model, situation)
    refusal: StrategyUnsupported | None = None
    for open_sizes in (True, False):
        module = RuntimeModule(engine)
        folder = private_folder(module, situation.scratch)
        try:
            said = _load(module, model, form, example, folder, open_sizes, prepare)
            prove_session(module, situation, model, example, expected, bound)
        except StrategyUnsupported as error:
            refusal = error
            continue
        sizes = "for any batch its code allows" if open_sizes else "for these sizes only"
        made = f"{type(model).__name__} runs in {engine.name}, exported with {describe_tensors(example)}, {sizes}"
        return Applied(module, (made, *([said] if said else [])))
    assert refusal is not None, "both ways ended in a refusal"
    raise refusal


def _load(
    module: RuntimeModule,
    model: nn.Module,
    form: CallForm,
    example: tuple[Tensor, ...],
    folder: Path,
    open_sizes: bool,
    prepare: Preparation | None,
) -> str:
    graph = write_graph(model, form, example, folder, open_sizes=open_sizes)
    if not graph.fits(list(example)):
        raise StrategyUnsupported(f"the exported graph does not hold for {describe_tensors(example)} itself")
    path, said = prepare(graph) if prepare else (graph.path, "")
    try:
        module.load(graph, path, example)
    except StrategyUnsupported:
        raise
    except Exception as error:  # runtimes raise classes of their own, one for each thing they lack
        first = (str(error).splitlines() or ["no message"])[0]
        raise StrategyUnsupported(
            f"{module.engine.name} cannot run the exported graph ({type(error).__name__}: {first:.200})"
        ) from error
    return said


def prove_session(
    module: RuntimeModule,
    situation: Situation,
    model: nn.Module,
    example: tuple[Tensor, ...],
    expected: list[Tensor],
    bound: float,
) -> None:
    """The answers agree, and the whole workload runs with the session in the model's place."""
    for one, other in zip(expected, module._run(list(example)), strict=True):
        error = relative_difference(one, other)
        if one.shape != other.shape or one.dtype != other.dtype or not error <= bound:
            raise StrategyUnsupported(
                f"{module.engine.name} answers {describe_tensors([other])} where the model answers "
                f"{describe_tensors([one])}, relative error {error:.1e}, more than {bound:g}"
            )
    try:
        with torch.no_grad():
            situation.call(module, situation.example_inputs)
    except (AttributeError, TypeError) as error:
        raise StrategyUnsupported(
            f"the workload uses more of {type(model).__name__} than its call ({error}), and a session has no more"
        ) from error


def relative_difference(expected: Tensor, found: Tensor) -> float:
    """The norm of the difference over the norm of what was expected; 0 where both are empty or equal."""
    if expected.shape != found.shape:
        return float("inf")
    wide = torch.complex128 if expected.is_complex() else torch.float64
    one, other = expected.to(wide), found.to(wide)
    same_ends = torch.isfinite(one) | (one == other)
    if not bool(same_ends.all()):
        return float("inf")
    finite = torch.isfinite(one)
    norm = float(torch.linalg.vector_norm(one[finite]))
    return float(torch.linalg.vector_norm(other[finite] - one[finite])) / max(norm, 1e-12)


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
