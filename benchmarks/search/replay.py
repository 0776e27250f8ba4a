"""Every searcher over every measured table, a hundred times: which one finds the best recipe in how many trials.

Method: a table (see build_table.py) holds the measured answer to each recipe, twice. A searcher of the registry asks
for one recipe after the other and is told what pass A shows, with the noise of half its timed blocks; what it would
return is scored by pass B, which it never sees. Cold: it knows nothing. Warm: it is given the whole tables of models of
*other families*. Budgets are counted in evaluations and in the recorded seconds of the trials. Random search is
calculated beside it. One seed means the same noise for every searcher. A searcher that is slow itself gets fewer
seeds, and its rows say so.

    make bench-search              from the tables in benchmarks/results/search, under five minutes on one core
    make bench-search QUICK=1      ten seeds; no target is decided
    python benchmarks/search/replay.py --docs        only write docs/search_bakeoff.md and the curves
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from benchmarks.search import page  # noqa: E402
from benchmarks.search.contestants import contestants  # noqa: E402
from benchmarks.search.episodes import (  # noqa: E402
    MODES,
    Case,
    Episode,
    Episodes,
    Found,
    evaluations_of,
    found_of,
    play,
)
from benchmarks.search.kept import fingerprint, load_kept, write_kept  # noqa: E402
from benchmarks.search.report import MAIN, Row, comparison_rows, search_row, table_row  # noqa: E402
from benchmarks.search.rows import RESULTS as TABLES  # noqa: E402
from benchmarks.search.table import MOST_SEEDS, Table, load, nearest_first  # noqa: E402
from benchmarks.search.targets import CONTROL, target_text, targets_of  # noqa: E402
from benchmarks.truth.book import environment  # noqa: E402
from hybrid_core.search.searchers.base import Seen  # noqa: E402
from hybrid_core.search.searchers.registry import SearcherEntry  # noqa: E402

# A block is what a process plays before it answers.
QUICK_SEEDS, BLOCK = 10, 5
MINUTES = 4.0
# What an episode takes besides the searcher's own computing.
EPISODE_S = 0.005
COMPARED_AT = ("5 %", "10", "40")


class Arena:
    """The tables and what each mode tells of the others; made once, before the processes that play are forked."""

    def __init__(self, tables: Sequence[Table], searchers: Sequence[SearcherEntry]) -> None:
        self.tables = {table.name: table for table in tables}
        self.searchers = {entry.name: entry for entry in searchers}
        self.histories = {(mode, t.name): history_of(mode, t, tables) for mode in MODES for t in tables}
        for table in tables:
            table.draws(0), table.space.slots  # noqa: B018 (computed here, shared by all processes)

    def cases(self) -> list[Case]:
        """Everything that is to be played; all but cold only where there is something to know and who would use it."""
        return [
            (mode, table, name)
            for name, entry in self.searchers.items()
            for mode in MODES
            for table in self.tables
            if mode == "cold" or (entry.uses_history and self.histories[mode, table])
        ]

    def spread(self, episodes: Episodes) -> Episodes:
        """With the episodes of who uses no history in every mode: they are the same in each."""
        same = {
            (mode, table, name): played
            for (_, table, name), played in episodes.items()
            for mode in MODES[1:]
            if not self.searchers[name].uses_history and self.histories[mode, table]
        }
        return episodes | same

    def play(self, case: Case, seeds: Iterable[int]) -> dict[int, Episode]:
        """The episodes of these seeds."""
        mode, name, searcher = case
        table, entry = self.tables[name], self.searchers[searcher]
        history, evaluations = self.histories[mode, name], evaluations_of(table)
        return {seed: play(table, entry, seed, history, evaluations) for seed in seeds}


def history_of(mode: str, table: Table, tables: Sequence[Table]) -> Mapping[str, tuple[Seen, ...]]:
    """What a searcher knows before, by `MODES`."""
    if mode == "shipped":
        return table.shipped()
    return nearest_first(table, tables) if mode == "warm" else {}


def main() -> None:
    """Replay, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SEEDS} seeds")
    parser.add_argument("--searchers", nargs="*", help="only these")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for playing; slow searchers get fewer seeds")
    parser.add_argument("--processes", type=int, default=0, help="0: as many as processors look free")
    parser.add_argument("--afresh", action="store_true", help="use no episode that was played before")
    parser.add_argument("--docs", action="store_true", help="play nothing, only write the page")
    chosen = parser.parse_args()
    if not chosen.docs:
        replay(chosen)
    page.refresh()


def replay(chosen: argparse.Namespace) -> None:
    """All of it."""
    paths = {path.stem: path for path in sorted(TABLES.glob("*.parquet"))}
    if not paths:
        sys.exit(f"there is no table in {TABLES.relative_to(ROOT)}; build one with benchmarks/search/build_table.py")
    arena = Arena([load(path) for path in paths.values()], chosen_searchers(chosen.searchers))
    processes, now = chosen.processes or free_processors(), fingerprint(paths)
    started = time.monotonic()
    most = QUICK_SEEDS if chosen.quick else MOST_SEEDS
    kept = {} if chosen.afresh else load_kept(now)
    episodes = play_all(arena, most, chosen.minutes * 60, processes, kept)
    write_kept({case: played for case, played in (kept | episodes).items() if played}, now)
    rows = rows_of(arena, {case: first_of(played, most) for case, played in arena.spread(episodes).items()})
    about = environment() | {"processes": processes, "seconds": round(time.monotonic() - started, 1)}
    found = {"environment": about, "targets": targets_of(rows), "rows": rows}
    partial = page.RESULTS.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=0, allow_nan=False))
    partial.replace(page.RESULTS)
    print_report(found)


def chosen_searchers(names: Sequence[str] | None) -> list[SearcherEntry]:
    """Those that can be had here; what cannot is said."""
    wanted = contestants(names)
    for entry in wanted:
        if (why := entry.unavailable()) is not None:
            print(f"{entry.name} is left out: {why}")
    return [entry for entry in wanted if entry.unavailable() is None]


def free_processors() -> int:
    """How many of the processors that may be used have nothing else to do, by the load of the last minute."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, round((os.cpu_count() or 1) - os.getloadavg()[0])))


def play_all(arena: Arena, most: int, limit_s: float, processes: int, kept: Episodes | None = None) -> Episodes:
    """One episode of each searcher shows what it costs; then as many seeds of each as the time allows."""
    started = time.monotonic()
    episodes = {case: dict((kept or {}).get(case, {})) for case in arena.cases()}
    with workers_of(arena, processes) as pool:
        collect(pool, episodes, probes(episodes), started + limit_s)
        left_s = processes * (limit_s - (time.monotonic() - started))
        seeds = planned_seeds(*costs_of(episodes, most), left_s, most)
        print(f"{time.monotonic() - started:.0f} s for the first look; seeds: {seeds}", flush=True)
        collect(pool, episodes, missing(episodes, seeds), started + limit_s)
    return episodes


def probes(episodes: Episodes) -> list[tuple[Case, tuple[int, ...]]]:
    """The first case of every searcher that has played nothing yet."""
    silent = {case[2] for case in episodes} - {case[2] for case, played in episodes.items() if played}
    return [(next(case for case in episodes if case[2] == name), (0,)) for name in sorted(silent)]


def missing(episodes: Episodes, seeds: Mapping[str, int]) -> list[tuple[Case, tuple[int, ...]]]:
    """The episodes to be played for so many seeds of each searcher, in blocks, the first seeds of all first."""
    most = max(seeds.values(), default=0)
    orders = []
    for first in range(0, most, BLOCK):
        for case, played in episodes.items():
            block = range(first, min(first + BLOCK, seeds[case[2]]))
            orders.append((case, tuple(seed for seed in block if seed not in played)))
    return [order for order in orders if order[1]]


def costs_of(episodes: Episodes, most: int) -> tuple[dict[str, float], dict[str, int]]:
    """Searcher -> seconds of one seed in all its cases, and how many seeds all of them have already."""
    cases: dict[str, list[dict[int, Episode]]] = {}
    for (_, _, searcher), played in episodes.items():
        cases.setdefault(searcher, []).append(played)
    costs, known = {}, {}
    for searcher, all_played in cases.items():
        if not any(all_played):  # its first episode took longer than there was time
            costs[searcher], known[searcher] = math.inf, 0
            continue
        seconds = [EPISODE_S + episode.own_s for played in all_played for episode in played.values()]
        costs[searcher] = len(all_played) * sum(seconds) / len(seconds)
        known[searcher] = min(most, *map(len, all_played))
    return costs, known


def planned_seeds(costs: Mapping[str, float], known: Mapping[str, int], left_s: float, most: int) -> dict[str, int]:
    """How many seeds each searcher gets when one costs so much: those with a target first, then the cheapest.

    >>> planned_seeds({"adaptive": 1.0, "random": 0.1, "slow": 50.0}, {"random": 50}, 220.0, 100)
    {'adaptive': 100, 'random': 100, 'slow': 2}
    """
    order = sorted(costs, key=lambda name: (name != MAIN and CONTROL not in name, costs[name]))
    planned: dict[str, int] = {}
    for place, name in enumerate(order):
        has_target = name == MAIN or CONTROL in name
        fair_s = left_s / 2 if has_target else left_s / (len(order) - place)
        had = known.get(name, 0)
        planned[name] = max(had, min(most, had + int(max(0.0, fair_s) / max(costs[name], 1e-6))))
        left_s -= (planned[name] - had) * costs[name] if planned[name] > had else 0.0
    return {name: planned[name] for name in costs}


def workers_of(arena: Arena, processes: int) -> Any:
    """Forked processes, which have the tables already."""
    global _arena
    _arena = arena
    return multiprocessing.get_context("fork").Pool(processes)


_arena: Arena | None = None


def _play(order: tuple[Case, tuple[int, ...]]) -> tuple[Case, dict[int, Episode]]:
    assert _arena is not None
    return order[0], _arena.play(*order)


def collect(pool: Any, episodes: Episodes, orders: Sequence[tuple[Case, tuple[int, ...]]], deadline: float) -> None:
    """Play the orders and add what came of them; what is not there by the deadline is left to a later call."""
    answers = pool.imap_unordered(_play, orders)
    for _ in orders:
        try:
            case, played = answers.next(max(0.0, deadline - time.monotonic()))
        except multiprocessing.TimeoutError:
            print("time is up; what was played is kept, and the same call goes on", flush=True)
            return
        episodes[case] |= played


def rows_of(arena: Arena, episodes: Episodes) -> list[Row]:
    """Tables, searches, comparisons."""
    tables = list(arena.tables.values())
    found: dict[Case, Found] = {}
    for case, played in whole(episodes).items():
        table = arena.tables[case[1]]
        found[case] = found_of(table, played, evaluations_of(table))
    rows = [table_row(table, tables) for table in tables]
    rows += [
        search_row(mode, arena.tables[name], searcher, found[mode, name, searcher]) for mode, name, searcher in found
    ]
    for mode in MODES:
        for budget in COMPARED_AT:
            rows += comparison_rows(mode, tables, found, budget)
    return rows


def first_of(played: dict[int, Episode], most: int) -> dict[int, Episode]:
    """The episodes of the first seeds."""
    return {seed: episode for seed, episode in played.items() if seed < most}


def whole(episodes: Episodes) -> Episodes:
    """Without the searchers that were not on all tables: a mean over other tables cannot be compared."""
    partly = {case[2] for case, played in episodes.items() if not played}
    if partly:
        print(f"left out for want of time, --minutes gives more: {', '.join(sorted(partly))}")
    return {case: played for case, played in episodes.items() if case[2] not in partly}


def print_report(found: dict[str, Any]) -> None:
    """The tables of the page, and the targets."""
    for name, text in page.all_tables(found).items():
        print(f"\n{name}\n{text}")
    print()
    for target in found["targets"]:
        print(target_text(target))


if __name__ == "__main__":
    main()
