"""Chooses one number format for each layer: the cheapest within a bound on the error, solved exactly.

Damages of single layers are taken to add (squared relative errors of independent roundings), which makes the choice a
multiple-choice knapsack: one format per unit, the least cost, the sum of damages under the square of the bound. An
integer program of some hundred variables is solved to the end in milliseconds; whether the model of addition holds is
checked afterwards on the whole model. Source: HAWQ-V3, Yao et al. 2020 (arXiv 2011.10680); solver: HiGHS in scipy.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from hybrid_core.strategies.precision.sensitivity import Choice, SensitivityTable

TIME_SHARE = 0.5


@dataclass(frozen=True)
class Assignment:
    """The format of every layer, the relative error that addition predicts, and the cost (1.0 is all float32)."""

    formats: dict[str, str]
    predicted_error: float
    cost: float


def without_scipy(setting: str) -> str | None:
    """A sentence when the solver is not installed; cheap, it imports nothing."""
    if importlib.util.find_spec("scipy") is None:
        return f"{setting} solves an integer program with scipy, which is not installed; pip install scipy"
    return None


def solve_assignment(table: SensitivityTable, bound: float, time_share: float = TIME_SHARE) -> Assignment:
    """The cheapest formats whose damages sum to at most `bound` squared.

    The cost is `time_share` of the layers' time plus the rest of their bytes, each relative to all in float32;
    `time_share=0` counts bytes alone. float32 everywhere is always allowed, so there is always an answer.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    choices = [choice for unit in table.units for choice in unit.choices]
    costs = np.array(_costs(table, time_share))
    one_each = np.zeros((len(table.units), len(choices)))
    column = 0
    for row, unit in enumerate(table.units):
        one_each[row, column : column + len(unit.choices)] = 1
        column += len(unit.choices)
    # In units of the bound, because the solver's tolerance is absolute.
    damages = np.array([[min(choice.damage / max(bound, 1e-12) ** 2, 1e6) for choice in choices]])
    solved = milp(
        costs,
        integrality=np.ones(len(choices)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(damages, -np.inf, 1.0)],
        options={"mip_rel_gap": 0.0},
    )
    assert solved.success, f"float32 everywhere satisfies every constraint, but: {solved.message}"
    taken = [choice for choice, value in zip(choices, solved.x, strict=True) if value > 0.5]
    return _assignment(table, taken, float(costs @ np.round(solved.x)))


def _costs(table: SensitivityTable, time_share: float) -> list[float]:
    plain = [unit.choices[0] for unit in table.units]
    all_bytes = max(sum(choice.weight_bytes for choice in plain), 1)
    all_ms = max(sum(choice.milliseconds for choice in plain), 1e-9)
    return [
        time_share * choice.milliseconds / all_ms + (1 - time_share) * choice.weight_bytes / all_bytes
        for unit in table.units
        for choice in unit.choices
    ]


def _assignment(table: SensitivityTable, taken: list[Choice], cost: float) -> Assignment:
    pairs = zip(table.units, taken, strict=True)
    formats = {name: choice.format for unit, choice in pairs for name in unit.layers}
    return Assignment(formats, sum(choice.damage for choice in taken) ** 0.5, cost)
