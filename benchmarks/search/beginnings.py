"""How the default should begin where nothing is known: the ways that were tried, over the measured tables.

Question: the default begins cold with the cheapest single setting of each strategy. What would another beginning find?

Method: the default without its learned policy is replayed cold over every table (see replay.py); only its first recipes
are exchanged. *in use*: as it is. *none*: the surrogate chooses from the first trial on. *random*: recipes drawn at
random. *covering*: recipes that each hold as many settings as possible that none before holds, equals drawn at random;
*covering, cheap first*: equals by their expected seconds. TPE and random search stand beside it. Told is the mean
regret in percent over seeds, averaged over tables, with its 95 % bootstrap interval over the tables.

    python benchmarks/search/beginnings.py              sixteen seeds, five minutes
    python benchmarks/search/beginnings.py --seeds 4    quick
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from benchmarks.search.episodes import evaluations_of, found_of, play  # noqa: E402
from benchmarks.search.figures import at_seconds, mean_interval  # noqa: E402
from benchmarks.search.rows import RESULTS as TABLES  # noqa: E402
from benchmarks.search.table import Table, load  # noqa: E402
from benchmarks.truth.book import environment  # noqa: E402
from hybrid_core.config import HybridOptimizationConfig  # noqa: E402
from hybrid_core.records import Recipe, Step  # noqa: E402
from hybrid_core.search.searchers.adaptive import AdaptiveSearch  # noqa: E402
from hybrid_core.search.searchers.base import Searcher, Task  # noqa: E402
from hybrid_core.search.searchers.registry import SearcherEntry, get_searcher  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "search-beginnings.json"
BUDGETS = ("5 % of the space", "5 trials", "10 trials", "20 trials", "60 s", "120 s")
Begin = Callable[[Task], list[Recipe]]


def covering(task: Task, count: int, cheap_first: bool = False) -> list[Recipe]:
    """Recipes that each hold as many settings as possible that none before holds."""
    drawn = {recipe: task.rng.random() for recipe in task.space.recipes if not recipe.is_baseline}
    seen: set[Step] = set()
    chosen: list[Recipe] = []

    def worth(recipe: Recipe) -> tuple[int, float, float]:
        price = task.expected_s(recipe) if cheap_first else 0.0
        return len(set(recipe.steps) - seen), -price, drawn[recipe]

    while len(chosen) < count:
        best = max(drawn, key=worth)
        if set(best.steps) <= seen:
            break
        chosen.append(best)
        seen |= set(best.steps)
    return chosen


def at_random(task: Task, count: int) -> list[Recipe]:
    """Recipes drawn at random."""
    recipes = [recipe for recipe in task.space.recipes if not recipe.is_baseline]
    return random.Random(task.rng.random()).sample(recipes, min(count, len(recipes)))


BEGINNINGS: dict[str, Begin] = {
    "none": lambda task: [],
    "random, 3": lambda task: at_random(task, 3),
    "random, 8": lambda task: at_random(task, 8),
    "covering, 3": lambda task: covering(task, 3),
    "covering, 6": lambda task: covering(task, 6),
    "covering, 6, cheap first": lambda task: covering(task, 6, cheap_first=True),
}


def entry_of(name: str, begin: Begin | None) -> SearcherEntry:
    """The default without its learned policy, with another beginning."""

    def build(task: Task, options: HybridOptimizationConfig) -> Searcher:
        searcher = get_searcher("adaptive").build(task, replace(options, enable_rl_optimization=False))
        assert isinstance(searcher, AdaptiveSearch)
        if begin is not None:
            searcher.beginning = dict.fromkeys(begin(task), name)
        return searcher

    return SearcherEntry(name, "", build)


def main() -> None:
    """Replay, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=16)
    seeds = parser.parse_args().seeds
    tables = [load(path) for path in sorted(TABLES.glob("*.parquet"))]
    entries = [entry_of("in use", None), *(entry_of(name, begin) for name, begin in BEGINNINGS.items())]
    rows = []
    print("| beginning | " + " | ".join(BUDGETS) + " |\n| --- |" + " --- |" * len(BUDGETS))
    for entry in [*entries, get_searcher("tpe"), get_searcher("random")]:
        regrets = {table.name: regrets_of(table, entry, seeds) for table in tables}
        means = [mean_interval([found[budget] for found in regrets.values()]) for budget in BUDGETS]
        cells = [f"{100 * m:.1f} ({100 * low:.1f} to {100 * high:.1f})" for m, low, high in means]
        print(f"| {entry.name} | " + " | ".join(cells) + " |", flush=True)
        rows.append({"beginning": entry.name, "seeds": seeds, "mean_regret": regrets})
    RESULTS.write_text(json.dumps({"environment": environment(), "targets": [], "rows": rows}, indent=1) + "\n")


def regrets_of(table: Table, entry: SearcherEntry, seeds: int) -> dict[str, Any]:
    """Mean regret over seeds at each budget."""
    most = evaluations_of(table)
    found = found_of(table, {seed: play(table, entry, seed, {}, most) for seed in range(seeds)}, most)
    assert not any(found.errors), found.errors
    regret = found.regret(table)
    trials = [math.ceil(0.05 * len(table.recipes)), 5, 10, 20]
    after = [regret[:, min(n, most)] for n in trials] + [at_seconds(regret, found.spent_s, s) for s in (60.0, 120.0)]
    return {budget: round(float(values.mean()), 4) for budget, values in zip(BUDGETS, after, strict=True)}


if __name__ == "__main__":
    main()
