"""Playing searchers over tables: who plays when, what is kept, what is decided and written."""

import itertools
import json
import math
import multiprocessing
import random
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.search import curves, kept, page, replay
from benchmarks.search.contestants import VARIANTS, contestants, with_options
from benchmarks.search.episodes import (
    MODES,
    Episode,
    Found,
    found_of,
    play,
)
from benchmarks.search.replay import Arena
from benchmarks.search.report import search_row, table_row
from benchmarks.search.rows import SCHEMA, read_table, write_table
from benchmarks.search.table import Table
from benchmarks.search.tables import all_tables
from benchmarks.search.targets import budgets_behind, target, target_text, targets_of
from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.records import SELECTION_METHODS
from hybrid_core.search.searchers.registry import SEARCHERS, SearcherEntry, get_searcher
from tests.benchmarks.synthetic_tables import IN_ORDER, make_row, make_rows, make_table, recipes, three_tables


@pytest.fixture(scope="module")
def table() -> Table:
    return make_table()


def rows_for_targets(tables: int = 6, seeds: int = 100, near: float = 0.9) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for i in range(tables):
        rows.append({"kind": "table", "table": f"t{i}", "model": f"m{i}", "family": f"f{i % 3}", "is_usable": True})
        for mode, searcher in itertools.product(("cold", "shipped", "warm"), ("adaptive", "optuna_tpe")):
            behind = 0.1 if searcher != "adaptive" else 0.05
            rows.append(
                {
                    "kind": "search", "mode": mode, "table": f"t{i}", "searcher": searcher, "seeds": seeds,
                    "within": {"1% or noise": {"5 %": near if i == 0 else 1.0}},
                    "regret": {"5": [0.03 if i == 0 else 0.01, 0, 0]}, "worse_than_untouched": {"5": 0},
                    "hypervolume": {"10 %": [0.96, 0.9, 1.0]}, "mean_curve": [1.0] + [behind] * 40,
                }
            )  # fmt: skip
    return rows


def test_targets_are_met_missed_or_not_decided() -> None:
    assert [found["met"] for found in targets_of(rows_for_targets())] == [True] * 10
    assert targets_of(rows_for_targets(near=0.7))[0]["met"] is False
    assert "MISSED" in target_text(targets_of(rows_for_targets(near=0.7))[0])
    twice = [row | {"model": "m0"} if row.get("model") == "m1" else row for row in rows_for_targets()]
    for undecided in (rows_for_targets(tables=5), rows_for_targets(seeds=99), twice, []):
        assert [found["met"] for found in targets_of(undecided)] == [None] * 10
    noisy = [row | {"is_usable": False} if row["kind"] == "table" else row for row in rows_for_targets()]
    assert "quiet tables of 0 models" in target_text(targets_of(noisy)[0])


def test_a_single_budget_behind_the_control_is_counted() -> None:
    own = [{"table": "t", "mean_curve": [1.0, 0.5, 0.3, 0.1]}]
    assert budgets_behind(own, [{"table": "t", "mean_curve": [1.0, 0.5, 0.2, 0.1]}]) == 1
    assert budgets_behind(own, []) is None
    assert target("x", 1, 0, "", at_most=True)["met"] is False


def test_seeds_are_planned_by_cost_and_nobody_loses_what_was_played() -> None:
    planned = replay.planned_seeds({"adaptive": 2.0, "a": 1.0, "b": 100.0}, {"b": 7}, 50.0, 100)
    assert planned == {"adaptive": 12, "a": 13, "b": 7}
    assert replay.planned_seeds({"adaptive": 0.1, "a": 0.2}, {"a": 100}, -5.0, 100) == {"adaptive": 0, "a": 100}


class Pool:
    """Plays at once in this process until an order makes it wait for ever."""

    def imap_unordered(self, play: object, orders: list[object]) -> "Pool":
        self.orders = iter(orders)
        return self

    def next(self, timeout: float) -> tuple[object, dict[int, Episode]]:
        case, seeds = next(self.orders)  # type: ignore[misc]
        if 7 in seeds:
            raise multiprocessing.TimeoutError
        return case, {seed: Episode((), 0.0) for seed in seeds}


def test_what_is_not_played_in_time_is_left_to_a_later_call() -> None:
    case = ("cold", "t", "a")
    played = {case: dict[int, Episode]()}
    replay.collect(Pool(), played, replay.missing(played, {"a": 20}), math.inf)
    assert sorted(played[case]) == [0, 1, 2, 3, 4]
    assert replay.costs_of({case: {}}, 100) == ({"a": math.inf}, {"a": 0})
    assert replay.planned_seeds({"a": math.inf, "b": 1.0}, {}, 50.0, 100) == {"a": 0, "b": 25}


def test_one_episode_shows_what_a_searcher_costs_and_who_was_not_everywhere_is_left_out() -> None:
    cases = [(mode, "t", name) for name in ("a", "b") for mode in ("cold", "warm")]
    played = {case: dict[int, Episode]() for case in cases}
    assert replay.probes(played) == [(("cold", "t", "a"), (0,)), (("cold", "t", "b"), (0,))]
    played["cold", "t", "a"][0] = played["cold", "t", "b"][0] = Episode((), 2.0)
    played["warm", "t", "a"][0] = Episode((), 4.0)
    costs, known = replay.costs_of(played, 100)
    assert costs == pytest.approx({"a": 6.0, "b": 4.0}, abs=0.1) and known == {"a": 1, "b": 0}
    assert {case[2] for case in replay.whole(played)} == {"a"}
    assert replay.probes(played) == []


def test_every_variant_of_a_searcher_is_built_under_its_own_options() -> None:
    everybody = contestants()
    names = [entry.name for entry in everybody]
    assert len(set(names)) == len(names) and set(names) >= {entry.name for entry in SEARCHERS}
    assert {f"selection/{name}" for name in SELECTION_METHODS if name != "rl"} <= set(names)
    given = []
    entry = with_options(
        SearcherEntry("x", "", lambda task, options: given.append(options)), "y", {"enable_orz": False}
    )  # type: ignore[func-returns-value]
    entry.build(None, HybridOptimizationConfig())  # type: ignore[arg-type]
    assert entry.name == "x/y" and given[0].enable_orz is False and given[0].enable_dapo is True
    for name, changes in ((n, c) for variants in VARIANTS.values() for n, c in variants.items()):
        assert replace(HybridOptimizationConfig(), **changes) != HybridOptimizationConfig(), name
    assert {entry.name for entry in contestants(["rl"])} == {n for n in names if n.split("/")[0] == "rl"}


def test_the_order_of_playing_covers_every_missing_seed_once() -> None:
    played = {("cold", "t", "a"): {0: Episode((), 0.0), 5: Episode((), 0.0)}, ("cold", "t", "b"): {}}
    orders = replay.missing(played, {"a": 25, "b": 3})
    seeds = [(case[2], seed) for case, block in orders for seed in block]
    assert sorted(seeds) == sorted([("a", s) for s in range(25) if s not in (0, 5)] + [("b", s) for s in range(3)])


def test_who_uses_no_history_is_played_once_and_shown_in_every_mode() -> None:
    tables = three_tables()
    free = [entry for entry in contestants() if not entry.uses_history and entry.unavailable() is None]
    quick = [entry for entry in free if entry.name != "selection"]  # it trains a policy
    arena = Arena(tables, [IN_ORDER, *quick])
    assert {mode for mode, *_ in arena.cases()} == {"cold"}
    for entry in quick:
        told, untold = (play(tables[0], entry, 3, arena.histories[mode, "t0"], 6).order for mode in ("warm", "cold"))
        assert told == untold, entry.name
    cold = {("cold", "t0", "in order"): {0: Episode((1,), 0.0)}}
    assert arena.spread(cold) == cold | {("warm", "t0", "in order"): {0: Episode((1,), 0.0)}}
    learning = Arena(tables, [get_searcher("surrogate")])
    assert {mode for mode, *_ in learning.cases()} == {"cold", "warm"}


def test_kept_episodes_are_used_only_for_the_same_tables_and_code(tmp_path: Path) -> None:
    path = tmp_path / "kept.parquet"
    now = {"code": "c", "warm": "w", "shipped": "s", "table t": "1", "table u": "2"}
    found = {(mode, name, "a"): {3: Episode((4, 2), 0.5, "")} for mode in MODES for name in ("t", "u")}
    kept.write_kept(found, now, path)
    assert kept.load_kept(now, path) == found
    assert kept.load_kept(now | {"code": "other"}, path) == {}
    assert set(kept.load_kept(now | {"table u": "3", "warm": "v"}, path)) == {("cold", "t", "a"), ("shipped", "t", "a")}
    assert set(kept.load_kept(now | {"shipped": "r"}, path)) == {
        (m, n, "a") for m in ("cold", "warm") for n in ("t", "u")
    }


def test_playing_again_gives_the_same_episode(table: Table) -> None:
    for name in ("random", "adaptive"):
        again = [play(table, get_searcher(name), 1, {}, 8).order for _ in range(2)]
        assert again[0] == again[1]


def test_a_table_survives_its_file(tmp_path: Path, table: Table) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, make_rows(), {"family": "one"})
    rows, about = read_table(path)
    assert about == {"family": "one"} and len(rows) == 2 * len(recipes())
    assert set(rows[0]) == set(SCHEMA.names)
    assert rows[5]["recipe"] == make_rows()[5]["recipe"] and rows[5]["speed"] == make_rows()[5]["speed"]


def test_the_page_has_a_place_for_every_table_and_the_drawing_is_svg(table: Table) -> None:
    tables = three_tables()
    found: dict[tuple[str, str, str], Found] = {}
    rows = [table_row(t, tables) for t in tables]
    for t in tables:
        played = {seed: play(t, IN_ORDER, seed, {}, 40) for seed in range(2)}
        found["cold", t.name, "in order"] = found_of(t, played, 40)
        rows.append(search_row("cold", t, "in order", found["cold", t.name, "in order"]))
    json.dumps(rows, allow_nan=False)
    about = dict.fromkeys(("cpu", "torch", "python"), "x") | {"seconds": 1.0}
    texts = all_tables({"environment": about, "targets": targets_of(rows), "rows": rows})
    text = page.filled(page.PAGE.read_text(), texts)
    assert "in order" in text and text == page.filled(text, texts)
    drawing = curves.drawn(rows, "cold")
    assert drawing is not None and ElementTree.fromstring(drawing).tag.endswith("svg")
    assert curves.drawn(rows, "warm") is None


def test_a_row_of_noise_is_a_row(table: Table) -> None:
    row = make_row("baseline", "B", 1.0, 1.0, random.Random(0), 0.1)
    assert row["memory"] is None and len(row["baseline_ms"]) == 24
