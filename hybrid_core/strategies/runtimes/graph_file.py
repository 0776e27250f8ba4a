"""Writes the call of a model as an ONNX file that other runtimes read, with the usual sizes open where its code allows.

The call is flattened first: every tensor among the arguments becomes one input, everything else a constant, and nested
answers are put together again afterwards. A batch of one is exported as a batch of two, because the exporter fixes
sizes of one; what the export assumes about the sizes stays with the file as a test that each call must pass. Source:
`torch.export` and `torch.onnx.export(dynamo=True)` of PyTorch 2.13.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.utils import _pytree as pytree

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.runtimes.call_form import CallForm, describe_tensors, sizes_of

# Larger models do not fit into one file of the format, which ends at two gigabytes.
ONE_FILE_BYTES = 1_500_000_000
# A batch of images: (batch, channels, height, width); with more dimensions of videos.
IMAGE_DIMENSIONS = 4
_LOUD = (
    "torch.onnx._internal.exporter._registration",
    "torch._export.non_strict_utils",
    "torch._subclasses.fake_tensor",
    "torch.fx.experimental.symbolic_shapes",
    "onnxscript",
    "onnx_ir",
)


@dataclass(frozen=True)
class GraphFile:
    """An ONNX file, the call it was made from, and `fits(tensors)`: whether the graph holds for other sizes."""

    path: Path
    form: CallForm
    sizes: tuple[tuple[int, ...], ...]
    described: str
    fits: Callable[[list[Tensor]], bool]


def write_graph(
    model: nn.Module, form: CallForm, example: tuple[Tensor, ...], folder: Path, *, open_sizes: bool
) -> GraphFile:
    """Export the call into `folder`; with `open_sizes` the `usual_sizes` may change where the code allows it.

    Raises:
        StrategyUnsupported: the model cannot be exported; the sentence names the first thing in the way.
    """
    try:
        with quiet_export(), torch.inference_mode(False), torch.no_grad():
            program, fits = export_call(model, form, example, usual_sizes if open_sizes else None)
            written = torch.onnx.export(program, dynamo=True, verbose=False, optimize=False)
            assert written is not None, "without a file name the export returns the graph"
            own = list(written.model.graph.initializers.values())
            written.optimize()
            path = folder / ("open.onnx" if open_sizes else "fixed.onnx")
            held = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
            written.save(path, external_data=held > ONE_FILE_BYTES)
            # The optimizer's rules remember parts of the graphs they saw, and would keep the weights alive with them.
            for value in (*own, *written.model.graph.initializers.values()):
                value.const_value = None
    except Exception as error:  # user code can fail to export in as many ways as there are programs
        raise StrategyUnsupported(
            f"{type(model).__name__} cannot be exported to ONNX ({export_failure(error)}); leave this setting off "
            "for it"
        ) from error
    return GraphFile(path, form, sizes_of(example), describe_tensors(example), fits)


def export_call(
    model: nn.Module,
    form: CallForm,
    example: tuple[Tensor, ...],
    may_change: Callable[[Tensor], tuple[int, ...]] | None,
) -> tuple[ExportedProgram, Callable[[list[Tensor]], bool]]:
    """The call as a graph, and the test of the tensors it holds for; `may_change` gives the open dimensions of each."""
    inputs = example if may_change is None else _doubled(example)
    sizes = None if may_change is None else (tuple({i: Dim.AUTO for i in may_change(t)} for t in inputs),)
    flat = _FlatCall(model, form)
    # A module that learns each new form of call, as fused attention does, learns this one outside the tracer.
    flat(*(tensor.clone() for tensor in inputs))
    program = export(flat, inputs, dynamic_shapes=sizes, strict=False)
    return program, _size_test(program, example)


def usual_sizes(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions that calls usually differ in: all above one, but of images and videos the batch alone.

    A height and a width that may change make an export take up to twice as long (benchmarks/export_sizes.py).
    """
    return tuple(i for i, n in enumerate(tensor.shape[: 1 if tensor.dim() >= IMAGE_DIMENSIONS else None]) if n > 1)


def private_folder(owner: object, scratch: Path | None) -> Path:
    """A new folder that disappears with `owner`, or with the process."""
    usable = scratch if scratch is not None and scratch.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="session-", dir=usable))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


class _FlatCall(nn.Module):
    """Tensors in, a tuple of tensors out."""

    def __init__(self, model: nn.Module, form: CallForm) -> None:
        super().__init__()
        self.model, self.form = model, form
        self.eval()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The model's tensors; an input that is returned as it is becomes a copy."""
        args, kwargs = self.form.call_of(list(tensors))
        answer = pytree.tree_leaves(self.model(*args, **kwargs))
        return tuple(
            leaf.clone() if any(leaf is t for t in tensors) else leaf for leaf in answer if isinstance(leaf, Tensor)
        )


def _size_test(program: ExportedProgram, example: tuple[Tensor, ...]) -> Callable[[list[Tensor]], bool]:
    """True for the tensors that the exported graph is valid for: same types, and sizes that its guards allow."""
    guards: list[str] | None = getattr(program, "_guards_code", None)
    if guards is None:
        raise StrategyUnsupported("this version of PyTorch does not say which sizes an export is valid for")
    shapes = [
        node.meta["val"].shape for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
    ]
    tests = [f"len(a) == {len(example)}"]
    for i, (tensor, shape) in enumerate(zip(example, shapes, strict=True)):
        tests.append(f"a[{i}].dim() == {tensor.dim()} and str(a[{i}].dtype) == '{tensor.dtype}'")
        # The first dimension is taken for a batch, which may be one; elsewhere a size of one would broadcast.
        tests += [
            f"a[{i}].size()[{d}] == {n}" if isinstance(n, int) else f"a[{i}].size()[{d}] >= {1 if d == 0 else 2}"
            for d, n in enumerate(shape)
        ]
    tests += [f"({guard.replace(_OWN_NAME, 'a')})" for guard in guards]
    if any("L[" in test for test in tests):
        raise StrategyUnsupported("the export is valid only under conditions that cannot be tested at a call")
    scope: dict[str, Any] = {}
    exec(f"import math\nimport torch\ndef fits(a):\n    return {' and '.join(tests)}\n", scope)
    fits: Callable[[list[Tensor]], bool] = scope["fits"]
    return fits


_OWN_NAME = "L['tensors']"


def _doubled(example: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if any(t.dim() == 0 or t.shape[0] != 1 for t in example):
        return example
    return tuple(torch.cat((t, t)) for t in example)


def export_failure(error: BaseException) -> str:
    """What says most in one line: the exporter wraps the cause in a report of many lines."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {(lines or ['no message'])[0]:.160}".rstrip(".")


@contextmanager
def quiet_export() -> Iterator[None]:
    """The exporter reports each optional part it does not find; an export that fails is a refusal with its reason."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
