"""What needs no searching: the best there is, doing nothing, torch.compile as it comes, and what served other models.

Each is one recipe of a table and its regret; a searcher that does not beat them has not earned its trials.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.search.episodes import UNTOUCHED
from benchmarks.search.table import Table, nearest_first
from hybrid_core.records import Recipe

COMPILE = "kernel_fusion=compile"


def references_of(table: Table, tables: Sequence[Table]) -> dict[str, tuple[str, float] | None]:
    """Name -> (recipe, regret); None where the table does not have it."""
    best = int(table.regret.argmin())
    singles = [i for i, recipe in enumerate(table.recipes) if len(recipe.steps) == 1]
    single = min(singles, key=lambda i: float(table.regret[i]), default=UNTOUCHED)
    served = portfolio_of_one(table, tables)
    return {
        "oracle: all of them measured": _named(table, best),
        "nothing changed": _named(table, UNTOUCHED),
        "torch.compile as it comes": _named(table, table.place[COMPILE]) if COMPILE in table.place else None,
        "best single setting of this model": _named(table, single),
        "best recipe over models of other families": None if served is None else _named(table, served),
    }


def portfolio_of_one(table: Table, tables: Sequence[Table]) -> int | None:
    """The recipe with the largest mean gain on the tables of other families; None where there are none.

    Where another model could not have it, or must not, that model would be left untouched: a gain of 0.
    """
    gains = [
        {seen.recipe.key: max(0.0, seen.value) for seen in seens if seen.is_ok}
        for seens in nearest_first(table, tables).values()
    ]
    if not gains:
        return None
    means = [float(np.mean([gain.get(recipe.key, 0.0) for gain in gains])) for recipe in table.recipes]
    return int(np.argmax(means)) if max(means) > 0 else UNTOUCHED


def _named(table: Table, index: int) -> tuple[str, float]:
    key = Recipe().key if index % (len(table.recipes) + 1) == len(table.recipes) else table.recipes[index].key
    return key, float(table.regret[index])
