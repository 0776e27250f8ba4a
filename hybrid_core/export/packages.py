"""The packages that a recipe made (an AOTInductor library, an ONNX model): run only when the user asks.

An AOTInductor package is a compiled library: loading it runs whatever its maker put into it. So it is told about, and
loaded only on request; without it the recipe builds the same again from source.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hybrid_core.export.rebuilding import Source
from hybrid_core.measurement.correctness import Tolerance, compare_outputs
from hybrid_core.measurement.nested import clone_tensors, tensor_leaves

LIBRARY = ".pt2"


def check_package(path: Path, source: Source, *, run: bool) -> tuple[bool | None, str]:
    """(whether it holds, the sentence) of one package; None where it was not run."""
    name = f"package/{path.name}"
    if path.suffix != LIBRARY:
        return None, f"{name} is there for its own runtime; it is data, and this check does not run it"
    if not run:
        return None, f"{name} is a compiled library and was not loaded; add --run-package if you trust who made it"
    try:
        package = torch._inductor.aoti_load_package(str(path))
        worst = _compare(package, source)
    except Exception as error:  # a stranger's library fails in any way it likes
        lines = str(error).strip().splitlines() or ["no message"]
        return False, f"{name} cannot be run here ({type(error).__name__}: {lines[0]:.120})"
    return not worst.fault, f"{name} was run: {worst.fault or f'relative error {worst.relative_error:.1e}'}"


def _compare(package: Any, source: Source) -> Any:
    untouched = source.case.build_model()
    inputs = source.case.fresh_inputs(source.case.generator("package"))
    with torch.inference_mode():
        expected = source.case.call(untouched, clone_tensors(inputs))
        found = package(*inputs)
    # A package may give its outputs as a list where the model gives one tensor or a tuple.
    return compare_outputs(tensor_leaves(expected), tensor_leaves(found), Tolerance(exact=False))
