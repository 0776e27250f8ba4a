"""The intervals cover the truth as often as they say, and agree with scipy where scipy computes the same thing."""

import doctest
import itertools

import numpy as np
import pytest
import scipy.signal
import scipy.stats

from hybrid_core.errors import InvalidInput
from hybrid_core.measurement import statistics

SIMULATIONS = 1000


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


def follow(shocks: np.ndarray, correlation: float) -> np.ndarray:
    """A first-order autoregression with the variance of its shocks."""
    return scipy.signal.lfilter([np.sqrt(1 - correlation**2)], [1.0, -correlation], shocks)


@pytest.mark.parametrize("tails", [False, True], ids=["normal", "heavy tails"])
@pytest.mark.parametrize("blocks", [6, 12, 30, 60])
def test_the_interval_of_the_median_covers_the_truth_in_95_percent(blocks, tails):
    def hit(generator):
        errors = generator.standard_t(2, blocks) if tails else generator.normal(0, 1, blocks)
        low, high = statistics.median_interval(0.3 + 0.05 * errors)
        return low <= 0.3 <= high

    # it may not fall short; a little more than asked for is what estimating the correlation of neighbours costs
    assert coverage(hit) == pytest.approx(0.96, abs=0.02)


def test_blocks_that_resemble_their_neighbours_keep_the_coverage():
    def hit(generator):
        low, high = statistics.median_interval(follow(generator.normal(0, 1, 50), 0.3)[20:])
        return low <= 0 <= high

    assert coverage(hit) == pytest.approx(0.95, abs=0.02)


def test_the_widening_for_neighbours_is_that_of_the_mean_of_an_autoregression():
    values = follow(np.random.default_rng(0).normal(0, 1, 20_000), 0.5)
    assert statistics.serial_widening(values) == pytest.approx(np.sqrt(1.5 / 0.5), rel=0.05)
    assert statistics.serial_widening(-values[::-1]) == pytest.approx(statistics.serial_widening(values), rel=1e-3)
    assert statistics.serial_widening(np.full(12, 0.1)) == 1.0


def test_a_race_asks_for_more_than_a_plain_median_because_it_may_stop_when_it_likes():
    pairs = draw_pairs(np.random.default_rng(1), 60, 1.3, 0.05)
    plain_low, plain_high = statistics.median_interval(statistics.block_means(statistics.log_ratios(pairs)))
    low, middle, high = statistics.log_interval(pairs)
    assert low < plain_low < middle < plain_high < high


def test_the_plain_bootstrap_covers_less_on_few_blocks_which_is_why_ours_is_smoothed():
    def hits(generator):
        values = generator.normal(0, 0.05, 7)
        medians = np.median(values[generator.integers(0, 7, (1000, 7))], axis=1)
        low, high = np.quantile(medians, (0.025, 0.975))
        smooth_low, smooth_high = statistics.median_interval(values)
        return low <= 0 <= high, smooth_low <= 0 <= smooth_high

    plain, smooth = np.mean([hits(np.random.default_rng(seed)) for seed in range(SIMULATIONS)], axis=0)
    assert plain < 0.90 < smooth


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


def test_holm_agrees_with_a_table_worked_by_hand():
    # sorted 0.001 x 5, 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.2 x 1, each at least the one before
    expected = (0.06, 0.005, 0.2, 0.04, 0.06)
    assert statistics.holm([0.03, 0.001, 0.2, 0.01, 0.02]) == pytest.approx(expected)
    assert statistics.holm([]) == ()
    assert statistics.holm([0.4, 0.4, 0.9]) == (1.0, 1.0, 1.0)


def test_holm_equals_the_closed_test_by_brute_force():
    """A hypothesis falls when every intersection that contains it falls by Bonferroni: what Holm's steps shorten."""
    generator = np.random.default_rng(3)
    for _ in range(50):
        values = generator.random(4) ** 3
        for index, adjusted in enumerate(statistics.holm(values.tolist())):
            subsets = [s for size in range(1, 5) for s in itertools.combinations(range(4), size) if index in s]
            closed = max(min(1.0, len(subset) * min(values[list(subset)])) for subset in subsets)
            assert adjusted == pytest.approx(closed)


def test_holm_keeps_one_false_difference_among_all_finalists_at_five_percent():
    generator = np.random.default_rng(4)
    shared = generator.normal(size=(4000, 1))
    logs = np.sqrt(0.5) * shared + np.sqrt(0.5) * generator.normal(size=(4000, 4))  # finalists share one machine
    logs[:, 0] += 3.0  # one recipe is really faster
    values = 2 * scipy.stats.norm.sf(np.abs(logs))
    false_alarms = [min(statistics.holm(row.tolist())[1:]) < 0.05 for row in values]
    assert np.mean(false_alarms) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 4000)
    assert np.mean(np.min(values[:, 1:], axis=1) < 0.05) > 0.08  # without it
