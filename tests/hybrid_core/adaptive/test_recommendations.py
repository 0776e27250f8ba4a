"""Recommendations against scipy, the document's tables and the rule that devices are never mixed silently."""

import ast
import itertools
import math
import random
from pathlib import Path

import pytest
from scipy import stats

from hybrid_core import adaptive, recipes
from hybrid_core.adaptive.document import CLAIMED, MODEL_OPTIMIZATIONS, NEAREST_SETTING
from hybrid_core.adaptive.history import HistoryRow
from hybrid_core.adaptive.recommend import _t95, geometric_mean, recommend
from hybrid_core.records import STRATEGY_NAMES, Estimate, to_json
from hybrid_core.strategies import registry

SDPA, INT8, BOTH = (
    "attention_fusion=sdpa",
    "quantization=int8_dynamic",
    "attention_fusion=sdpa+quantization=int8_dynamic",
)


def row(key=SDPA, speed=1.2, half=0.02, accuracy=1.0, outcome="ok", device="cpu", family="llama", workload="prefill"):
    ratio = Estimate(speed, speed - half, speed + half)
    if outcome != "ok":
        return HistoryRow(key, family, family, workload, device, outcome)
    exact = Estimate.exact(1.1)
    return HistoryRow(key, family, family, workload, device, outcome, ratio, exact, Estimate.exact(accuracy))


def measured(rows, **kwargs):
    kwargs = {"device": "cpu", "workload": "prefill", **kwargs}
    return [r for r in recommend(rows, "llama", limit=50, **kwargs) if r.source == "history"]


@pytest.mark.parametrize("degrees", range(1, 31))
def test_the_t_quantiles_are_those_of_scipy(degrees):
    assert _t95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=6e-5)


@pytest.mark.parametrize("degrees", [31, 100, 10_000])
def test_beyond_the_table_the_quantile_is_never_too_small(degrees):
    assert stats.t.ppf(0.975, degrees) <= _t95(degrees) < 2.05


def test_runs_are_averaged_as_logarithms_with_students_t():
    speeds = [1.10, 1.30, 1.25, 1.18]
    mean = geometric_mean([Estimate.exact(s) for s in speeds])
    logs = [math.log(s) for s in speeds]
    low, high = stats.t.interval(0.95, 3, loc=stats.tmean(logs), scale=stats.sem(logs))
    assert mean.value == pytest.approx(stats.gmean(speeds))
    assert (mean.low, mean.high) == (pytest.approx(math.exp(low), rel=1e-4), pytest.approx(math.exp(high), rel=1e-4))


def test_one_run_keeps_its_own_interval():
    assert geometric_mean([Estimate(1.2, 1.1, 1.4)]) == Estimate(1.2, 1.1, 1.4)


def test_runs_that_agree_by_luck_are_not_certain():
    mean = geometric_mean([Estimate(1.2, 1.1, 1.3)] * 2)
    assert mean.high - mean.low > 0.1


def test_the_interval_over_runs_covers_the_truth_in_95_percent():
    rng, hits, n = random.Random(2), 0, 2000
    for _ in range(n):
        speeds = [math.exp(rng.gauss(math.log(1.2), 0.05)) for _ in range(4)]
        mean = geometric_mean([Estimate.exact(s) for s in speeds])
        hits += mean.low <= 1.2 <= mean.high
    assert abs(hits / n - 0.95) < 4 * math.sqrt(0.95 * 0.05 / n)


def test_a_recommendation_counts_its_runs_and_failures():
    rows = [row(speed=1.2), row(speed=1.3), row(speed=1.25), row(outcome="crashed")]
    (found,) = measured(rows)
    assert (found.n, found.failure_share, found.device) == (3, 0.25, "cpu")
    assert found.recipe.key == SDPA and found.memory.value == pytest.approx(1.1)
    assert "Measured 3 times on llama models on cpu" in found.sentence and "1 of 4 attempts failed" in found.sentence


def test_ranked_by_the_pessimistic_end_so_one_lucky_run_does_not_beat_many_good_ones():
    lucky = [row(INT8, speed=1.6, half=0.55)]
    steady = [row(SDPA, speed=s) for s in (1.20, 1.22, 1.21, 1.20, 1.21)]
    assert [r.recipe.key for r in measured(lucky + steady)] == [SDPA, INT8]
    lows = [r.speed.low for r in measured(lucky + steady)]
    assert lows == sorted(lows, reverse=True)


def test_the_order_of_the_rows_does_not_matter():
    rows = [row(SDPA, 1.2), row(SDPA, 1.3), row(INT8, 1.4), row(BOTH, 1.5), row(BOTH, 1.1)]
    first = measured(rows)
    for order in itertools.permutations(rows):
        again = measured(order)
        assert [r.recipe.key for r in again] == [r.recipe.key for r in first]
        assert [r.speed.low for r in again] == pytest.approx([r.speed.low for r in first])


@pytest.mark.parametrize(
    "bad",
    [
        [row(INT8, 2.0, accuracy=0.9)],
        [row(INT8, 0.9)],
        [row(INT8, 1.5), row(INT8, outcome="wrong"), row(INT8, outcome="crashed")],
        [row(INT8, outcome="unsupported")],
        [row(INT8, math.nan)],
        [row("baseline", 1.5)],
        [row(INT8, 2.0, family="convnet")],
    ],
    ids=["inaccurate", "slower", "mostly failing", "never worked", "no number", "the baseline", "other family"],
)
def test_what_is_not_worth_trying_is_not_recommended(bad):
    assert [r.recipe.key for r in measured([row(SDPA, 1.2), *bad])] == [SDPA]


def test_rows_of_other_devices_are_not_mixed_in():
    rows = [row(speed=1.2), row(speed=3.0, device="GPU-1")]
    (found,) = measured(rows)
    assert found.speed.value == pytest.approx(1.2) and found.device == "cpu"


def test_results_of_another_device_are_used_only_alone_and_said():
    (found,) = measured([row(speed=3.0, device="GPU-1")])
    assert found.device == "GPU-1"
    assert "on GPU-1, never on cpu" in found.sentence


def test_without_a_device_each_one_is_told_apart():
    found = measured([row(speed=1.2), row(speed=3.0, device="GPU-1")], device="")
    assert [(r.device, r.n) for r in found] == [("GPU-1", 1), ("cpu", 1)]


def test_another_workload_is_used_only_when_there_is_none_of_this_one_and_said():
    (found,) = measured([row(speed=1.2), row(speed=9.0, workload="decode")])
    assert found.speed.value == pytest.approx(1.2)
    (other,) = measured([row(speed=1.4, workload="decode")])
    assert "not yet on prefill" in other.sentence


def test_without_history_the_documents_table_answers_and_says_it_is_a_claim():
    found = recommend([], "llama")
    assert [r.recipe.strategies[0] for r in found] == list(MODEL_OPTIMIZATIONS["llama"])
    for r in found:
        assert (r.source, r.n, r.device) == ("document", 0, "")
        assert r.speed == Estimate.exact(CLAIMED[r.recipe.strategies[0]][0])
        assert "claims" in r.sentence and "no run here has measured it yet" in r.sentence


def test_a_family_the_document_does_not_know_gets_its_general_figures_and_says_so():
    found = recommend([], "convnet")
    assert {r.recipe.strategies[0] for r in found} == set(STRATEGY_NAMES)
    assert all("does not know convnet models" in r.sentence for r in found)


def test_a_claim_that_was_measured_here_is_not_repeated_as_a_claim():
    found = recommend([row(INT8, outcome="unsupported"), row(SDPA, 1.2)], "llama", device="cpu", workload="prefill")
    assert [(r.source, r.recipe.strategies[0]) for r in found] == [
        ("history", "attention_fusion"),
        ("document", "memory_pooling"),
        ("document", "kernel_fusion"),
    ]


def test_at_most_limit_recommendations_and_measured_ones_first():
    found = recommend([row(SDPA, 1.2)], "llama", limit=2)
    assert [r.source for r in found] == ["history", "document"]
    assert recommend([row(SDPA, 1.2)], "llama", limit=0) == ()


def test_the_documents_table_speaks_of_settings_and_claims_that_exist():
    for strategy in registry.STRATEGIES:
        assert registry.get_setting(strategy.name, NEAREST_SETTING[strategy.name])
        claimed = strategy.claimed
        assert CLAIMED[strategy.name] == (claimed["speed"], claimed["memory"], claimed["accuracy"])
    assert set(CLAIMED) == set(NEAREST_SETTING) == set(STRATEGY_NAMES)
    assert {s for listed in MODEL_OPTIMIZATIONS.values() for s in listed} <= set(STRATEGY_NAMES)
    assert all(recipes.check_recipe({name: setting}) for name, setting in NEAREST_SETTING.items())


def test_a_row_of_the_query_becomes_a_history_row_with_unknown_as_nan():
    query = {"recipe_key": SDPA, "model": "llama", "family": "llama", "workload": "prefill", "device": "cpu"}
    query |= {"outcome": "ok", "speed": 1.2, "speed_low": 1.1, "speed_high": 1.3, "memory": None, "accuracy": 1}
    found = HistoryRow.from_row(query)
    assert found.speed == Estimate(1.2, 1.1, 1.3) and found.is_ok
    assert math.isnan(found.memory.value) and math.isnan(found.accuracy.low) and found.accuracy.value == 1.0


def test_a_recommendation_is_json():
    data = to_json(recommend([row(SDPA, 1.2)], "llama")[0])
    assert data["recipe"] == {"attention_fusion": "sdpa"} and data["speed"]["low"] == pytest.approx(1.18)


def test_the_adaptive_package_needs_the_standard_library_only():
    for path in Path(adaptive.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in {
                    "__future__",
                    "collections",
                    "dataclasses",
                    "json",
                    "math",
                    "pathlib",
                    "statistics",
                    "typing",
                } or (name.startswith(("hybrid_core.adaptive", "hybrid_core.records"))), (path.name, name)
