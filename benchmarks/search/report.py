"""The rows of the results file: what each searcher came to on each table, and what is known of the tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.search.episodes import Found, evaluations_of, hypervolume_shares
from benchmarks.search.figures import (
    against,
    at_seconds,
    evaluations_to_target,
    median_interval,
    random_curve,
    random_facts,
    with_holm,
)
from benchmarks.search.references import likeness, references_of
from benchmarks.search.table import HYPERVOLUME_REFERENCE, Table

SHARES = {"5 %": 0.05, "10 %": 0.10, "20 %": 0.20}
COUNTS = {"5": 5, "10": 10, "20": 20, "40": 40}
WITHIN = (0.01, 0.02, 0.05)
SECONDS = (60.0, 120.0, 300.0)
MAIN = "adaptive"

Row = dict[str, Any]
# (mode, table, searcher) -> what was found
Findings = Mapping[tuple[str, str, str], Found]


def budgets_of(table: Table) -> dict[str, int]:
    """Name of a budget -> evaluations, as far as an episode goes."""
    total, most = len(table.recipes), evaluations_of(table)
    named = {name: math.ceil(share * total) for name, share in SHARES.items()} | COUNTS
    return {name: count for name, count in named.items() if count <= most}


def table_row(table: Table, tables: Sequence[Table]) -> Row:
    """What makes a table easy or hard, quiet or useless."""
    budgets, evaluations = budgets_of(table), evaluations_of(table)
    served = references_of(table, tables)
    return {
        "kind": "table",
        "table": table.name,
        "family": table.family,
        "model": table.about["subject"]["model"],
        "recipes": len(table.recipes),
        "good": {f"{share:.0%}": table.good(share) for share in WITHIN},
        "within_noise": int(table.is_within_noise[:-1].sum()),
        "noise": _rounded(table.noise),
        "process_sd": _rounded(table.process_sd),
        "judges": table.judges,
        "is_usable": table.is_usable,
        "best": table.recipes[int(table.worth.argmax())].key,
        "best_gain": _rounded(float(np.exp(table.worth.max()))),
        "seconds": round(float(table.seconds.sum())),
        "start_s": _rounded(table.start_s),
        "failed": sum(row["outcome"] != "ok" for row in table.rows_a.values()),
        "evaluations": evaluations,
        "hypervolume_reference": list(HYPERVOLUME_REFERENCE),
        "random": {
            name: {f"{s:.0%}": _rounded(random_facts(table, n, s)["chance_of_a_hit"]) for s in WITHIN}
            for name, n in budgets.items()
        },
        "random_rank": {
            name: _rounded(random_facts(table, n, 0.01)["expected_best_rank"]) for name, n in budgets.items()
        },
        "random_curve": [_rounded(value) for value in random_curve(table, evaluations)],
        "likeness": _rounded(likeness(table, tables)),
        "references": {name: one and [one[0], _rounded(one[1])] for name, one in served.items()},
        "environment": table.about.get("environment"),
        "begun_at": table.about.get("begun_at"),
    }


def search_row(mode: str, table: Table, searcher: str, found: Found) -> Row:
    """One searcher on one table."""
    regret, budgets = found.regret(table), budgets_of(table)
    hits = {f"{share:.0%}": found.is_hit(table, share) for share in WITHIN}
    hits["1% or noise"] = found.is_hit(table, 0.01, or_noise=True)
    trials = sum(map(len, found.orders))
    worse = np.append(table.is_worse, False)[found.recommended]
    return {
        "kind": "search",
        "mode": mode,
        "table": table.name,
        "searcher": searcher,
        "recipes": len(table.recipes),
        "seeds": len(regret),
        "errors": sorted(set(filter(None, found.errors)))[:3],
        "failed_runs": sum(map(bool, found.errors)),
        "regret": {name: _all_rounded(median_interval(regret[:, n])) for name, n in budgets.items()},
        "within": {
            share: {name: _rounded(hit[:, n].mean()) for name, n in budgets.items()} for share, hit in hits.items()
        },
        "hypervolume": {
            name: _all_rounded(median_interval(hypervolume_shares(table, found, budgets[name])))
            for name in SHARES
            if name in budgets
        },
        "to_1%": {name: _rounded(value) for name, value in evaluations_to_target(hits["1%"]).items()},
        "regret_at_seconds": {
            f"{s:.0f}": _rounded(float(np.median(at_seconds(regret, found.spent_s, s)))) for s in SECONDS
        },
        "worse_than_untouched": {name: int(worse[:, n].sum()) for name, n in budgets.items()},
        "own_ms_per_trial": _rounded(1000 * float(found.own_s.sum()) / max(1, trials)),
        "median_curve": _all_rounded(np.median(regret, axis=0)),
        "mean_curve": _all_rounded(regret.mean(axis=0)),
    }


def comparison_rows(mode: str, tables: Sequence[Table], findings: Findings, budget: str) -> list[Row]:
    """`adaptive` against every other searcher, over tables x seeds, at one budget."""
    regrets: dict[str, dict[str, Any]] = {}
    for (of_mode, name, searcher), found in findings.items():
        table = next(t for t in tables if t.name == name)
        if of_mode == mode and budget in budgets_of(table):
            regrets.setdefault(searcher, {})[name] = found.regret(table)[:, budgets_of(table)[budget]]
    if MAIN not in regrets:
        return []
    others = [name for name in regrets if name != MAIN]
    compared = with_holm([against(regrets[MAIN], regrets[name]) for name in others])
    about = {"kind": "comparison", "mode": mode, "budget": budget}
    return [about | {"searcher": name, **one} for name, one in zip(others, compared, strict=True)]


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _all_rounded(values: Any) -> list[float | None]:
    return [_rounded(float(value)) for value in values]
