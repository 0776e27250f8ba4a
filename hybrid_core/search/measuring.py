"""The two functions that a search is given: one that measures a recipe, one that takes what there is to tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from hybrid_core.records import MeasureLimits, Purpose, Recipe, Trial

Emit = Callable[[str, dict[str, Any]], None]


class Measure(Protocol):
    """Measures one recipe; `round_number` tells apart the processes that together make one trial, 0 is none of them."""

    def __call__(self, recipe: Recipe, purpose: Purpose, limits: MeasureLimits, round_number: int = 0) -> Trial:
        """The trial, failed or not."""
