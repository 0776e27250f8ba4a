"""A run that asks a searcher: everything it does is told, legal, reproducible, and better than drawing at random."""

import math
import statistics
from dataclasses import replace

import pytest

from hybrid_core.adaptive.history import HistoryRow
from hybrid_core.config import HybridOptimizationConfig, RunConfig
from hybrid_core.records import Estimate, Outcome, Recipe
from hybrid_core.search.searchers.registry import SEARCHERS
from hybrid_core.search.seen import earlier_models

OURS = [entry.name for entry in SEARCHERS if not entry.is_control]
CHEAP = [name for name in OURS if name != "rl"]


def asking(**changes):
    return HybridOptimizationConfig(**{"enable_rl_optimization": False, "search_method": "adaptive", **changes})


def history_of(landscape, model, family, keys, device="cpu"):
    rows = []
    for key in keys:
        speed, memory, accuracy = landscape.truth(Recipe.from_key(key))
        around = lambda value: Estimate(value, 0.99 * value, 1.01 * value)  # noqa: E731
        row = HistoryRow(key, model, family, "forward", device, "ok", around(speed), around(memory), around(accuracy))
        rows.append(row)
    return rows


def all_keys(planted, landscape):
    return [recipe.key for recipe in planted.make_space(landscape.effects).recipes if not recipe.is_baseline]


def wins(planted, landscape):
    """The best fitness of a recipe that keeps the accuracy and is not slower, by the planted truth."""
    best = 1.0
    for key in all_keys(planted, landscape):
        speed, memory, accuracy = landscape.truth(Recipe.from_key(key))
        if accuracy >= 0.983 and speed >= 1:
            best = max(best, 0.4 * speed + 0.3 * memory + 0.3 * accuracy)
    return best


@pytest.mark.parametrize("method", CHEAP)
def test_a_run_with_every_method_ends_with_a_winner_that_was_raced(search, method):
    result, landscape, told = search(options=asking(search_method=method))
    assert result.improved and result.winner_trial.purpose.value == "final"
    assert not told.of("skipped") or all("reason" in data for data in told.of("skipped"))


@pytest.mark.parametrize("method", CHEAP)
def test_no_method_measures_a_recipe_twice_in_the_search(search, method):
    _, landscape, _ = search(options=asking(search_method=method, max_iterations=12))
    measured = [key for purpose, key in landscape.calls if purpose == "search"]
    assert len(measured) == len(set(measured))


@pytest.mark.parametrize("method", CHEAP)
def test_the_same_seed_measures_the_same_recipes_in_the_same_order(search, method):
    first = search(options=asking(search_method=method), seed=5)[1].calls
    assert first == search(options=asking(search_method=method), seed=5)[1].calls


def test_every_proposal_is_told_before_it_is_measured_with_what_was_predicted(search):
    _, landscape, told = search(options=asking())
    proposed = [p for data in told.of("proposals") for p in data["proposals"]]
    assert [p["key"] for p in proposed] == [key for purpose, key in landscape.calls if purpose == "search"]
    assert all(math.isfinite(p["predicted"]) and p["sd"] >= 0 and p["by"] for p in proposed)
    kinds = [kind for kind, _ in told.events]
    first = kinds.index("proposals")
    assert "trial_started" in kinds[first:] and kinds[first + 1 :].index("trial_started") < 3


def test_adaptive_finds_the_planted_best_where_random_with_as_many_trials_does_not(search, planted):
    truth = wins(planted, planted.Landscape())
    gaps = {}
    for method in ("adaptive", "random"):
        reached = []
        for seed in range(6):
            landscape = planted.Landscape(seed=seed)
            search(landscape, options=asking(search_method=method, max_iterations=3), seed=seed, budget_s=100_000.0)
            keys = [key for purpose, key in landscape.calls if purpose == "search"]
            best = 1.0
            for key in keys:
                speed, memory, accuracy = landscape.truth(Recipe.from_key(key))
                if accuracy >= 0.983 and speed >= 1:
                    best = max(best, 0.4 * speed + 0.3 * memory + 0.3 * accuracy)
            reached.append(best / truth)
        gaps[method] = statistics.median(reached)
    assert gaps["adaptive"] > gaps["random"]
    assert gaps["adaptive"] > 0.99


def test_history_of_another_family_names_the_first_recipes(search, planted):
    landscape = planted.Landscape()
    rows = history_of(landscape, "elsewhere", "other", all_keys(planted, landscape))
    _, warm, told = search(planted.Landscape(), history=rows, family="planted", options=asking())
    by = [p["by"] for data in told.of("proposals") for p in data["proposals"]]
    assert by[0] == "portfolio"
    first = next(key for purpose, key in warm.calls if purpose == "search")
    speed, memory, accuracy = landscape.truth(Recipe.from_key(first))
    assert 0.4 * speed + 0.3 * memory + 0.3 * accuracy > 0.97 * wins(planted, landscape)


def shipped(rows):
    return [replace(row, is_shipped=True) for row in rows]


def test_a_first_run_begins_with_what_comes_with_the_project_and_says_so(search, planted):
    landscape = planted.Landscape()
    rows = shipped(history_of(landscape, "elsewhere", "planted", all_keys(planted, landscape)))
    _, warm, told = search(planted.Landscape(), history=rows, family="llama", options=asking())
    assert [p["by"] for data in told.of("proposals") for p in data["proposals"]][0] == "portfolio"
    (event,) = told.of("starting_points")
    assert event["source"] == "other models" and event["models"] == ["elsewhere, forward (shipped)"]
    assert "measured before on 1 model, all of it by this project on another machine" in event["sentence"]


def test_what_comes_with_the_project_is_never_recommended_and_yields_to_what_was_measured_here(search, planted):
    landscape = planted.Landscape()
    few = all_keys(planted, landscape)[:6]
    own = history_of(landscape, "planted", "planted", few)
    of_same, of_other = (shipped(history_of(landscape, name, "planted", few)) for name in ("planted", "other"))
    config = RunConfig(model="planted", workload="forward")
    names = list(earlier_models([*of_same, *of_other, *own], config, "planted"))
    assert names == ["planted, forward", "other, forward (shipped)"]
    _, _, told = search(planted.Landscape(), history=[*of_same, *of_other], family="planted", options=asking())
    assert told.of("starting_points")[0]["source"] == "other models", "not what earlier runs found good"


def test_too_little_shipped_leaves_the_documents_beginning(search, planted):
    landscape = planted.Landscape()
    rows = shipped(history_of(landscape, "elsewhere", "other", all_keys(planted, landscape)[:3]))
    _, _, told = search(planted.Landscape(), history=rows, family="llama", options=asking())
    assert told.of("starting_points")[0]["source"] == "document"


def test_history_of_another_device_teaches_nothing(search, planted):
    landscape = planted.Landscape()
    rows = history_of(landscape, "elsewhere", "other", all_keys(planted, landscape), device="cuda:0")
    _, _, told = search(planted.Landscape(), history=rows, family="planted", options=asking())
    by = [p["by"] for data in told.of("proposals") for p in data["proposals"]]
    assert "portfolio" not in by and by[0] == "first single"


def test_without_adaptive_hybrid_history_is_not_read(search, planted):
    landscape = planted.Landscape()
    rows = history_of(landscape, "planted", "planted", all_keys(planted, landscape))
    options = asking(enable_adaptive_hybrid=False)
    _, _, told = search(planted.Landscape(), history=rows, family="planted", options=options)
    assert not told.of("starting_points")
    assert {p["by"] for data in told.of("proposals") for p in data["proposals"]}.isdisjoint({"portfolio", "start"})


def test_misleading_history_costs_trials_but_not_the_result(search, planted):
    """The other model's effects are the reciprocal of this one's: what was best there is worst here."""
    here = planted.Landscape()
    upside_down = planted.Landscape(
        effects={
            strategy: {name: (1 / s, 1 / m, a, cost) for name, (s, m, a, cost) in settings.items()}
            for strategy, settings in planted.EFFECTS.items()
        }
    )
    rows = history_of(upside_down, "elsewhere", "other", all_keys(planted, here))
    _, landscape, _ = search(here, history=rows, family="planted", options=asking(), budget_s=100_000.0)
    reached = max(
        0.4 * s + 0.3 * m + 0.3 * a
        for s, m, a in (landscape.truth(Recipe.from_key(key)) for p, key in landscape.calls if p == "search")
        if a >= 0.983 and s >= 1
    )
    assert reached > 0.98 * wins(planted, planted.Landscape())


def test_a_search_that_has_nothing_to_gain_ends_settled_and_not_by_running_out(search, planted):
    flat = {
        strategy: {name: (1.0, 1.0, 1.0, 0.5) for name in settings} for strategy, settings in planted.EFFECTS.items()
    }
    result, landscape, _ = search(
        planted.Landscape(effects=flat), options=asking(max_iterations=100), budget_s=100_000.0
    )
    assert result.stopped_by == "converged" and not result.improved
    assert "expected to raise" in result.stop_reason
    assert len([1 for purpose, _ in landscape.calls if purpose == "search"]) < 60


def test_a_run_in_which_every_candidate_fails_ends_with_a_sentence(search, planted):
    every = {frozenset({f"{s}={name}"}): Outcome.CRASHED for s, names in planted.EFFECTS.items() for name in names}
    result, _, _ = search(planted.Landscape(outcomes=every), options=asking())
    assert not result.improved and result.stopped_by == "exhausted"
    assert "every recipe that can be tried was tried" in result.stop_reason


def test_a_space_of_one_candidate_is_measured_and_raced(search, planted):
    landscape = planted.Landscape(effects={"quantization": {"bfloat16": (1.5, 1.8, 1.0, 1.0)}})
    result, _, _ = search(landscape, options=asking())
    assert result.winner.key == "quantization=bfloat16"


def test_the_iteration_limit_counts_rounds_of_num_candidates(search):
    _, landscape, _ = search(options=asking(num_candidates=3, max_iterations=2, convergence_threshold=0.0))
    assert len([1 for purpose, _ in landscape.calls if purpose == "search"]) == 6


def test_a_run_without_candidate_selection_measures_one_round_whatever_the_method(search):
    result, _, told = search(options=asking(enable_candidate_selection=False))
    assert result.stopped_by == "one_round" and not told.of("proposals")
