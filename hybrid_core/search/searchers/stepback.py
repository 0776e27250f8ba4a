"""What proposes where nothing learned may be trusted: recipes that served other models, then local search.

The portfolio needs nothing of this model and little likeness between models: it holds the recipes that were good on
several of them. After it local search goes on from the best of what was measured, whoever proposed it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from hybrid_core.records import Recipe
from hybrid_core.search.searchers.base import IsOpen, Remembering, Seen, Task
from hybrid_core.search.searchers.local import LocalSearch
from hybrid_core.search.searchers.transfer import Prior

PORTFOLIO = 3


class PortfolioThenLocal(Remembering):
    """What the caller wants first, then the portfolio, then local search."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.local = LocalSearch(task)
        self._notes: dict[str, Any] = {}

    @cached_property
    def beginning(self) -> list[Recipe]:
        """What the caller wants first and the portfolio; computed when first needed, which may be never."""
        return [*self.task.starts, *Prior(self.task.space, self.task.history).portfolio(PORTFOLIO)]

    def tell(self, seen: Seen) -> None:
        """Local search learns of it too."""
        super().tell(seen)
        self.local.tell(seen)

    def ask(self, count: int, is_open: IsOpen) -> list[Recipe]:
        """Open recipes of the beginning, then what local search wants."""
        first = [r for r in dict.fromkeys(self.beginning) if not r.is_baseline and is_open(r)][:count]
        rest = self.local.ask(count - len(first), lambda r: r not in first and is_open(r)) if len(first) < count else []
        by = {recipe.key: "portfolio" for recipe in first} | {recipe.key: "local" for recipe in rest}
        self._notes = {"proposals": [{"key": key, "by": name} for key, name in by.items()]}
        return [*first, *rest]

    def notes(self) -> dict[str, Any]:
        """Who proposed what."""
        return self._notes
