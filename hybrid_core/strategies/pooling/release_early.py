"""`release_early`: the model runs as its exported graph, in which each result is freed after its last reader.

Eager code keeps every local (queries, keys, values, scores) until its function returns; the code generated for a graph
drops each name at once, which lowers the peak of a call although the same kernels run on the same parameters. A graph
holds for the sizes its guards allow; a call that no graph holds for is exported in its turn, and is never run eagerly
instead. Source: `torch.export` of PyTorch 2.13; figures in docs/negative-results.md, "The arena".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from hybrid_core.allocated import allocated_peak
from hybrid_core.errors import StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Applied, Conflict, Method, Setting, Situation
from hybrid_core.strategies.runtimes.call_form import CallForm, describe_tensors, record_call
from hybrid_core.strategies.runtimes.exportable import hidden_from_exporters
from hybrid_core.strategies.runtimes.graph_file import export_call, export_failure, quiet_export, usual_sizes
from hybrid_core.strategies.runtimes.session import relative_difference

# Forms of call (other arguments, or sizes that the guards of the earlier graphs exclude) that are exported at most.
MOST_GRAPHS = 4
# The kernels are the same; the shapes that a fused one is chosen by may differ by a symbolic size.
ROUNDING, HALF_ROUNDING = 1e-5, 4e-2
# A peak that is lower by less than this is lower by the size of a few small results.
WORTH_SHARE = 0.01


@dataclass(frozen=True)
class CallGraph:
    """The graph of one form of call, over the model's own parameters, and the test of what it holds for."""

    form: CallForm
    fits: Callable[[list[Tensor]], bool]
    run: GraphModule

    def tensors_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
        """The tensors of a call that this graph holds for, else None."""
        tensors = self.form.tensors_of(args, kwargs)
        return tensors if tensors is not None and self.fits(tensors) else None


class GraphRunner(nn.Module):
    """Runs the graphs of `original`, which is kept for its parameters and for further exports and is never the answer.

    The graphs are not registered: they hold the very parameters and buffers of `original`, which would appear twice.
    """

    def __init__(self, original: nn.Module, workload: Workload) -> None:
        super().__init__()
        self.original, self.workload = original, workload
        self.graphs: list[CallGraph] = []
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph that holds for this call; a new form is exported first.

        Raises:
            StrategyUnsupported: the form cannot be exported, or too many were.
        """
        for graph in self.graphs:
            tensors = graph.tensors_of(args, kwargs)
            if tensors is not None:
                return graph.form.answer_of(list(graph.run(*tensors)))
        return self._after_export(args, kwargs)

    def add(self, graph: CallGraph) -> None:
        """Keep one more graph; the newest is asked last."""
        self.graphs.append(graph)

    def _after_export(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(self.graphs) >= MOST_GRAPHS:
            raise StrategyUnsupported(
                f"the model was exported for {len(self.graphs)} forms of call, the most that are kept, and none holds "
                f"for {describe_tensors(_tensors((args, kwargs)))}; leave release_early off for such calls"
            )
        whole = Situation((args, kwargs), lambda model, given: model(*given[0], **given[1]), self.workload)
        graph = proven_graph(self.original, whole)
        self.add(graph)
        tensors = graph.tensors_of(args, kwargs)
        assert tensors is not None, "a graph is proven on the call it was made for"
        return graph.form.answer_of(list(graph.run(*tensors)))


def run_as_graph(model: nn.Module, situation: Situation) -> Applied:
    """Export the example's call, prove the graph on it, and keep it when its peak is lower than the model's."""
    graph = proven_graph(model, situation)
    runner = GraphRunner(model, situation.workload)
    runner.add(graph)
    call = situation.call
    try:
        with torch.no_grad():
            call(runner, situation.example_inputs)
    except (AttributeError, TypeError) as error:
        raise StrategyUnsupported(
            f"the workload uses more of {type(model).__name__} than its call ({error}), and a graph has no more"
        ) from error
    before = peak_bytes(lambda: call(model, situation.example_inputs), situation.device)
    after = peak_bytes(lambda: call(runner, situation.example_inputs), situation.device)
    if after > (1 - WORTH_SHARE) * before:
        raise StrategyUnsupported(
            f"a call needs {after / 1e6:.2f} MB at its peak as a graph and {before / 1e6:.2f} MB as the model is "
            "written, so nothing is saved by freeing results early; leave release_early off"
        )
    results = sum(node.op == "call_function" for node in graph.run.graph.nodes)
    return Applied(
        runner,
        (
            f"{type(model).__name__} runs as a graph of {results} operations, each result freed after its last reader: "
            f"{after / 1e6:.2f} MB at the peak of the example call instead of {before / 1e6:.2f} MB",
        ),
    )


def proven_graph(model: nn.Module, situation: Situation) -> CallGraph:
    """The graph of the call that `situation` makes: with open sizes where the code allows it, else for its sizes.

    Raises:
        StrategyUnsupported: neither can be exported, or answers as the model does.
    """
    form, example, expected = record_call(model, situation)
    refusal: StrategyUnsupported | None = None
    for is_open in (True, False):
        try:
            graph = _export(model, form, example, is_open)
            _prove(graph, example, expected)
            _prove_other_batch(graph, model, example)
        except StrategyUnsupported as error:
            refusal = error
            continue
        return graph
    assert refusal is not None, "both ways ended in a refusal"
    raise refusal


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes that are allocated at one moment of one call, on top of what there was before."""
    with torch.inference_mode():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            work()
            torch.cuda.synchronize(device)
            return torch.cuda.max_memory_allocated(device) - before
        return allocated_peak(work)


def _export(model: nn.Module, form: CallForm, example: tuple[Tensor, ...], is_open: bool) -> CallGraph:
    try:
        with quiet_export(), torch.inference_mode(False), torch.no_grad():
            program, fits = export_call(model, form, example, usual_sizes if is_open else None)
            # `fits` has asked the guards before a call comes here.
            run = program.module(check_guards=False)
    except StrategyUnsupported:
        raise
    except Exception as error:  # user code can fail to export in as many ways as there are programs
        raise StrategyUnsupported(
            f"{type(model).__name__} cannot be exported as a graph ({export_failure(error)}); leave release_early off "
            "for it"
        ) from error
    assert isinstance(run, GraphModule), "an exported program gives a graph"
    own = {id(tensor) for tensor in model.parameters()}
    if any(id(tensor) not in own for tensor in run.parameters()):
        raise StrategyUnsupported("the exported graph copies parameters of the model, which would hold them twice")
    return CallGraph(form, fits, run)


def _prove(graph: CallGraph, example: tuple[Tensor, ...], expected: list[Tensor]) -> None:
    if not graph.fits(list(example)):
        raise StrategyUnsupported(f"the exported graph does not hold for {describe_tensors(example)} itself")
    with torch.no_grad():
        # A parameter may be among the answers, and asks for gradients.
        found = list(tensor.detach() for tensor in graph.run(*(tensor.clone() for tensor in example)))
    for one, other in zip(expected, found, strict=True):
        bound = HALF_ROUNDING if one.dtype in (torch.bfloat16, torch.float16) else ROUNDING
        error = relative_difference(one, other)
        if one.dtype != other.dtype or not error <= bound:
            raise StrategyUnsupported(
                f"the exported graph answers {describe_tensors([other])} where the model answers "
                f"{describe_tensors([one])}, relative error {error:.1e}, more than {bound:g}"
            )


def _prove_other_batch(graph: CallGraph, model: nn.Module, example: tuple[Tensor, ...]) -> None:
    """The exporter takes an open size for two or more without saying so, and code may ask for a batch of one."""
    if any(t.dim() == 0 for t in example) or len({t.shape[0] for t in example}) != 1:
        return
    other = tuple(torch.cat((t, t)) if t.shape[0] == 1 else t[:1].clone() for t in example)
    if not graph.fits(list(other)):
        return
    args, kwargs = graph.form.call_of([tensor.clone() for tensor in other])
    with torch.no_grad():
        expected = _tensors(model(*args, **kwargs))
    _prove(graph, other, [tensor.detach() for tensor in expected])


def _unsupported(model: nn.Module, situation: Situation) -> str | None:
    if situation.workload.kind == "decode":
        return (
            "a decode hands a growing key-value cache object to the model, and an exported graph takes and gives "
            "tensors only; use it for a workload of whole calls"
        )
    return hidden_from_exporters(model)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


_EXCLUDED = (
    (
        "kernel_fusion",
        (
            "compile",
            "compile_regional",
            "compile_freezing",
            "compile_max_autotune",
            "aot",
            "cudagraphs",
        ),
        "compiled and recorded code plans the life of its results by itself",
    ),
    ("quantization", ("int8_static",), "int8_static is compiled, and compiled code plans its results by itself"),
    (
        "quantization",
        ("int8_dynamic", "int8_keep_ends"),
        "packed int8 weights are no tensors, and an exported graph cannot take them along",
    ),
    (
        "attention_fusion",
        ("sdpa_causal", "flash", "flex"),
        "it looks at its mask in every call, which an exported graph cannot follow",
    ),
)
RELEASE_EARLY = Method(
    Setting(
        name="release_early",
        sentence="The model runs as its exported graph, which frees each result right after its last reader.",
        # After everything that changes modules, for the graph is of what they then are.
        stage=60,
        exact=True,
        expected_cost_s=4.0,
        references=("https://docs.pytorch.org/docs/stable/export.html", "https://arxiv.org/abs/2001.03288"),
    ),
    apply=run_as_graph,
    unsupported=_unsupported,
    conflicts=tuple(
        Conflict("release_early", strategy, other, reason) for strategy, others, reason in _EXCLUDED for other in others
    ),
)
