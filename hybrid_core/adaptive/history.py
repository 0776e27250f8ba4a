"""One earlier trial as the history tells it: the row that recommendations are computed from; standard library only.

The hub reads these rows from its database and the run process gets them as JSON, so neither needs torch for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid_core.records import Estimate, Outcome

UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class HistoryRow:
    """What one trial found for one recipe, and on what. The ratios are NaN when the trial failed.

    `is_shipped` is true of what came with the project, measured on another machine (`hybrid_core.adaptive.shipped`).
    """

    recipe_key: str
    model: str
    family: str
    workload: str
    device: str
    outcome: str
    speed: Estimate = UNKNOWN
    memory: Estimate = UNKNOWN
    accuracy: Estimate = UNKNOWN
    size: str = ""
    is_shipped: bool = False

    @property
    def is_ok(self) -> bool:
        """True when the trial was measured and its speed is a positive number."""
        return self.outcome == Outcome.OK and math.isfinite(self.speed.value) and self.speed.value > 0

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> HistoryRow:
        """Read one row of the hub's `history` query: `speed`, `speed_low`, `speed_high` and so on, null for unknown."""
        return cls(
            recipe_key=str(row["recipe_key"]),
            model=str(row["model"]),
            family=str(row["family"]),
            workload=str(row["workload"]),
            device=str(row["device"]),
            outcome=str(row["outcome"]),
            speed=_estimate(row, "speed"),
            memory=_estimate(row, "memory"),
            accuracy=_estimate(row, "accuracy"),
            size=str(row.get("size") or ""),
        )


def _estimate(row: Mapping[str, Any], name: str) -> Estimate:
    columns = (name, f"{name}_low", f"{name}_high")
    return Estimate(*(math.nan if row.get(column) is None else float(row[column]) for column in columns))
