"""Races are simulated through the rule itself: it may stop when it likes, and its intervals must still hold."""

import doctest
import math

import numpy as np
import pytest
import scipy.signal

from hybrid_core.measurement import stop_rule
from hybrid_core.measurement.statistics import log_interval, median_interval
from hybrid_core.measurement.stop_rule import StopRule, most_useful_round
from hybrid_core.records import Estimate, MeasureLimits

RACES = 500
MONTE_CARLO = 2 * math.sqrt(0.05 * 0.95 / RACES)
LIMITS = MeasureLimits(max_timed_s=math.inf)


def normal(generator: np.random.Generator, blocks: int) -> np.ndarray:
    return generator.standard_normal(blocks)


def heavy_tailed(generator: np.random.Generator, blocks: int) -> np.ndarray:
    return generator.standard_t(3, blocks)


def following(correlation: float):
    def draw(generator: np.random.Generator, blocks: int) -> np.ndarray:
        shocks = math.sqrt(1 - correlation**2) * generator.standard_normal(blocks + 30)
        return scipy.signal.lfilter([1.0], [1.0, -correlation], shocks)[30:]

    return draw


def pairs_of(log_ratios: np.ndarray) -> list[tuple[float, float]]:
    """Two pairs per block; the order of the two calls adds and takes the same, as ABBA blocks make it."""
    logs = np.stack([log_ratios + 0.02, log_ratios - 0.02], axis=1).ravel()
    return [(10.0 * ratio, 10.0) for ratio in np.exp(logs)]


def run_race(noise, seed: int, *, sd: float = 0.03, effect: float = 0.0, limits: MeasureLimits = LIMITS):
    """(pairs taken, low, high, sentence) of a race that the rule ends; its true log ratio is `effect`."""
    generator = np.random.default_rng(seed)
    pairs = pairs_of(effect + sd * noise(generator, limits.max_pairs // 2))
    rule = StopRule(limits, seed=0)
    for count in range(0, limits.max_pairs + 1, 2):
        sentence = rule.reason(pairs[:count], 0.0)
        if sentence:
            low, _, high = log_interval(pairs[:count])
            return count, low, high, sentence
    raise AssertionError("the rule never ended the race")


def share_that_excludes_1(noise, sd: float, races: int = RACES) -> float:
    ends = [run_race(noise, seed, sd=sd)[1:3] for seed in range(races)]
    return float(np.mean([low > 0 or high < 0 for low, high in ends]))


def test_the_doctests_hold():
    assert doctest.testmod(stop_rule).failed == 0


@pytest.mark.parametrize(
    ("noise", "sd"),
    [(normal, 0.02), (normal, 0.03), (heavy_tailed, 0.02), (following(0.1), 0.025)],
    ids=["normal, low noise", "normal", "heavy tails", "each block a little like the one before"],
)
def test_a_a_races_that_stop_by_the_rule_exclude_1_in_at_most_five_percent(noise, sd):
    assert share_that_excludes_1(noise, sd) <= 0.05 + MONTE_CARLO


def test_strongly_correlated_blocks_cost_coverage_but_far_less_than_without_the_widening(monkeypatch):
    widened = share_that_excludes_1(following(0.4), 0.025, 250)
    monkeypatch.setattr("hybrid_core.measurement.statistics.serial_widening", lambda values: 1.0)
    assert widened < 0.14
    assert widened + 0.03 < share_that_excludes_1(following(0.4), 0.025, 250)


def test_stopping_when_the_interval_excludes_1_would_be_wrong_several_times_as_often():
    races = [0.03 * normal(np.random.default_rng(seed), 60) for seed in range(100)]
    excluded = np.zeros(len(races), dtype=bool)
    for count in range(6, 41):
        intervals = [median_interval(blocks[:count]) for blocks in races]
        excluded |= [low > 0 or high < 0 for low, high in intervals]
    assert excluded.mean() > 0.15


def test_a_clear_loser_costs_a_small_part_of_an_undecided_race_and_its_interval_still_holds():
    lost = [run_race(normal, seed, sd=0.1, effect=math.log(0.6)) for seed in range(200)]
    close = [run_race(normal, seed, sd=0.1) for seed in range(20)]
    assert all("slower by more than 10% for certain" in sentence for *_, sentence in lost)
    assert np.mean([count for count, *_ in lost]) < 0.15 * np.mean([count for count, *_ in close])
    assert np.mean([low <= math.log(0.6) <= high for _, low, high, _ in lost]) > 0.93


@pytest.mark.parametrize(("noise", "sd"), [(normal, 0.1), (heavy_tailed, 0.08)], ids=["normal", "heavy tails"])
def test_a_candidate_at_the_margin_is_called_a_clear_loser_in_less_than_one_percent(noise, sd):
    limits = MeasureLimits(max_pairs=60, max_timed_s=math.inf)
    races = [run_race(noise, seed, sd=sd, effect=math.log(0.9), limits=limits) for seed in range(300)]
    assert np.mean(["for certain" in sentence for *_, sentence in races]) < 0.01


def test_the_margin_of_a_clear_loser_can_be_set_and_turned_off():
    lost = pairs_of(math.log(0.8) + 0.05 * normal(np.random.default_rng(0), 20))
    reasons = [StopRule(MeasureLimits(loser_margin=margin), 0).reason(lost, 0.0) for margin in (0.1, 0.3, 1.0)]
    assert [bool(reason) for reason in reasons] == [True, False, False]


def test_the_sentence_names_the_limit_that_was_met_and_the_width_that_was_reached():
    noisy = pairs_of(0.5 * normal(np.random.default_rng(0), 10))
    assert StopRule(MeasureLimits(max_pairs=20), 0).reason(noisy, 0.0).startswith("limit of 20 pairs reached with 20")
    assert StopRule(MeasureLimits(max_timed_s=3), 0).reason(noisy, 3.0).startswith("limit of 3 s reached with 20 pairs")
    assert StopRule(MeasureLimits(), 0).reason(noisy, 0.0) == ""
    quiet = pairs_of(np.zeros(10))
    assert StopRule(MeasureLimits(), 0).reason(quiet, 0.0).startswith("certain enough: the ratio is known to ±0.0%")


def test_no_interval_is_looked_at_before_the_fewest_pairs_and_a_time_limit_waits_for_two_blocks():
    rule = StopRule(MeasureLimits(min_pairs=2), 0)
    assert rule.reason(pairs_of(np.zeros(1)), 100.0) == ""
    assert rule.reason(pairs_of(np.zeros(2)), 100.0) != ""


def spread(value: float, half: float) -> Estimate:
    return Estimate(value, value * math.exp(-half), value * math.exp(half))


def test_another_round_goes_to_the_less_known_of_the_first_and_the_rival_that_may_be_best():
    assert most_useful_round([spread(1.5, 0.1), spread(1.45, 0.05), spread(1.2, 0.05)]) == 0
    assert most_useful_round([spread(1.5, 0.05), spread(1.45, 0.02), spread(1.3, 0.4)]) == 2


def test_no_round_is_useful_when_the_first_is_ahead_or_the_rivals_are_as_good():
    assert most_useful_round([spread(1.5, 0.05), spread(1.2, 0.05)]) is None
    assert most_useful_round([spread(1.5, 0.004), spread(1.499, 0.004)]) is None
    assert most_useful_round([spread(1.5, 0.05)]) is None
    assert most_useful_round([]) is None


def test_rounds_spent_where_they_are_useful_find_the_best_more_often_than_rounds_spent_evenly():
    truth = np.log([1.30, 1.26, 1.1, 1.05, 1.0])
    sd, budget = 0.04, 25

    def crowned(generator: np.random.Generator, adaptive: bool) -> int:
        draws = [[generator.normal(mean, sd) for _ in range(2)] for mean in truth]
        for step in range(budget - 2 * len(truth)):
            estimates = [spread(math.exp(np.mean(found)), 1.96 * sd / math.sqrt(len(found))) for found in draws]
            chosen = most_useful_round(estimates) if adaptive else step % len(truth)
            if chosen is None:
                break
            draws[chosen].append(generator.normal(truth[chosen], sd))
        return int(np.argmax([np.mean(found) for found in draws]))

    best = [[crowned(np.random.default_rng(seed), adaptive) == 0 for seed in range(400)] for adaptive in (True, False)]
    assert np.mean(best[0]) > np.mean(best[1]) + 0.02
