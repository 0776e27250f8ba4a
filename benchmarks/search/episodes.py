"""One search over one table: who was asked, what they chose in which order, and what that was worth at every moment.

An episode is only its order of recipes and the searcher's own seconds; everything else follows from the table, so all
figures of a thousand episodes are computed at once. The rules are those of a run: one recipe at a time, none twice,
nothing that contains what has failed, the untouched model told first, and it is what a run falls back to.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.search.table import HYPERVOLUME_REFERENCE, Array, Table
from hybrid_core.records import Recipe, Step
from hybrid_core.search.hypervolume import hypervolume
from hybrid_core.search.searchers.base import Seen, Task
from hybrid_core.search.searchers.registry import SearcherEntry

LEAST_EVALUATIONS, LEAST_SHARE = 40, 0.2
UNTOUCHED = -1


@dataclass(frozen=True)
class Episode:
    """`order`: index of each recipe in the table, in the order tried. `own_s`: what the searcher itself computed."""

    order: tuple[int, ...]
    own_s: float
    error: str = ""


# What a searcher is told before: nothing; what comes with the project of other models; the tables of other families.
MODES = ("cold", "shipped", "warm")
# A mode, the name of a table, the name of a searcher.
Case = tuple[str, str, str]
# Of each case the episodes by seed.
Episodes = dict[Case, dict[int, Episode]]


def evaluations_of(table: Table) -> int:
    """How long an episode is: a fifth of the space, at least 40, never more than there is."""
    return min(len(table.recipes), max(LEAST_EVALUATIONS, math.ceil(LEAST_SHARE * len(table.recipes))))


def play(
    table: Table,
    entry: SearcherEntry,
    seed: int,
    history: Mapping[str, tuple[Seen, ...]],
    evaluations: int,
) -> Episode:
    """Let one searcher search; what it raises ends its episode and is told, so that one broken one hides no other."""
    space, options, shown = table.space, table.options, table.draws(seed)
    least = math.log(options.min_speed_improvement) if options.min_speed_improvement > 0 else -math.inf
    task = Task(space, random.Random(f"{table.name}/{seed}"), history, space.expected_cost_s, least)
    order: list[int] = []
    tried: set[str] = set()
    failed: list[frozenset[Step]] = []

    def is_open(recipe: Recipe) -> bool:
        if recipe.key in tried or recipe.key not in table.place:
            return False
        return not failed or not any(steps <= frozenset(recipe.steps) for steps in failed)

    started = time.process_time()
    try:
        searcher = entry.build(task, options)
        searcher.tell(table.untouched)
        while len(order) < evaluations:
            found = searcher.ask(1, is_open)
            if not found:
                break
            (recipe,) = found
            assert is_open(recipe), f"{entry.name} asks for {recipe.key}, which is not open"
            i = table.place[recipe.key]
            order.append(i)
            tried.add(recipe.key)
            seen = table.seen(recipe, float(shown[i]))
            if not math.isfinite(seen.value):
                failed.append(frozenset(recipe.steps))
            searcher.tell(seen)
    except Exception as error:  # the border: a searcher may raise anything
        return Episode(tuple(order), time.process_time() - started, f"{type(error).__name__}: {error}"[:200])
    return Episode(tuple(order), time.process_time() - started)


@dataclass(frozen=True)
class Found:
    """What episodes of one searcher on one table came to; rows are seeds, columns evaluations from 0 on.

    `recommended` is the index in the table of what a run would return then, `UNTOUCHED` for the untouched model.
    `spent_s` adds up the recorded seconds of the trials.
    """

    recommended: npt.NDArray[np.int64]
    spent_s: Array
    own_s: Array
    orders: tuple[tuple[int, ...], ...]
    errors: tuple[str, ...]

    def regret(self, table: Table) -> Array:
        """1 - fitness / the best there is, by the pass that nobody saw."""
        return table.regret[self.recommended]

    def is_hit(self, table: Table, share: float, *, or_noise: bool = False) -> npt.NDArray[np.bool_]:
        """Whether what would be returned lies within this share of the best."""
        near = table.regret <= share
        near = near | table.is_within_noise if or_noise else near
        hits: npt.NDArray[np.bool_] = near[self.recommended]
        return hits


def found_of(table: Table, episodes: Mapping[int, Episode], evaluations: int) -> Found:
    """Seed -> episode, as arrays; an episode that ended early keeps what it had."""
    recommended = np.full((len(episodes), evaluations + 1), UNTOUCHED)
    spent = np.zeros((len(episodes), evaluations + 1))
    for row, (seed, episode) in enumerate(sorted(episodes.items())):
        order = np.array(episode.order, dtype=np.int64)
        n = order.size
        if n:
            recommended[row, 1 : n + 1] = best_so_far(table.shown[seed][order], order)
            recommended[row, n + 1 :] = recommended[row, n]
            spent[row, 1 : n + 1] = np.cumsum(table.seconds[order])
            spent[row, n + 1 :] = spent[row, n]
    kept = [episodes[seed] for seed in sorted(episodes)]
    own = np.array([episode.own_s for episode in kept])
    return Found(recommended, spent, own, tuple(e.order for e in kept), tuple(e.error for e in kept))


def best_so_far(values: Array, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The index of the best after each evaluation; the untouched model while nothing looked better than it.

    >>> best_so_far(np.array([-0.5, 0.2, 0.1, 0.3]), np.array([7, 8, 9, 5])).tolist()
    [-1, 8, 8, 5]
    """
    best = np.maximum.accumulate(values)
    is_new = values > np.concatenate(([-np.inf], best[:-1]))
    last = np.maximum.accumulate(np.where(is_new, np.arange(values.size), 0))
    return np.where(best > 0, order[last], UNTOUCHED)


def hypervolume_shares(table: Table, found: Found, evaluations: int) -> Array:
    """For each seed: the hypervolume of what was tried by then / that of the whole table."""
    origin = (0.0, 0.0)
    whole = hypervolume([origin, *filter(None, table.points)], HYPERVOLUME_REFERENCE)
    shares = []
    for order in found.orders:
        points = [table.points[i] for i in order[:evaluations]]
        shares.append(hypervolume([origin, *filter(None, points)], HYPERVOLUME_REFERENCE) / whole)
    return np.array(shares)
