"""What needs no searching: the best there is, doing nothing, torch.compile as it comes, and what served other models.

Each is one recipe of a table and its regret; a searcher that does not beat them has not earned its trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.search.episodes import UNTOUCHED
from benchmarks.search.table import Table, nearest_first
from hybrid_core.records import Recipe

FEWEST_ALIKE = 10
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


def likeness(table: Table, tables: Sequence[Table]) -> float | None:
    """Correlation of the log fitness here with its mean on models of other families, over the recipes both have.

    How far history can help at all: with 0.9 its first picks are good, with 0.6 they are a start. None without others.
    """
    told: dict[str, list[float]] = {}
    for seens in nearest_first(table, tables).values():
        for seen in seens:
            if math.isfinite(seen.value):
                told.setdefault(seen.recipe.key, []).append(seen.value)
    known = {seen.recipe.key: seen.value for seen in table.history() if math.isfinite(seen.value)}
    both = [key for key in known if key in told]
    if len(both) < FEWEST_ALIKE:
        return None
    means = [sum(told[key]) / len(told[key]) for key in both]
    return float(np.corrcoef([known[key] for key in both], means)[0, 1])


def _named(table: Table, index: int) -> tuple[str, float]:
    key = Recipe().key if index % (len(table.recipes) + 1) == len(table.recipes) else table.recipes[index].key
    return key, float(table.regret[index])
