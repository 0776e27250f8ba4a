"""Is the candidate's answer the baseline's answer? Asked before any timing, and again of outputs taken while timed.

Fast and wrong is the commonest "speed-up" in the literature of automatic optimizers. So outputs are compared leaf by
leaf: structure, type, shape, dtype and NaN first, then closeness. Steps that declare themselves exact may change only
rounding; the bound follows from the dtype and from how much the baseline differs from itself. Steps that are allowed to
lose precision get a loose bound, for the whole output *and for every row*, which stops garbage, constants and skipped
rows; how much damage is acceptable is then the quality task's verdict, not this file's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hybrid_core.measurement.nested import describe, leaves

# ||q - f|| / ||f|| that reordering sums may cause. Casting one float32 layer to half costs 2e-4 (bfloat16: 2e-3), a
# 30-layer float32 model evaluated in another order 1e-6 to 1e-5: the float32 bound lies between.
EXACT_BOUNDS = {torch.float64: 1e-11, torch.float32: 5e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
# For exact steps: the largest single deviation, as a multiple of the bound times the output's root mean square.
PEAK_FACTOR = 50.0
# Rounding may exceed the baseline's own run-to-run difference by this factor, unless that difference is large: ten
# times a tenth would let zeros pass, which are off by 1.
NOISE_FACTOR = 10.0
LARGE_NOISE_FACTOR = 1.5
# int4 weights reach 0.34 on real models; an unrelated output of the same size gives 1.4, zeros give 1.0.
LOOSE_BOUND = 0.5
LOOSE_ROW_BOUND = 0.85
# Inside an item single positions may break the row bound: int8 with one activation scale per tensor did so at 1 of 512
# positions of a real decoder and lost nothing its task could see. Whole items never may.
LOOSE_POSITION_SHARE = 0.01
LOOSE_DISAGREEMENT = 0.5
# Outputs and rows of so few values are near zero by chance, and an error relative to them means nothing: float32 itself
# is off by 3e-5 on one logit of 0.02 where 0.4 is usual. They are judged as if they were as loud as usual.
FEW_VALUES = 4
_QUIET_ROW = 0.05  # longer rows, fainter than this share of the typical row, are judged as if they were that loud


MAX_DEPTH = 8  # of objects in objects, when outputs are walked through


@dataclass(frozen=True)
class Tolerance:
    """What may differ: only rounding (`exact`), on top of the baseline's own run-to-run noise.

    `usual` has the root mean square of outputs of few values over several calls of the untouched model, by path.
    """

    exact: bool
    noise: float = 0.0
    usual: Mapping[str, float] = field(default_factory=dict)

    def bound(self, dtype: torch.dtype) -> float:
        """Largest allowed relative error of one whole output of that dtype."""
        room = min(NOISE_FACTOR * self.noise, max(LOOSE_BOUND, LARGE_NOISE_FACTOR * self.noise))
        exact_bound = max(EXACT_BOUNDS.get(dtype, 0.0), room)
        return exact_bound if self.exact else max(LOOSE_BOUND, exact_bound)


@dataclass(frozen=True)
class Comparison:
    """How far a candidate's output is from the baseline's; `fault` is the sentence that condemns it, or empty."""

    fault: str = ""
    relative_error: float = 0.0
    max_abs_error: float = 0.0

    def worst(self, other: Comparison) -> Comparison:
        """Both comparisons in one: the first fault and the larger errors."""
        return Comparison(
            self.fault or other.fault,
            max(self.relative_error, other.relative_error),
            max(self.max_abs_error, other.max_abs_error),
        )


def compare_outputs(baseline: Any, candidate: Any, tolerance: Tolerance, path: str = "output") -> Comparison:
    """Compare two nested outputs of the same call."""
    fault = _structure_fault(baseline, candidate, path)
    if fault:
        return Comparison(fault)
    result = Comparison()
    for (place, expected), (_, got) in zip(leaves(baseline, path), leaves(candidate, path), strict=True):
        result = result.worst(_compare_leaf(place, expected, got, tolerance))
    return result


def nan_fault(value: Any) -> str:
    """Where a nested output holds NaN or infinity, as 'nan at output[0]'; empty when nowhere."""
    for path, leaf in leaves(value):
        numbers = isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex())
        if numbers and not bool(torch.isfinite(leaf).all()):
            kind = "NaN" if bool(torch.isnan(leaf).any()) else "infinity"
            return f"{kind} at {path}"
    return ""


def constant_fault(baseline: list[Any], candidate: list[Any]) -> str:
    """A candidate that answers the same to different inputs where the baseline does not."""
    if len(baseline) < 2 or all(_identical(baseline[0], other) for other in baseline[1:]):
        return ""
    if all(_identical(candidate[0], other) for other in candidate[1:]):
        return f"the output is the same constant for {len(candidate)} different inputs, the baseline's is not"
    return ""


def usual_sizes(answers: list[Any]) -> dict[str, float]:
    """The root mean square over these answers of each output of few values, by path.

    >>> usual_sizes([(torch.tensor([3.0]), torch.ones(9)), (torch.tensor([-4.0]), torch.ones(9))])
    {'output[0]': 3.5355339059327378}
    """
    found: dict[str, list[torch.Tensor]] = {}
    for path, leaf in (pair for answer in answers for pair in leaves(answer)):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and 0 < leaf.numel() <= FEW_VALUES:
            found.setdefault(path, []).append(leaf.detach().double().flatten())
    return {path: float(torch.cat(values).square().mean().sqrt()) for path, values in found.items()}


def relative_error(expected: torch.Tensor, got: torch.Tensor, at_least: float = 0.0) -> float:
    """||got - expected|| / ||expected|| in float64, with a norm of `at_least`; 0 for two zero tensors.

    >>> round(relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])), 6)
    0.1
    """
    expected, got = (torch.view_as_real(t) if t.is_complex() else t for t in (expected.detach(), got.detach()))
    reference = expected.double()
    error = torch.linalg.vector_norm(got.double() - reference)
    size = torch.linalg.vector_norm(reference).clamp_min(at_least)
    return float(error / size) if float(size) > 0 else (0.0 if float(error) == 0 else float("inf"))


def _structure_fault(expected: Any, got: Any, path: str) -> str:
    if isinstance(expected, torch.Tensor) or not isinstance(expected, dict | tuple | list):
        if _type_of(got) is not _type_of(expected):
            return f"{path} is {_kind(got)} where the baseline gives {_kind(expected)}"
        return ""
    if type(got) is not type(expected) or len(got) != len(expected):
        return f"{path} is {_kind(got)} where the baseline gives {_kind(expected)}"
    if isinstance(expected, dict):
        if list(got) != list(expected):
            return f"{path} has keys {list(got)} where the baseline has {list(expected)}"
        return _first_fault(_structure_fault(expected[key], got[key], f"{path}[{key!r}]") for key in expected)
    pairs = enumerate(zip(expected, got, strict=True))
    return _first_fault(_structure_fault(a, b, f"{path}[{index}]") for index, (a, b) in pairs)


def _type_of(value: Any) -> type:
    """Its exact type, for a subclass of Tensor may compute when it is read; a parameter is as plain as a tensor."""
    return torch.Tensor if type(value) is nn.Parameter else type(value)


def _first_fault(faults: Iterator[str]) -> str:
    return next((fault for fault in faults if fault), "")


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {type(value).__name__} {describe(value)}"
    if isinstance(value, dict | tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


def _compare_leaf(path: str, expected: Any, got: Any, tolerance: Tolerance) -> Comparison:
    if not isinstance(expected, torch.Tensor):
        return _compare_other(path, expected, got, tolerance)
    for what in ("shape", "dtype", "device"):
        if getattr(got, what) != getattr(expected, what):
            return Comparison(f"{path} has {what} {_show(got, what)}, the baseline's is {_show(expected, what)}")
    if expected.is_complex():
        expected, got = torch.view_as_real(expected), torch.view_as_real(got)
    if not expected.is_floating_point():
        return _compare_whole_numbers(path, expected, got, tolerance)
    return _compare_floats(path, expected, got, tolerance)


def _compare_other(path: str, expected: Any, got: Any, tolerance: Tolerance) -> Comparison:
    """A plain value, or an object of some library, such as a cache of keys and values: then the tensors in it."""
    if type(expected) is float and math.isfinite(expected):
        # As a rule it was a float32 tensor's item.
        right, found = (torch.tensor(value, dtype=torch.float32) for value in (expected, got))
        return _compare_floats(path, right, found, tolerance)
    if isinstance(expected, str | int | float | bool):
        same = expected == got or (expected != expected and got != got)
        return Comparison("" if same else f"{path} is {got!r:.40} where the baseline gives {expected!r:.40}")
    parts, others = _parts(expected), _parts(got)
    deep = path.count("[") >= MAX_DEPTH  # an object that holds itself would never end
    return Comparison() if deep or not (parts or others) else compare_outputs(parts, others, tolerance, path)


def _parts(value: Any) -> dict[str, Any]:
    """The attributes of an object that are tensors, or may hold some."""
    if isinstance(value, nn.Module | type) or not hasattr(value, "__dict__"):
        return {}
    plain = str | int | float | bool | None
    return {
        name: item
        for name, item in vars(value).items()
        if not callable(item) and any(not isinstance(leaf, plain) for _, leaf in leaves(item))
    }


def _show(tensor: torch.Tensor, what: str) -> str:
    return str(list(tensor.shape)) if what == "shape" else str(getattr(tensor, what)).removeprefix("torch.")


def _compare_whole_numbers(path: str, expected: torch.Tensor, got: torch.Tensor, tolerance: Tolerance) -> Comparison:
    different = float((expected != got).double().mean()) if expected.numel() else 0.0
    allowed = 0.0 if tolerance.exact else LOOSE_DISAGREEMENT
    fault = f"{path}: {different:.1%} of the whole numbers differ, allowed are {allowed:.0%}"
    largest = float((expected.double() - got.double()).abs().max()) if expected.numel() else 0.0
    return Comparison(fault if different > allowed else "", different, largest)


def _compare_floats(path: str, expected: torch.Tensor, got: torch.Tensor, tolerance: Tolerance) -> Comparison:
    if expected.numel() == 0:
        return Comparison()
    bad = nan_fault(got)
    if bad and not nan_fault(expected):
        return Comparison(f"{bad.split(' at ')[0]} at {path}, where the baseline is finite", float("inf"), float("inf"))
    usual = tolerance.usual.get(path, 0.0)
    error = relative_error(expected, got, usual * expected.numel() ** 0.5)
    largest = float((got.double() - expected.double()).abs().max())
    bound = tolerance.bound(expected.dtype)
    fault = ""
    if error > bound:
        fault = f"{path}: relative error {error:.1e} > {bound:.1e} ({_why(tolerance)}), max error {largest:.1e}"
    elif tolerance.exact:
        fault = _peak_fault(path, expected, largest, bound, usual)
    else:
        fault = _row_fault(path, expected, got, usual)
    return Comparison(fault, error, largest)


def _why(tolerance: Tolerance) -> str:
    return "every step says that only rounding changes" if tolerance.exact else "loose bound of inexact steps"


def _peak_fault(path: str, expected: torch.Tensor, largest: float, bound: float, usual: float) -> str:
    typical = max(usual, float(expected.double().square().mean().sqrt()))
    allowed = PEAK_FACTOR * bound * max(typical, torch.finfo(expected.dtype).tiny)
    return f"{path}: max error {largest:.1e} > {allowed:.1e} in a single value" if largest > allowed else ""


def _row_fault(path: str, expected: torch.Tensor, got: torch.Tensor, usual: float) -> str:
    """Judge every item of the batch, and of outputs with three dimensions or more the positions in it, apart."""
    for rows in (1, 2) if expected.dim() > 2 else (1,) if expected.dim() > 1 else ():
        error = (got.double() - expected.double()).flatten(rows).flatten(0, rows - 1).norm(dim=-1)
        size = expected.double().flatten(rows).flatten(0, rows - 1).norm(dim=-1)
        values = expected[(0,) * rows].numel()
        typical = max(float(size.square().mean().sqrt()), usual * values**0.5)
        quiet = _QUIET_ROW if values > FEW_VALUES else 1.0
        relative = error / size.clamp_min(quiet * typical + 1e-300)
        bad, worst = int((relative > LOOSE_ROW_BOUND).sum()), float(relative.max())
        if bad > (LOOSE_POSITION_SHARE * relative.numel() if rows == 2 else 0):
            of = f"{bad} of {relative.numel()} rows, first row {int((relative > LOOSE_ROW_BOUND).nonzero()[0])}"
            return f"{path}: {of}, have a relative error up to {worst:.1e} > {LOOSE_ROW_BOUND:g}"
    return ""


def _identical(first: Any, second: Any) -> bool:
    pairs = zip(leaves(first), leaves(second), strict=False)
    return all(
        isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b) for (_, a), (_, b) in pairs
    )
