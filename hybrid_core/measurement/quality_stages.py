"""When a pass over held-out rows may end early, and at which price.

Rows are looked at in growing stages: at the first look, then whenever their number has doubled. A clear answer to the
question whether the accuracy bound is kept ends the pass there; a close one takes all rows. Every look is a chance to
be wrong, so early ones must be far more certain than the last (`row_evidence`); the interval told is the one paid for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hybrid_core.measurement.row_evidence import EARLY_TAIL, FIRST_LOOK, LAST_TAIL, verdict
from hybrid_core.records import Estimate


@dataclass
class Stages:
    """One pass: at most how many rows, which bound (None: all rows are used), and what was decided so far."""

    most: int
    bound: float | None
    next_look: int = FIRST_LOOK
    decided: str = ""

    def is_over(self, rows: int, estimate: Callable[[float], Estimate]) -> bool:
        """Whether the rows so far decide; never at the last row, which is judged at its own level."""
        if self.bound is None or rows < self.next_look or rows >= self.most:
            return False
        self.next_look = 2 * rows
        self.decided = verdict(estimate(EARLY_TAIL), self.bound)
        return bool(self.decided)

    def conclude(self, rows: int, estimate: Callable[[float], Estimate], unit: str) -> tuple[Estimate, dict[str, Any]]:
        """The interval that was paid for, and how the pass ended."""
        tail = EARLY_TAIL if self.decided else LAST_TAIL
        found = estimate(tail)
        facts: dict[str, Any] = {"rows": rows, "rows_allowed": self.most, "confidence": 1 - 2 * tail}
        if self.bound is None:
            return found, {**facts, "stopped": f"all {rows} {unit} were used"}
        outcome = self.decided or verdict(found, self.bound)
        end = {"above": "is kept", "below": "is missed", "": "lies inside the interval"}[outcome]
        how = f"decided after {rows} of {self.most} {unit}" if self.decided else f"all {rows} {unit} were used"
        return found, {
            **facts, "accuracy_bound": self.bound, "decided": outcome,
            "stopped": f"{how}: the accuracy bound of {self.bound:g} {end}",
        }  # fmt: skip
