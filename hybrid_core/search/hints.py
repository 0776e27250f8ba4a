"""What a search may be told so that it wastes no trial: what the model cannot have, and what failed together before.

Both come with the sentence a person reads, and neither is needed: without them everything is tried. Standard library
only, because the hub and the run process hand them over as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid_core.records import Recipe, Step


@dataclass(frozen=True)
class Surveyed:
    """What came of asking settings whether the model can have them.

    `unsupported`: step -> why not; `answered`: how many gave an answer; `problem`: why not all did, empty when all did.
    """

    unsupported: Mapping[Step, str] = field(default_factory=dict)
    answered: int = 0
    seconds: float = 0.0
    problem: str = ""

    def to_event(self) -> dict[str, Any]:
        """The data of the "survey" event."""
        reasons = {f"{step.strategy}={step.setting}": reason for step, reason in self.unsupported.items()}
        return {
            "unsupported": reasons,
            "answered": self.answered,
            "seconds": self.seconds,
            "problem": self.problem,
        }

    @classmethod
    def from_event(cls, data: Mapping[str, Any]) -> Surveyed:
        """Read what `to_event` wrote."""
        reasons = {Recipe.from_key(key).steps[0]: str(reason) for key, reason in data["unsupported"].items()}
        return cls(reasons, int(data["answered"]), float(data["seconds"]), str(data["problem"]))


# (steps to ask, seconds it may take) -> the answers
Survey = Callable[[Sequence[Step], float], Surveyed]


@dataclass(frozen=True)
class KnownConflict:
    """Steps that failed together in an earlier run, on this device and under these versions, though each works alone.

    `sentence` says what happened and when; `identity` is what a person names to have it forgotten.
    """

    recipe: Recipe
    sentence: str
    identity: str = ""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> KnownConflict:
        """Read one row of the hub's `conflicts` query."""
        reason = str(row["reason"]).rstrip(".")
        sentence = (
            f"{row['recipe_key']} was {row['outcome']} in run {row['run_id']}"
            + (f" ({reason})" if reason else "")
            + ", though each of its settings works alone; `python -m workers conflicts --forget "
            f"{row['conflict_id']}` lets it be tried again"
        )
        return cls(Recipe.from_key(row["recipe_key"]), sentence, str(row["conflict_id"]))
