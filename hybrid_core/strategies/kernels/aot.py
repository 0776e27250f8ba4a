"""`aot`: the whole call is compiled ahead of time into one library, and Python no longer runs between its kernels.

The call is exported as a graph, AOTInductor compiles the graph with its weights into a package, and a module that only
runs the package stands in the model's place. The batch, and the lengths of token inputs, stay open where the model's
code allows it, because other data than the workload's will come; a call that the package does not hold for is refused,
since there is no uncompiled model left that could answer it. Source: "AOTInductor: Ahead-Of-Time Compilation for
torch.export-ed models", PyTorch documentation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Conflict, Method, Setting, Situation
from hybrid_core.strategies.kernels.compilation import no_compiler_reason
from hybrid_core.strategies.runtimes.call_form import CallForm, describe_tensors, record_call, sizes_of
from hybrid_core.strategies.runtimes.exportable import hidden_from_exporters
from hybrid_core.strategies.runtimes.foreign_memory import OutsideMemory
from hybrid_core.strategies.runtimes.graph_file import (
    GraphFile,
    export_call,
    export_failure,
    private_folder,
    quiet_export,
)
from hybrid_core.strategies.runtimes.session import RuntimeModule, Session, Sizes, prove_session, relative_difference

# Relative error of the example that another order of sums may cause, by the type of the answer.
ROUNDING, HALF_ROUNDING = 5e-5, 4e-2
LIBRARY = "model.pt2"


class PackageSession:
    """One loaded package; its answers are tensors of PyTorch's own allocator, fresh at each call."""

    weight_bytes: int | None = None

    def __init__(self, run: Any) -> None:
        self._run = run

    def run(self, tensors: list[Tensor]) -> list[Tensor]:
        """One call."""
        # The library reads the memory of its inputs by the strides it was compiled for.
        answer = self._run(*(tensor.detach().contiguous() for tensor in tensors))
        return [answer] if isinstance(answer, Tensor) else list(answer)


class Packages:
    """Loads packages for one device."""

    name = "AOTInductor"

    def __init__(self, device: torch.device) -> None:
        self.device_index = device.index if device.type == "cuda" and device.index is not None else -1

    def open(self, path: Path, sizes: Sizes | None) -> Session:
        """A session; a package holds for all its sizes alike."""
        package = torch._inductor.aoti_load_package(str(path), device_index=self.device_index)
        return PackageSession(package)


class PackagedModule(RuntimeModule):
    """The model as a compiled package. `package_path` is the file, which disappears with the module."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(Packages(device))
        self.place = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.package_path = ""
        self.constant_bytes = 0

    def outside_memory(self) -> OutsideMemory:
        """The package's own copy of the weights; results inside a call are PyTorch's own and are counted there."""
        if self.place.device.type == "cpu":
            return super().outside_memory()
        return OutsideMemory(self.constant_bytes, 0, "by the sizes of the constants in the compiled package")

    def export_files(self) -> dict[str, Path]:
        """None besides the library that `package_path` names."""
        return {}

    def _session_for(self, sizes: Sizes) -> Session:
        # One package answers all sizes that its guards let through; a second one would hold the weights again.
        assert self._fixed is not None, "load() comes first"
        return self._fixed


def compile_ahead(model: nn.Module, situation: Situation) -> Applied:
    """Export, compile, load and prove; with open sizes first, else for the example's sizes alone."""
    form, example, expected = record_call(model, situation)
    refusal: StrategyUnsupported | None = None
    for is_open in (True, False):
        module = PackagedModule(situation.device)
        # Not in the scratch folder of the run: the file must live as long as the module, which may outlive the run.
        path = private_folder(module, None) / LIBRARY
        try:
            graph, module.constant_bytes = _write_package(model, form, example, path, is_open)
            module.load(graph, path, example)
            _prove(module, situation, model, example, expected)
        except StrategyUnsupported as error:
            refusal = refusal or error
            continue
        module.package_path = str(path)
        _release_weights(model)
        sizes = "for any batch and length its code allows" if is_open else "for these sizes only"
        return Applied(
            module,
            (
                f"{type(model).__name__} is compiled ahead of time into one library of "
                f"{path.stat().st_size / 1e6:.1f} MB, called with {describe_tensors(example)}, {sizes}",
            ),
        )
    assert refusal is not None, "both ways ended in a refusal"
    raise refusal


def sizes_of_data(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions that differ between data sets: the batch, and the length of what is written in whole numbers.

    Code for open sizes is slower, so the width of an image or of features stays fixed.
    """
    dims = tensor.dim() if not tensor.is_floating_point() else 1
    return tuple(i for i in range(min(dims, tensor.dim())) if tensor.shape[i] > 1)


def refuse_what_cannot_be_exported(model: nn.Module, situation: Situation) -> str | None:
    """The cheap reasons: growing caches, and parts that no exporter can look into."""
    if situation.workload.kind == "decode":
        return (
            "a decode hands a growing key-value cache object to the model, and a compiled package takes and gives "
            "tensors only; use it for a workload of whole calls"
        )
    if model._forward_pre_hooks:
        return (
            f"hooks change the inputs of {type(model).__name__} before its call, as a cast to half precision does, and "
            "an export would leave them out; choose one of the two"
        )
    for name, module in model.named_modules():
        where = f"'{name}'" if name else "the model"
        if isinstance(module, RuntimeModule):
            return f"{where} already runs outside PyTorch in {module.engine.name}; choose one of the two"
    return hidden_from_exporters(model)


def _write_package(
    model: nn.Module, form: CallForm, example: tuple[Tensor, ...], path: Path, is_open: bool
) -> tuple[GraphFile, int]:
    try:
        # Oblivious: the code that is generated for a batch of two or more holds for a batch of one as well.
        with (
            quiet_export(),
            torch.inference_mode(False),
            torch.no_grad(),
            torch.fx.experimental._config.patch(backed_size_oblivious=is_open),  # type: ignore[attr-defined]
        ):
            program, fits = export_call(model, form, example, sizes_of_data if is_open else None)
            held = sum(t.untyped_storage().nbytes() for t in (*program.state_dict.values(), *_tensors(program)))
            # Not frozen: on models of this project that was slower at a batch of one, and held the weights twice.
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except StrategyUnsupported:
        raise
    except Exception as error:  # user code can fail to compile in as many ways as there are programs
        raise StrategyUnsupported(
            f"{type(model).__name__} cannot be compiled ahead of time ({export_failure(error)}); leave this setting "
            "off for it"
        ) from error
    graph = GraphFile(path, form, sizes_of(example), describe_tensors(example), fits)
    if not fits(list(example)):
        raise StrategyUnsupported(f"the exported graph does not hold for {describe_tensors(example)} itself")
    return graph, held


def _release_weights(model: nn.Module) -> None:
    """Empty the private copy. Graphs of the tracer outlive the compilation and hold its tensors, which count twice."""
    for tensor in (*model.parameters(), *model.buffers()):
        if type(tensor) in (Tensor, nn.Parameter) and not tensor.is_inference():
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)


def _tensors(program: Any) -> list[Tensor]:
    return [value for value in program.constants.values() if isinstance(value, Tensor)]


def _prove(
    module: PackagedModule,
    situation: Situation,
    model: nn.Module,
    example: tuple[Tensor, ...],
    expected: list[Tensor],
) -> None:
    """The example, and where the package says that it holds for another batch, that batch as well."""
    kinds = {tensor.dtype for tensor in expected}
    bound = HALF_ROUNDING if kinds & {torch.bfloat16, torch.float16} else ROUNDING
    prove_session(module, situation, model, example, expected, bound)
    graph = module._graph
    assert graph is not None, "load() came first"
    if any(tensor.dim() == 0 for tensor in example):
        return
    other = [torch.cat((t, t)) if t.shape[0] == 1 else t[:1].clone() for t in example]
    if len({t.shape[0] for t in example}) > 1 or not graph.fits(other):
        return
    args, kwargs = graph.form.call_of(other)
    with torch.no_grad():
        answers = torch.utils._pytree.tree_leaves(model(*args, **kwargs))
    for one, found in zip([a for a in answers if isinstance(a, Tensor)], module._run(other), strict=True):
        error = relative_difference(one, found)
        if not error <= bound:
            raise StrategyUnsupported(
                f"the package compiled for an open batch answers {describe_tensors(other)} with a relative error of "
                f"{error:.1e}, more than {bound:g}"
            )


AOT = Method(
    Setting(
        name="aot",
        sentence="The whole call is exported and compiled ahead of time into one library that runs without Python.",
        stage=90,
        exact=True,
        expected_cost_s=45.0,
        references=("https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html",),
    ),
    apply=compile_ahead,
    unsupported=refuse_what_cannot_be_exported,
    unavailable=lambda device: no_compiler_reason(device),
    conflicts=tuple(
        Conflict(
            "aot",
            "memory_pooling",
            other,
            "a compiled package plans and keeps its own tensors, so nothing is left for this setting to arrange",
        )
        for other in ("preallocated", "static_cache", "static_step", "quantized_cache")
    ),
)
