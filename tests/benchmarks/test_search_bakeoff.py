"""The bake-off must itself judge rightly: oracle, regret, K and verdicts are held to tables whose answers are known."""

import doctest
import math
import random
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from benchmarks.search import episodes, figures, page, replay
from benchmarks.search.episodes import (
    UNTOUCHED,
    Episode,
    evaluations_of,
    found_of,
    hypervolume_shares,
    play,
)
from benchmarks.search.figures import against, average_ranks, random_curve, with_holm
from benchmarks.search.references import likeness, portfolio_of_one, references_of
from benchmarks.search.replay import Arena, history_of
from benchmarks.search.table import MOST_SEEDS, Table, nearest_first
from hybrid_core.search.hypervolume import hypervolume
from hybrid_core.search.searchers.base import Seen
from hybrid_core.search.searchers.random import chance_of_a_hit
from hybrid_core.search.searchers.registry import SearcherEntry, get_searcher
from tests.benchmarks.synthetic_tables import IN_ORDER, InOrder, make_rows, make_table, three_tables


@pytest.mark.parametrize("module", [episodes, figures, page, replay])
def test_examples_in_docstrings_are_true(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0


@pytest.fixture(scope="module")
def table() -> Table:
    return make_table()


def test_worth_regret_and_k_are_those_of_the_formula(table: Table) -> None:
    rows = {row["recipe"]: row for row in make_rows() if row["pass"] == "A"}
    fitness = {key: 0.4 * row["speed"] + 0.3 * row["memory"] + 0.3 for key, row in rows.items()}
    best = max(value for key, value in fitness.items() if rows[key]["speed_high"] >= 1)
    for recipe, regret in zip(table.recipes, table.regret, strict=False):
        allowed = fitness[recipe.key] if rows[recipe.key]["speed_high"] >= 1 else 1.0
        assert regret == pytest.approx(1 - allowed / best, abs=1e-9)
    assert table.regret[UNTOUCHED] == pytest.approx(1 - 1 / best)
    assert table.good(0.05) == sum(
        f >= 0.95 * best for key, f in fitness.items() if rows[key]["speed_high"] >= 1 and key != "baseline"
    )


def test_a_recipe_is_scored_by_the_pass_that_no_searcher_sees() -> None:
    lucky = "kernel_fusion_fold"
    table = make_table(
        kernel_fusion_fold={"baseline_ms": [90.0] * 24, "speed": 9.0, "speed_low": 8.9, "speed_high": 9.1}
    )
    i, honest = table.place[lucky.replace("_fold", "=fold")], make_table()
    assert table.shown[0][i] > 1.0
    assert table.worth[i] == honest.worth[i]


def test_what_breaks_a_bound_is_worth_the_untouched_model() -> None:
    best = make_table().recipes[int(make_table().worth.argmax())].key
    name = best.replace("=", "_").replace("+", "_")
    table = make_table(**{name: {"accuracy_low": 0.9}})
    assert table.worth[table.place[best]] == 0.0
    assert table.shown[3][table.place[best]] == -math.inf
    assert table.points[table.place[best]] is None


def test_two_searchers_meet_the_same_noise_and_two_seeds_another_one() -> None:
    table = make_table(noise=0.05)
    assert np.array_equal(table.draws(3), make_table(noise=0.05).draws(3))
    assert not np.array_equal(table.draws(3), table.draws(4))
    halves = np.array([table.draws(seed)[0] for seed in range(MOST_SEEDS)])
    row = table.rows_a[table.recipes[0].key]
    ratios = np.log(np.array(row["baseline_ms"]) / np.array(row["candidate_ms"])).reshape(-1, 2).mean(axis=1)
    assert halves.mean() == pytest.approx(np.median(ratios), abs=3 * ratios.std() / math.sqrt(12))


def test_what_is_shown_at_once_is_what_searchers_are_told_one_by_one() -> None:
    failed = {"outcome": "crashed", "baseline_ms": None, "candidate_ms": None}
    table = make_table(noise=0.05, kernel_fusion_fold=failed, kernel_fusion_merge={"accuracy_low": 0.9})
    for seed in (0, 99):
        told = [table.seen(recipe, table.draws(seed)[i]) for i, recipe in enumerate(table.recipes)]
        expected = [seen.value if seen.is_ok else -math.inf for seen in told]
        assert table.shown[seed] == pytest.approx(expected)
        assert 2 < sum(not seen.is_ok for seen in told) < len(told)


def test_noise_between_the_passes_is_recovered() -> None:
    assert make_table().noise == 0.0
    assert make_table(noise=0.03).noise == pytest.approx(0.03, rel=0.25)
    assert make_table(noise=0.01).is_usable and not make_table(noise=0.05).is_usable


def test_four_judging_processes_halve_the_noise_of_one_and_are_averaged() -> None:
    one, four = make_table(noise=0.04), make_table(noise=0.04, passes="ABCDE")
    assert four.process_sd == pytest.approx(0.04, rel=0.25) and four.judges == 4
    assert four.noise == pytest.approx(four.process_sd / 2) and one.noise == one.process_sd
    truth = make_table().worth
    far = [float(np.abs(table.worth - truth)[truth > 0.05].mean()) for table in (one, four)]
    assert far[1] == pytest.approx(far[0] / 2, rel=0.35)
    recipe = max(four.recipes, key=lambda r: four.worth[four.place[r.key]]).key
    speeds = [row["speed"] for row in four.judged[recipe]]
    fitness = 0.4 * math.prod(speeds) ** 0.25 + 0.3 * four.rows_a[recipe]["memory"] + 0.3
    assert four.worth[four.place[recipe]] == pytest.approx(math.log(fitness))


def test_simulated_random_search_hits_as_often_as_the_closed_form_says(table: Table) -> None:
    runs, drawn, good = 300, 12, table.good(0.05)
    assert good >= 1
    entry, hits = get_searcher("random"), 0
    for name in ("a", "b", "c"):  # a table of another name draws other recipes with the same seed
        same = Table(name, table.about, table.rows_a, table.judged, table.options)
        for seed in range(MOST_SEEDS):
            hits += any(table.regret[i] <= 0.05 for i in play(same, entry, seed, {}, drawn).order)
    expected = chance_of_a_hit(len(table.recipes), drawn, good)
    assert hits / runs == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / runs))


def test_the_calculated_curve_is_the_median_of_simulated_random_search(table: Table) -> None:
    generator, runs, after = random.Random(0), 2001, 9
    found = []
    for _ in range(runs):
        found.append(min([table.regret[i] for i in generator.sample(range(len(table.recipes)), after)]))
    ranked = np.sort(np.append(table.regret[:-1], 0.0))
    calculated = random_curve(table, after)[-1]
    place = int(np.searchsorted(ranked, calculated))
    low, high = np.quantile(np.minimum(found, table.regret[UNTOUCHED]), (0.46, 0.54))
    assert low <= calculated <= high, (low, calculated, high, place)


def test_what_a_run_would_return_never_gets_worse_in_its_own_eyes(table: Table) -> None:
    evaluations = evaluations_of(table)
    assert evaluations == 40
    found = found_of(table, {0: play(table, IN_ORDER, 0, {}, evaluations)}, evaluations)
    regret = found.regret(table)[0]
    assert regret[0] == table.regret[UNTOUCHED]
    assert all(b <= a + 1e-12 for a, b in zip(regret, regret[1:], strict=False))
    order = [table.place[r.key] for r in table.space.recipes[1 : evaluations + 1]]
    assert regret[-1] == pytest.approx(min([*table.regret[order], table.regret[UNTOUCHED]]))
    assert found.spent_s[0][-1] == pytest.approx(table.seconds[order].sum())


def test_failures_cost_their_seconds_and_close_what_contains_them() -> None:
    failed = {"outcome": "crashed", "reason": "x", "baseline_ms": None, "candidate_ms": None, "seconds": 50.0}
    table = make_table(kernel_fusion_fold=failed)
    episode = play(table, IN_ORDER, 0, {}, 40)
    keys = [table.recipes[i].key for i in episode.order]
    assert "kernel_fusion=fold" in keys and not any("fold+" in key for key in keys)
    found = found_of(table, {0: episode}, 40)
    assert found.spent_s[0][-1] == pytest.approx(table.seconds[list(episode.order)].sum())
    assert table.seconds[table.place["kernel_fusion=fold"]] == pytest.approx(50.0)


def test_a_searcher_that_breaks_or_stops_keeps_what_it_had(table: Table) -> None:
    class Broken(InOrder):
        def tell(self, seen: Seen) -> None:
            super().tell(seen)
            if len(self.told) > 3:
                raise ZeroDivisionError("no")

    episode = play(table, SearcherEntry("broken", "", lambda task, options: Broken(task)), 0, {}, 40)
    assert len(episode.order) == 3 and episode.error == "ZeroDivisionError: no"
    found = found_of(table, {0: episode}, 40)
    assert found.recommended.shape == (1, 41)
    assert (found.recommended[0][3:] == found.recommended[0][3]).all()


def test_cold_searchers_see_no_history_and_warm_ones_none_of_their_own_family() -> None:
    tables = three_tables()
    arena = Arena(tables, [IN_ORDER])
    for mode, name, expected in (("cold", "t1", set()), ("warm", "t1", {"t0"}), ("warm", "t0", {"t1", "t2"})):
        InOrder.tasks.clear()
        arena.play((mode, name, "in order"), [0])
        (task,) = InOrder.tasks
        assert set(task.history) == expected
    told = history_of("warm", tables[0], tables)["t1"]
    assert {seen.recipe.key for seen in told} == {recipe.key for recipe in tables[1].recipes}
    assert history_of("warm", tables[0], tables[:1]) == {}


def test_what_comes_with_the_project_says_nothing_of_the_model_that_is_searched(table: Table) -> None:
    names = {"model": "vit", "size": "tiny", "workload": {"name": "forward_single"}}
    environment = {"cpu_capability": "AVX2"}
    known = replace(table, about={**table.about, "subject": names, "environment": environment})
    told = history_of("shipped", known, [])
    assert told and not any(name.startswith("vit ") for name in told)
    assert next(iter(told)).startswith("convnet tiny, forward_single"), "of the same workload, so the nearest"
    elsewhere = replace(known, about={**known.about, "environment": {"cpu_capability": "DEFAULT"}})
    assert history_of("shipped", elsewhere, []) == {}


def test_history_holds_the_whole_first_pass_under_the_weights_of_the_table(table: Table) -> None:
    (seens,) = nearest_first(make_table("x", "other"), [table]).values()
    best = max((seen for seen in seens if seen.is_ok), key=lambda seen: seen.value)
    assert best.value == pytest.approx(table.worth.max())


def test_the_portfolio_of_one_never_looks_at_its_own_family() -> None:
    tables = three_tables()
    chosen = portfolio_of_one(tables[0], tables)
    gains = np.mean([[max(0.0, t.worth[t.place[r.key]]) for r in tables[0].recipes] for t in tables[1:]], axis=0)
    assert chosen == int(gains.argmax())
    assert portfolio_of_one(tables[0], tables[:1]) is None
    oracle = references_of(tables[0], tables)["oracle: all of them measured"]
    assert oracle is not None and oracle[1] == 0.0


def test_likeness_is_one_for_the_same_effects_and_looks_at_other_families_only(table: Table) -> None:
    twin, stranger = make_table("twin", "other"), make_table("stranger", "other", seed=5)
    assert likeness(table, [table, twin]) == pytest.approx(1.0)
    alone = likeness(table, [table, stranger])
    assert alone is not None and abs(alone) < 0.9
    assert likeness(table, [table, make_table("sibling")]) is None


def test_hypervolume_share_is_that_of_what_was_tried(table: Table) -> None:
    order = (3, 50, 7)
    found = found_of(table, {0: Episode(order, 0.0)}, 3)
    reference = (math.log(0.9), math.log(0.9))
    pairs = [(r["speed"], r["memory"]) for r in (table.rows_a[recipe.key] for recipe in table.recipes)]
    logs = [(math.log(s), math.log(m)) for s, m in pairs]
    own, whole = [(0.0, 0.0), *(logs[i] for i in order[:2])], [(0.0, 0.0), *logs]
    expected = hypervolume(own, reference) / hypervolume(whole, reference)
    assert hypervolume_shares(table, found, 2)[0] == pytest.approx(expected)
    everything = found_of(table, {0: Episode(tuple(range(len(table.recipes))), 0.0)}, len(table.recipes))
    assert hypervolume_shares(table, everything, len(table.recipes))[0] == pytest.approx(1.0)


def test_a_better_searcher_is_told_apart_and_two_equal_ones_are_not() -> None:
    generator = np.random.default_rng(0)
    better = {"t": generator.uniform(0.0, 0.1, 100), "u": generator.uniform(0.0, 0.1, 100)}
    worse = {name: values + 0.05 for name, values in better.items()}
    (found, same) = with_holm([against(better, worse), against(better, better)])
    assert found["p_holm"] < 0.001 and found["mean_difference"] == pytest.approx(0.05)
    assert found["tables_better"] == 2 and found["a12"] > 0.8
    assert same["p_holm"] == 1.0 and same["a12"] == 0.5
    assert average_ranks({"a": {"t": 0.1, "u": 0.2}, "b": {"t": 0.2, "u": 0.2}}) == {"a": 1.25, "b": 1.75}
