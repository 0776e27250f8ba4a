"""The intervals cover the truth as often as they say, and agree with scipy where scipy computes the same thing."""

import doctest

import numpy as np
import pytest
import scipy.stats

from hybrid_core.errors import InvalidInput
from hybrid_core.measurement import statistics

SIMULATIONS = 400


def draw_pairs(generator, pairs: int, true_ratio: float, noise: float, second_slower: float = 0.0, tails: bool = False):
    """Pairs in ABBA order whose log ratio is known; whoever runs second in a pair loses `second_slower`."""
    errors = generator.standard_t(2, pairs) if tails else generator.normal(0, 1, pairs)
    order = np.where(np.arange(pairs) % 2 == 0, -second_slower, second_slower)
    common = np.exp(generator.normal(0, 0.2, pairs))
    logs = np.log(true_ratio) + noise * errors + order
    return [(10 * c * r, 10 * c) for c, r in zip(common, np.exp(logs), strict=True)]


def coverage(trial, simulations: int = SIMULATIONS) -> float:
    return float(np.mean([trial(np.random.default_rng(seed)) for seed in range(simulations)]))


def test_the_doctests_hold():
    assert doctest.testmod(statistics).failed == 0


@pytest.mark.parametrize(("pairs", "tails"), [(12, False), (24, False), (24, True), (60, False), (120, True)])
def test_the_interval_of_the_ratio_covers_the_truth_in_95_percent(pairs, tails):
    def hit(generator):
        estimate = statistics.ratio_of_pairs(draw_pairs(generator, pairs, 1.3, 0.05, 0.03, tails))
        return estimate.low <= 1.3 <= estimate.high

    assert coverage(hit) == pytest.approx(0.95, abs=0.03)


def test_stopping_at_the_first_narrow_interval_keeps_the_coverage_above_90_percent():
    def hit(generator):
        pairs, count = draw_pairs(generator, 200, 0.9, 0.06), 12
        while statistics.half_width(pairs[:count]) > 0.02 and count < 200:
            count = min(200, int(count * 1.25) // 2 * 2)
        estimate = statistics.ratio_of_pairs(pairs[:count])
        return estimate.low <= 0.9 <= estimate.high

    assert coverage(hit, 200) > 0.90


def test_the_plain_bootstrap_covers_less_on_few_blocks_which_is_why_ours_is_smoothed():
    def hits(generator):
        values = generator.normal(0, 0.05, 7)
        medians = np.median(values[generator.integers(0, 7, (1000, 7))], axis=1)
        low, high = np.quantile(medians, (0.025, 0.975))
        smooth_low, smooth_high = statistics.median_interval(values)
        return low <= 0 <= high, smooth_low <= 0 <= smooth_high

    plain, smooth = np.mean([hits(np.random.default_rng(seed)) for seed in range(SIMULATIONS)], axis=0)
    assert plain < 0.90 < smooth


def test_the_interval_of_a_ratio_of_means_covers_the_truth_in_95_percent():
    def hit(generator):
        right = generator.beta(8, 12, 64)
        candidate = np.clip(0.9 * right + generator.normal(0, 0.02, 64), 0, 1)
        estimate = statistics.ratio_of_means(candidate, right)
        return estimate.low <= 0.9 <= estimate.high

    assert coverage(hit) == pytest.approx(0.95, abs=0.03)


def test_the_interval_of_a_ratio_of_means_agrees_with_scipy():
    generator = np.random.default_rng(5)
    baseline = generator.uniform(0.2, 0.9, 80)
    candidate = baseline * generator.uniform(0.8, 1.05, 80)
    reference = scipy.stats.bootstrap(
        (candidate, baseline),
        lambda a, b, axis=-1: a.mean(axis=axis) / b.mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    estimate = statistics.ratio_of_means(candidate, baseline)
    width = reference.high - reference.low
    assert estimate.low == pytest.approx(reference.low, abs=0.1 * width)
    assert estimate.high == pytest.approx(reference.high, abs=0.1 * width)


def test_the_interval_of_the_median_agrees_with_scipy_on_many_blocks():
    values = np.random.default_rng(6).normal(0.1, 0.05, 300)
    reference = scipy.stats.bootstrap(
        (values,), np.median, method="percentile", n_resamples=5000, rng=np.random.default_rng(1)
    ).confidence_interval
    low, high = statistics.median_interval(values)
    width = reference.high - reference.low
    assert low == pytest.approx(reference.low, abs=0.2 * width)
    assert high == pytest.approx(reference.high, abs=0.2 * width)


def test_whoever_runs_second_being_slower_does_not_move_the_ratio():
    pairs = [(10.0, 10.0 * 1.3), (10.0 * 1.3, 10.0)] * 10
    assert statistics.ratio_of_pairs(pairs).value == pytest.approx(1.0, abs=1e-12)


def test_an_outlier_moves_the_median_ratio_by_no_more_than_one_rank():
    pairs = [(20.0, 10.0)] * 20 + [(20.0, 900.0), (20.0, 10.0)]
    assert statistics.ratio_of_pairs(pairs).value == pytest.approx(2.0)


def test_the_same_seed_gives_the_same_interval():
    pairs = draw_pairs(np.random.default_rng(0), 30, 1.1, 0.1)
    assert statistics.ratio_of_pairs(pairs, 3) == statistics.ratio_of_pairs(pairs, 3)
    assert statistics.ratio_of_pairs(pairs, 3) != statistics.ratio_of_pairs(pairs, 4)


def test_one_block_says_that_nothing_is_known():
    estimate = statistics.ratio_of_pairs([(2.0, 1.0), (2.0, 1.0)])
    assert (estimate.low, estimate.high) == (0.0, float("inf"))


@pytest.mark.parametrize("pairs", [[(0.0, 1.0), (1.0, 1.0)], [(1.0, float("nan")), (1.0, 1.0)], [(-1.0, 1.0)] * 2])
def test_times_that_are_no_durations_are_refused(pairs):
    with pytest.raises(InvalidInput, match="positive"):
        statistics.ratio_of_pairs(pairs)


def test_an_odd_number_of_pairs_is_refused():
    with pytest.raises(InvalidInput, match="whole blocks"):
        statistics.ratio_of_pairs([(1.0, 1.0)] * 3)


def test_a_baseline_of_zero_quality_is_refused():
    with pytest.raises(InvalidInput, match="positive"):
        statistics.ratio_of_means([0.1, 0.2], [0.0, 0.0])
