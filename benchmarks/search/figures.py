"""Numbers about many episodes: intervals, the calculated random search, and whether two searchers differ.

Seeds tell how lucky a searcher is on one table, tables how it fares on another model; an interval over seeds says
nothing about the next model, so both are given. Formulas: `hybrid_core.search.searchers.random` for random search;
Wilcoxon (1945) with zeros split (Pratt), Holm (1979), Vargha and Delaney's A12 (2000).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.search.table import Array, Table
from hybrid_core.measurement.statistics import holm
from hybrid_core.search.searchers.random import chance_of_a_hit, expected_best_rank

RESAMPLES = 1000


def median_interval(values: Array, seed: int = 0) -> tuple[float, float, float]:
    """Median with the 95 % percentile bootstrap interval over the rows.

    >>> median_interval(np.array([2.0, 2.0, 2.0]))
    (2.0, 2.0, 2.0)
    """
    chosen = np.random.default_rng(seed).integers(0, values.size, (RESAMPLES, values.size))
    low, high = np.quantile(np.median(values[chosen], axis=1), (0.025, 0.975))
    return float(np.median(values)), float(low), float(high)


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean over tables with its 95 % bootstrap interval; of one table there is none."""
    array = np.asarray(values, dtype=np.float64)
    chosen = np.random.default_rng(seed).integers(0, array.size, (RESAMPLES, array.size))
    low, high = np.quantile(array[chosen].mean(axis=1), (0.025, 0.975)) if array.size > 1 else (math.nan, math.nan)
    return float(array.mean()), float(low), float(high)


def random_curve(table: Table, evaluations: int) -> list[float]:
    """Median regret of a random search without noise after 1, 2, ... trials, by counting; the untouched model is kept.

    The best of n of N has a rank above r with the chance that all n fall among the N - r others.
    """
    ranked = np.sort(table.regret[:-1])
    reached = np.minimum(ranked, table.regret[-1])
    total = ranked.size
    found = []
    for n in range(1, evaluations + 1):
        rank = next(r for r in range(1, total + 1) if chance_of_a_hit(total, n, r) >= 0.5)
        found.append(float(reached[rank - 1]))
    return found


def random_facts(table: Table, evaluations: int, share: float) -> dict[str, float]:
    """What random search does in `evaluations` trials, in closed form."""
    total = len(table.recipes)
    return {
        "expected_best_rank": expected_best_rank(total, evaluations),
        "chance_of_a_hit": chance_of_a_hit(total, evaluations, table.good(share)),
    }


def evaluations_to_target(is_hit: npt.NDArray[np.bool_]) -> dict[str, float | None]:
    """Trials until a run first holds a good recipe; column 0 is before the first. Runs that never do are censored.

    `expected`: all trials made / runs that succeeded, None where none did.

    >>> evaluations_to_target(np.array([[False, False, True, True], [False, False, False, False]]))
    {'expected': 5.0, 'censored': 0.5, 'median': None}
    """
    reached = is_hit.any(axis=1)
    first = np.where(reached, is_hit.argmax(axis=1), is_hit.shape[1] - 1)
    median = float(np.median(np.where(reached, first, np.inf)))
    expected = float(first.sum() / reached.sum()) if reached.any() else None
    return {
        "expected": expected,
        "censored": float(1 - reached.mean()),
        "median": median if math.isfinite(median) else None,
    }


def at_seconds(values: Array, spent_s: Array, budget_s: float) -> Array:
    """The value of each run after the last trial that fits into the budget; column 0 is before the first.

    >>> at_seconds(np.array([[4.0, 3.0, 2.0, 1.0]]), np.array([[0.0, 10.0, 20.0, 30.0]]), 25.0).tolist()
    [2.0]
    """
    finished = (spent_s <= budget_s).sum(axis=1)
    return np.asarray(values[np.arange(len(values)), finished - 1])


def against(own: Mapping[str, Array], other: Mapping[str, Array]) -> dict[str, Any]:
    """Regrets of two searchers by table, paired by seed; `mean_difference` above 0 speaks for the first."""
    pairs = [(own[name], other[name]) for name in own if name in other]
    lengths = [min(a.size, b.size) for a, b in pairs]
    first = np.concatenate([a[:n] for (a, _), n in zip(pairs, lengths, strict=True)])
    second = np.concatenate([b[:n] for (_, b), n in zip(pairs, lengths, strict=True)])
    differs = bool(np.any(first != second))
    better = sum(float(a[:n].mean()) < float(b[:n].mean()) for (a, b), n in zip(pairs, lengths, strict=True))
    return {
        "pairs": int(first.size),
        "mean_difference": float((second - first).mean()),
        "a12": float(((first < second) + 0.5 * (first == second)).mean()),
        "tables_better": better,
        "tables": len(pairs),
        "p": float(stats.wilcoxon(first, second, zero_method="pratt").pvalue) if differs else 1.0,
    }


def with_holm(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons with their p values raised for how many there are."""
    raised = holm([one["p"] for one in found])
    return [one | {"p_holm": p} for one, p in zip(found, raised, strict=True)]


def average_ranks(regrets: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Searcher -> its mean rank over the tables (1 is best), of those tables that all of them have."""
    tables = set.intersection(*(set(of) for of in regrets.values())) if regrets else set()
    if not tables:
        return {}
    names = list(regrets)
    ranks = np.array([stats.rankdata([regrets[name][table] for name in names]) for table in sorted(tables)])
    return dict(zip(names, map(float, ranks.mean(axis=0)), strict=True))
