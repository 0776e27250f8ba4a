"""The gate: its figures against other libraries and listing, its verdict on models that are alike and that are not."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from hybrid_core.errors import InvalidInput
from hybrid_core.rl.gate import LEAST_ROWS, LeftOut, expected_best, judge, lost, rank_correlation


def models(seed: int, count: int = 5, rows: int = 40, likeness: float = 0.9, failing: float = 0.0) -> list[LeftOut]:
    """Values that share a part; each model is predicted by the shared part plus noise of its own."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=rows)
    found = []
    for number in range(count):
        own = likeness * common + math.sqrt(1 - likeness**2) * rng.normal(size=rows)
        measured = [math.nan if rng.random() < failing else 0.2 * value for value in own]
        found.append(LeftOut(f"m{number}", (0.2 * common).tolist(), measured))
    return found


def test_the_rank_correlation_is_spearmans_with_ties():
    rng = np.random.default_rng(1)
    for _ in range(20):
        one, other = rng.integers(0, 5, 12).astype(float), rng.integers(0, 5, 12).astype(float)
        assert rank_correlation(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)


def test_a_constant_side_or_a_single_value_has_no_correlation():
    assert math.isnan(rank_correlation(np.ones(5), np.arange(5.0)))
    assert math.isnan(rank_correlation(np.ones(1), np.ones(1)))


@pytest.mark.parametrize("picks", [1, 2, 3, 6, 9])
def test_the_expected_best_of_random_picks_is_the_mean_over_all_subsets(picks):
    values = [0.3, -1.0, 2.0, 0.3, 0.7, 1.1]
    subsets = list(itertools.combinations(values, min(picks, 6)))
    assert expected_best(values, picks) == pytest.approx(sum(map(max, subsets)) / len(subsets))


def test_regret_counts_from_the_best_and_a_failed_pick_gains_nothing():
    one = LeftOut("m", [5.0, 4.0, 3.0, 2.0], [math.nan, 0.1, -0.5, 0.4])
    assert one.regret(1) == pytest.approx(0.4)
    assert one.regret(2) == pytest.approx(0.3)
    assert one.regret(4) == 0.0
    gains = [0.0, 0.1, 0.0, 0.4]
    assert one.random_regret(2) == pytest.approx(0.4 - np.mean([max(p) for p in itertools.combinations(gains, 2)]))


def test_where_nothing_gains_the_untouched_model_is_the_best_and_nothing_is_missed():
    assert LeftOut("m", [1.0, 2.0], [-0.1, -0.2]).regret() == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_models_that_are_alike_pass_and_models_that_are_not_fail(seed):
    alike, unlike = judge(models(seed)), judge(models(seed, likeness=0.0))
    assert (alike.case, alike.passed) == ("passed", True)
    assert (unlike.case, unlike.passed) == ("failed", False)
    assert "portfolio and local search" in unlike.sentence
    assert alike.figures["rank_correlation"] > 0.5 > unlike.figures["rank_correlation"]
    assert alike.figures["regret"] < alike.figures["random_regret"]


def test_predictions_turned_upside_down_fail():
    turned = [LeftOut(m.name, [-p for p in m.predicted], m.measured) for m in models(0)]
    assert judge(turned).passed is False


def test_failures_on_the_model_left_out_are_no_values_to_rank():
    found = judge(models(2, failing=0.3))
    works = [np.isfinite(m.measured) for m in found.models]
    expected = [
        stats.spearmanr(np.array(m.predicted)[w], np.array(m.measured)[w]).statistic
        for m, w in zip(found.models, works, strict=True)
    ]
    assert found.figures["rank_correlation"] == pytest.approx(np.median(expected))


def test_no_history_and_too_little_of_it_are_told_apart_and_judge_nothing():
    none, few = judge([]), judge(models(0, count=2))
    short = judge(models(0, rows=LEAST_ROWS - 1))
    assert [gate.case for gate in (none, few, short)] == ["none", "too_little", "too_little"]
    assert [gate.passed for gate in (none, few, short)] == [None, None, None]
    assert "Only 2 other models" in few.sentence and "No other model" in short.sentence


def test_the_verdict_is_json_with_a_row_per_model():
    told = judge(models(0)).to_json()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert [row["model"] for row in told["models"]] == ["m0", "m1", "m2", "m3", "m4"]
    assert told["passed"] is True and told["picks"] == 3


def test_a_regret_in_logarithms_is_told_as_a_share():
    assert lost(math.log(1 / 0.8)) == "20.0 %"


def test_a_prediction_for_every_measurement_is_wanted():
    with pytest.raises(InvalidInput, match="1 predictions for 2 measurements"):
        LeftOut("m", [1.0], [1.0, 2.0])
