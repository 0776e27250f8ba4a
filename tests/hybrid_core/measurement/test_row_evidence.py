"""What rows prove: closed forms of Clopper and Pearson, and simulated tests of the rule that stops early."""

import functools

import numpy as np
import pytest
import torch
from scipy import stats

from hybrid_core.measurement import row_evidence
from hybrid_core.measurement.quality import TURNED_BY_ROUNDING
from hybrid_core.measurement.row_evidence import (
    EARLY_TAIL,
    FIRST_LOOK,
    LAST_TAIL,
    mean_of_rows,
    one_prediction,
    ratio_of_rows,
    rows_to_show,
    verdict,
)

BOUND = 0.98


@pytest.mark.parametrize(("lost", "rows"), [(0, 64), (1, 64), (5, 64), (0, 300), (3, 300)])
def test_rows_right_or_wrong_as_a_whole_give_the_interval_of_clopper_and_pearson(lost, rows):
    candidate = [0.0] * lost + [1.0] * (rows - lost)
    ratio, mean = ratio_of_rows(candidate, [1.0] * rows, loss=1.0), mean_of_rows(candidate, loss=1.0)
    exact = stats.binomtest(rows - lost, rows).proportion_ci(0.95, method="exact")
    assert ratio.low == pytest.approx(exact.low, abs=0.004)
    assert (mean.low, mean.high) == pytest.approx((exact.low, exact.high), abs=0.004)


def test_the_pessimistic_end_is_never_one_and_falls_with_what_an_unseen_row_may_lose():
    lows = [ratio_of_rows([0.7] * 64, [0.7] * 64, loss).low for loss in (1e-4, 0.01, 0.1, 0.7)]
    assert 1.0 > lows[0] > lows[1] > lows[2] > lows[3] > 0.9


def test_as_many_equal_rows_as_it_says_show_the_bound_and_fewer_do_not():
    needed = rows_to_show(1.0, 1.0, BOUND)
    assert 1 - LAST_TAIL ** (1 / needed) <= 1 - BOUND < 1 - LAST_TAIL ** (1 / (needed - 1))


@pytest.mark.parametrize(("k", "deff"), [(1, 1), (16, 1), (64, 1), (64, 4)])
def test_an_independent_prediction_is_found_from_how_much_rows_scatter(k, deff):
    groups = k // deff
    rows = np.random.default_rng(1).binomial(groups, 0.7, 4000) / groups
    assert 1 / one_prediction(rows) == pytest.approx(groups, rel=0.1)


def binary(random, kept, rows):
    return (random.random(rows) < kept).astype(float), np.ones(rows)


def weak_baseline(random, kept, rows):
    baseline = (random.random(rows) < 0.85).astype(float)
    return np.where(random.random(rows) < kept, baseline, 0.0), baseline


def windows(random, kept, rows):
    """256 predictions a window, windows of unequal difficulty and unequal damage, answers that turn both ways."""
    difficulty, damage = random.beta(21, 9, rows), random.gamma(2.0, 0.5, rows)
    baseline = random.binomial(256, difficulty)
    turned = 0.02
    lost = random.binomial(baseline, np.minimum(1, (turned + 1 - kept) * damage))
    gained = random.binomial(256 - baseline, np.minimum(1, turned * 0.7 / 0.3 * damage))
    return (baseline - lost + gained) / 256, baseline / 256


def decide(candidate, baseline):
    """The pass of `measure_quality` on rows that are already there."""
    count = FIRST_LOOK
    while count < len(baseline):
        found = ratio_of_rows(candidate[:count], baseline[:count], one_prediction(baseline[:count]), 0, EARLY_TAIL)
        if verdict(found, BOUND):
            return verdict(found, BOUND), count
        count *= 2
    return verdict(ratio_of_rows(candidate, baseline, one_prediction(baseline)), BOUND), len(baseline)


@pytest.fixture
def remembered_weights(monkeypatch):
    monkeypatch.setattr(row_evidence, "row_weights", functools.lru_cache(row_evidence.row_weights))


@pytest.mark.parametrize("rows_like", [binary, weak_baseline, windows])
@pytest.mark.parametrize(("kept", "false"), [(0.9799, "above"), (0.98, "below")])
def test_looking_early_keeps_false_decisions_below_five_percent_at_the_bound_itself(
    rows_like, kept, false, remembered_weights
):
    random, runs = np.random.default_rng(5), 150
    decided = [decide(*rows_like(random, kept, 256))[0] for _ in range(runs)]
    # 13 of 150 or more would happen in 2 % of tests if the true rate were 5 %.
    assert decided.count(false) <= 12


@pytest.mark.parametrize(("kept", "right", "most"), [(0.9, "below", 40), (0.999, "above", 64)])
def test_clear_windows_are_decided_on_few_rows(kept, right, most, remembered_weights):
    random = np.random.default_rng(6)
    decided = [decide(*windows(random, kept, 256)) for _ in range(60)]
    assert sum(verdict == right for verdict, _ in decided) >= 57
    assert np.mean([rows for _, rows in decided]) <= most


@pytest.mark.parametrize("classes", [2, 10, 256])
def test_rounding_turns_no_more_answers_than_is_allowed_for(classes):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(12_000, classes, generator=generator)
    error = 0.02
    moved = logits + error * torch.randn(logits.shape, generator=generator)
    turned = float((logits.argmax(-1) != moved.argmax(-1)).double().mean())
    assert 0 < turned <= TURNED_BY_ROUNDING * error
