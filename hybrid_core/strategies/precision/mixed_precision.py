"""`mixed_1`, `mixed_5`: each linear layer in the format it can bear, within 1 % or 5 % of error at the outputs.

Damages are measured layer by layer once (`sensitivity`), the cheapest formats within the bound are solved for
(`assignment`), and the whole model is run with them: where errors do not simply add and the bound is broken, it is
solved again with a tighter one, from the same table. The bound is on the relative error of the outputs, because whether
they are logits is not known here; the loss of the task's own quality is measured afterwards.
Source: HAWQ-V3, Yao et al. 2020 (arXiv 2011.10680).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Method, Setting, Situation, list_briefly
from hybrid_core.strategies.precision.assignment import TIME_SHARE, Assignment, solve_assignment, without_scipy
from hybrid_core.strategies.precision.formats import FLOAT32, formats_for
from hybrid_core.strategies.precision.linear_layers import float_linears, left_in_float32, replace_each, tied_linears
from hybrid_core.strategies.precision.proof import prove_it_runs
from hybrid_core.strategies.precision.sensitivity import (
    INPUTS,
    SensitivityTable,
    answers,
    inputs_like_the_example,
    sensitivity_of,
    squared_error,
    stored_as,
)
from hybrid_core.strategies.precision.torchao_library import without_torchao

MOST_ROUNDS = 8
# Aim a little under what the last round missed by.
TIGHTER = 0.95


@dataclass(frozen=True)
class Solution:
    """Formats that keep the bound, the error that the whole model made with them, and how they were found."""

    assignment: Assignment
    error: float
    rounds: int
    time_share: float


def solve_until_it_holds(table: SensitivityTable, model: nn.Module, situation: Situation, bound: float) -> Solution:
    """Formats with which the whole model stays within `bound`, checked by running it.

    The inputs are the ones of the table and as many that it has not seen, where the situation can draw them. Where
    every narrower format is so slow here that float32 is the cheapest, bytes alone are counted.
    Raises `StrategyUnsupported` when even so no layer is left to change.
    """
    inputs = inputs_like_the_example(situation, 2 * INPUTS)
    expected = answers(model, situation, inputs)
    for time_share in (TIME_SHARE, 0.0):
        allowed = bound
        for rounds in range(1, MOST_ROUNDS + 1):
            assignment = solve_assignment(table, allowed, time_share)
            if set(assignment.formats.values()) <= {FLOAT32}:
                break
            with stored_as(model, _stored(model, situation, assignment)):
                error = squared_error(expected, answers(model, situation, inputs)) ** 0.5
            if error <= bound:
                return Solution(assignment, error, rounds, time_share)
            allowed *= TIGHTER * min(bound / error, 1.0)
    raise StrategyUnsupported(
        f"no layer can be stored in fewer bits within {bound:.0%} of error at the outputs; allow more or use bfloat16"
    )


def _stored(model: nn.Module, situation: Situation, assignment: Assignment) -> dict[str, nn.Module]:
    formats, layers = formats_for(situation.device), float_linears(model)
    changed = {name: chosen for name, chosen in assignment.formats.items() if chosen != FLOAT32}
    return {name: formats[chosen].make(layers[name]) for name, chosen in changed.items()}


def _unavailable(device: str, setting: str) -> str | None:
    return without_scipy(setting) or without_torchao(setting)


def _unsupported(model: nn.Module, situation: Situation, setting: str) -> str | None:
    layers = len(set(float_linears(model)) - set(tied_linears(model)))
    if layers < 2:
        return (
            f"the model has {layers} float32 nn.Linear layers of their own weight, and {setting} chooses among several"
        )
    return None


def _apply(model: nn.Module, situation: Situation, bound: float, setting: str) -> Applied:
    if setting in situation.decided:
        return _as_decided(model, situation, setting, situation.decided[setting])
    table = sensitivity_of(model, situation)
    solution = solve_until_it_holds(table, model, situation, bound)
    assignment = solution.assignment
    stored = _stored(model, situation, assignment)
    layers = {layer: name for name, layer in float_linears(model).items()}
    with prove_it_runs(setting, model, situation):
        model = replace_each(model, lambda layer: stored[layers[layer]], stored)
    counts = Counter(assignment.formats.values())
    share = ", ".join(f"{count} as {name}" for name, count in sorted(counts.items()))
    kept = [name for name, chosen in assignment.formats.items() if chosen == FLOAT32]
    changes = [
        f"stored {len(assignment.formats)} nn.Linear layers: {share}; cost {assignment.cost:.2f} of float32",
        f"relative error {solution.error:.2%} where {bound:.0%} is allowed, addition predicted "
        f"{assignment.predicted_error:.2%} (round {solution.rounds}, {table.model_calls} calls to measure the layers)",
    ]
    if solution.time_share == 0:
        changes.append("counted bytes alone: with the time of each layer, float32 is the cheapest here")
    if kept:
        changes.append(f"kept {list_briefly(kept)} in float32")
    return Applied(model, (*changes, *left_in_float32(model)), {setting: dict(assignment.formats)})


def _as_decided(model: nn.Module, situation: Situation, setting: str, decided: Any) -> Applied:
    """The formats of a measured recipe once more, because another measurement of the layers may decide otherwise."""
    layers, known = float_linears(model), formats_for(situation.device)
    given = decided if isinstance(decided, Mapping) else {}
    formats = {name: chosen for name, chosen in given.items() if chosen != FLOAT32}
    strange = [
        n for n, chosen in formats.items() if n not in layers or not isinstance(chosen, str) or chosen not in known
    ]
    if strange or not formats:
        raise StrategyUnsupported(
            f"what was decided for {setting} does not fit this model or device ({list_briefly(strange) or 'nothing'}); "
            "leave it out, and the layers are measured anew"
        )
    stored = _stored(model, situation, Assignment(dict(given), 0.0, 0.0))
    names = {layer: name for name, layer in layers.items()}
    with prove_it_runs(setting, model, situation):
        model = replace_each(model, lambda layer: stored[names[layer]], stored)
    share = ", ".join(f"{count} as {name}" for name, count in sorted(Counter(given.values()).items()))
    change = f"stored {len(given)} nn.Linear layers as the measured recipe did: {share}"
    return Applied(model, (change, *left_in_float32(model)), {setting: dict(given)})


def _method(name: str, bound: float, on_request: str) -> Method:
    return Method(
        Setting(
            name=name,
            sentence=f"Each linear layer in the cheapest format that keeps the outputs within {bound:.0%} of error.",
            stage=40,
            exact=False,
            expected_cost_s=20.0,
            references=("https://arxiv.org/abs/2011.10680", "https://arxiv.org/abs/1905.03696"),
            on_request=on_request,
        ),
        apply=partial(_apply, bound=bound, setting=name),
        unsupported=partial(_unsupported, setting=name),
        unavailable=partial(_unavailable, setting=name),
    )


MIXED_1 = _method("mixed_1", 0.01, on_request="")
MIXED_5 = _method("mixed_5", 0.05, on_request="within 5 % nearly every layer becomes int8, as in int8_dynamic")
