"""Local search with restarts: try what is one step away from the best, move as soon as something is better.

A step away means one setting added, removed or changed. The first descent starts at the untouched model, so its first
neighbours are the single settings; when every neighbour of the incumbent has been tried, the next descent starts at a
recipe drawn at random. On tables of a few thousand networks this simple method is among the strongest (White et al.
2020, arXiv 2005.02960); on much larger spaces it is not.
"""

from __future__ import annotations

from typing import Any

from hybrid_core.records import Recipe
from hybrid_core.search.proposals import neighbours
from hybrid_core.search.searchers.base import IsOpen, Remembering, Seen, Task


class LocalSearch(Remembering):
    """First improvement: neighbours in random order, the best of each batch becomes the incumbent where it is better.

    Whoever proposed it, the best recipe told since the last restart is the incumbent.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.restarts = 0
        self._since = 0
        self._notes: dict[str, Any] = {}

    def ask(self, count: int, is_open: IsOpen) -> list[Recipe]:
        """Open neighbours of the incumbent; where it has none, starts of the next descent."""
        incumbent = self.incumbent()
        around = self._around(incumbent, is_open)
        if incumbent is not None and not around:
            self.restarts, self._since = self.restarts + 1, len(self.told)
        at = None if incumbent is None else incumbent.recipe.key
        self._notes = {"incumbent": at, "open_neighbours": len(around), "restarts": self.restarts}
        return self.filled(around, count, is_open)

    def incumbent(self) -> Seen | None:
        """The best recipe since the last restart that was measured, moved uphill over everything that is known."""
        measured = [seen for seen in self.told[self._since :] if seen.merit[0] > float("-inf")]
        if not measured:
            return None
        known = {seen.recipe.key: seen for seen in self.told}
        best = max(measured, key=lambda seen: seen.merit)
        while True:
            near = (known.get(recipe.key) for recipe in neighbours(self.space, best.recipe))
            better = max((seen for seen in near if seen is not None), key=lambda seen: seen.merit, default=best)
            if better.merit <= best.merit:
                return best
            best = better

    def notes(self) -> dict[str, Any]:
        """Where the descent stands: the incumbent, how many of its neighbours are open, restarts so far."""
        return self._notes

    def _around(self, incumbent: Seen | None, is_open: IsOpen) -> list[Recipe]:
        if incumbent is None:
            return []
        around = [r for r in neighbours(self.space, incumbent.recipe) if not r.is_baseline and is_open(r)]
        return self.rng.sample(around, len(around))
