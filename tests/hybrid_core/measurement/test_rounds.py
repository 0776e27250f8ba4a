"""Numbers over processes: simulated repetitions land in the interval, and t and F agree with scipy."""

import doctest
import math
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats

from hybrid_core.errors import InvalidInput
from hybrid_core.fitness import SMALLEST_NOISE_FLOOR, judge
from hybrid_core.measurement import rounds, student
from hybrid_core.measurement.rounds import Spread, combine_rounds, log_half_width, noise_floor, spread_of, widen
from hybrid_core.measurement.stop_rule import most_useful_round
from hybrid_core.records import Estimate, Verdict

NORMAL = NormalDist().inv_cdf(0.975)
INSIDE = 0.01  # standard error inside one process: an interval of ±2 %, what the stop rule asks for
SIMULATIONS = 1500


def estimate(log_ratio: float, error: float = INSIDE) -> Estimate:
    return Estimate(math.exp(log_ratio), math.exp(log_ratio - NORMAL * error), math.exp(log_ratio + NORMAL * error))


class Machine:
    """A device on which a recipe's log ratio differs by `tau` between processes; the true one is 0."""

    def __init__(self, seed: int, tau: float, *, tails: float = math.inf, unequal: float = 0.0):
        self.generator, self.tau, self.tails, self.unequal = np.random.default_rng(seed), tau, tails, unequal

    def logs(self, count: int, tau: float) -> list[float]:
        shocks = self.generator.standard_normal(count)
        if math.isfinite(self.tails):
            shocks = self.generator.standard_t(self.tails, count) * math.sqrt((self.tails - 2) / self.tails)
        return (tau * shocks + INSIDE * self.generator.standard_normal(count)).tolist()

    def recipe_tau(self) -> float:
        return self.tau * math.exp(self.unequal * self.generator.standard_normal())

    def known(self, recipes: int) -> Spread | None:
        return spread_of([self.logs(3, self.recipe_tau()) for _ in range(recipes)], errors=[INSIDE] * recipes)

    def two_measurements(self, count: int, recipes: int) -> tuple[Estimate, Estimate]:
        """The same recipe measured twice, each time in `count` processes, on a device known from `recipes` others."""
        known, tau = self.known(recipes), self.recipe_tau()
        one, other = ([estimate(x) for x in self.logs(count, tau)] for _ in range(2))
        return combine_rounds(one, known), combine_rounds(other, known)


def share_that_lands(machine: Machine, count: int, recipes: int, simulations: int = SIMULATIONS) -> float:
    results = [machine.two_measurements(count, recipes) for _ in range(simulations)]
    return float(np.mean([first.low <= second.value <= first.high for first, second in results]))


@pytest.mark.parametrize("module", [rounds, student])
def test_the_doctests_hold(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 7.5, 30, 1000])
def test_t_agrees_with_scipy(degrees):
    for share in (0.9, 0.95, 0.975, 0.9875, 0.9999):
        assert student.t_quantile(share, degrees) == pytest.approx(scipy.stats.t.ppf(share, degrees), rel=1e-9)
    for value in (0.0, 0.1, 1.0, 3.0, 100.0):
        assert student.t_tail(value, degrees) == pytest.approx(2 * scipy.stats.t.sf(value, degrees), rel=1e-9)


def test_f_agrees_with_scipy():
    for above in (1, 2, 4):
        for below in (1, 3, 8, 50):
            for value in (0.01, 1.0, 4.0, 500.0):
                expected = scipy.stats.f.sf(value, above, below)
                assert student.f_tail(value, above, below) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("tau", "count", "recipes"),
    [(0.03, 3, 0), (0.03, 1, 2), (0.2, 2, 0), (0.2, 5, 0), (0.2, 2, 2), (0.2, 3, 5), (0.05, 5, 5)],
)
def test_the_same_measurement_done_again_lands_inside_with_95_percent(tau, count, recipes):
    assert share_that_lands(Machine(1, tau), count, recipes) == pytest.approx(0.955, abs=0.02)


@pytest.mark.parametrize(("count", "recipes"), [(1, 2), (3, 0), (3, 5)])
def test_where_processes_hardly_differ_the_interval_inside_them_keeps_it_at_95_percent_or_more(count, recipes):
    assert share_that_lands(Machine(2, 0.001), count, recipes) > 0.96


@pytest.mark.parametrize(("count", "recipes"), [(3, 0), (1, 5), (3, 5)])
def test_heavy_tails_between_processes_cost_at_most_three_points(count, recipes):
    assert share_that_lands(Machine(3, 0.05, tails=3), count, recipes) > 0.92


@pytest.mark.parametrize("count", [1, 3])
def test_recipes_that_differ_in_their_spread_by_half_cost_at_most_three_points(count):
    assert share_that_lands(Machine(4, 0.05, unequal=0.4), count, recipes=5) > 0.92


def test_an_a_a_comparison_is_above_the_noise_floor_in_at_most_two_and_a_half_percent():
    for count in (1, 3):
        machine, above = Machine(5, 0.02), []
        for _ in range(SIMULATIONS):
            known = machine.known(5)
            values = combine_rounds([estimate(x) for x in machine.logs(count, 0.02)], known)
            above.append(abs(values.value - 1) > noise_floor(known, count))
        assert np.mean(above) <= 0.025


def test_a_ratio_that_differs_between_processes_is_not_published_as_if_it_did_not():
    two = [estimate(math.log(3.25)), estimate(math.log(1.78))]
    alone, together = combine_rounds(two, None), combine_rounds(two, Spread(0.03, 30))
    assert alone.value == pytest.approx(math.sqrt(3.25 * 1.78))
    assert alone.low < 1.0 < 3.25 < alone.high
    assert together.low < 1.0 < 3.25 < together.high  # contradicted, so it counts for next to nothing
    assert log_half_width(together) < log_half_width(alone) / 2


@pytest.mark.parametrize("count", [2, 3])
def test_a_recipe_that_contradicts_what_is_known_still_lands_inside_with_95_percent(count):
    """One recipe in five is five times as unsteady; of those that show it nearly all repetitions must land, too."""
    rng, known, landed = np.random.default_rng(5), Spread(0.03, 6), []
    for _ in range(4000):
        tau = 0.15 if rng.random() < 0.2 else 0.03
        one, other = ([estimate(tau * x) for x in rng.standard_normal(count)] for _ in range(2))
        own = float(np.var([math.log(x.value) for x in one], ddof=1))
        if rounds._contradict(own, count - 1, 0.03**2 + INSIDE**2, 6):
            published, again = combine_rounds(one, known), combine_rounds(other, known)
            landed.append(published.low <= again.value <= published.high)
    assert len(landed) > 300 and 0.93 < np.mean(landed) < 0.995


def test_rounds_that_agree_by_chance_are_not_more_certain_than_the_processes_themselves():
    same = [estimate(0.1)] * 3
    half = log_half_width(combine_rounds(same, None))
    assert half == pytest.approx(NORMAL * INSIDE * math.sqrt(2 / 3))


def test_a_known_spread_narrows_what_two_rounds_can_say_alone():
    two = [estimate(0.10), estimate(0.12)]
    assert log_half_width(combine_rounds(two, Spread(0.015, 20))) < log_half_width(combine_rounds(two, None)) / 3


def test_a_spread_whose_inner_part_is_known_does_not_count_that_part_twice():
    counted_twice, counted_once = Spread(0.02, 8), Spread(0.02, 8, within=INSIDE)
    single = widen(estimate(0.0), counted_once)
    assert log_half_width(single) < log_half_width(widen(estimate(0.0), counted_twice))
    assert log_half_width(single) == pytest.approx(scipy.stats.t.ppf(0.975, 8) * 0.02 * math.sqrt(2))


def test_one_process_on_an_unknown_device_keeps_its_own_interval():
    assert widen(estimate(0.3), None) == estimate(0.3)
    assert combine_rounds([estimate(0.3)], None) == estimate(0.3)


def test_a_process_that_knows_nothing_makes_the_whole_know_nothing():
    combined = combine_rounds([estimate(0.1), Estimate(1.1, 0.0, math.inf)], Spread(0.02, 8))
    assert (combined.low, combined.high) == (0.0, math.inf)


def test_exact_rounds_that_agree_stay_exact():
    assert combine_rounds([Estimate.exact(2.0)] * 3, None) == Estimate.exact(2.0)
    assert combine_rounds([Estimate.exact(2.0)] * 3, Spread(0.0, 4)) == Estimate.exact(2.0)


def test_an_interval_that_reaches_far_to_one_side_still_does_when_it_is_widened():
    lopsided = Estimate(0.907, 0.888, 1.006)  # an A/A race on a busy core: blocks of two kinds, the median in one
    for together in (widen(lopsided, Spread(0.005, 8)), combine_rounds([lopsided] * 2, None)):
        assert together.low <= lopsided.low and together.high >= lopsided.high
    assert rounds.p_value([lopsided], Spread(0.005, 8)) > 0.05


def test_no_round_is_refused():
    with pytest.raises(InvalidInput, match="at least one process"):
        combine_rounds([], None)


def test_the_spread_is_pooled_over_recipes_and_a_a_counts_around_zero():
    generator = np.random.default_rng(0)
    groups = [(level + 0.05 * generator.standard_normal(3)).tolist() for level in (0.0, 0.5, -0.3)] + [[0.4]]
    null = (0.05 * generator.standard_normal(4)).tolist()
    squares = sum(np.var(group, ddof=1) * 2 for group in groups[:3]) + sum(x * x for x in null)
    found = spread_of(groups, null)
    assert found is not None
    assert found.degrees == 3 * 2 + 4
    assert found.sd == pytest.approx(math.sqrt(squares / 10))
    assert spread_of([[0.1], []]) is None


def test_one_race_with_a_wide_interval_does_not_explain_away_how_far_the_others_differ():
    logs, errors = [0.03, -0.03, 0.04, -0.02, 0.01], [0.01, 0.01, 0.01, 0.3, math.inf]
    found = spread_of([], logs, errors)
    assert found is not None and found.within == 0.01 < found.sd


@pytest.mark.parametrize("recipes", [0, 5])
def test_a_final_that_adds_rounds_while_it_is_undecided_calls_an_untouched_model_faster_in_at_most_two_percent(recipes):
    machine, faster = Machine(8, 0.03), 0
    for _ in range(SIMULATIONS):
        known = machine.known(recipes)
        found = [estimate(x) for x in machine.logs(3, machine.tau)]
        while len(found) < 5 and most_useful_round([combine_rounds(found, known), Estimate.exact(1.0)]) == 0:
            found += [estimate(x) for x in machine.logs(1, machine.tau)]
        together = combine_rounds(found, known)
        faster += judge(together, max(SMALLEST_NOISE_FLOOR, noise_floor(known, len(found)))) is Verdict.BETTER
    assert faster / SIMULATIONS <= 0.02


def test_p_values_of_a_recipe_that_changes_nothing_are_below_five_percent_in_five_percent():
    machine, low = Machine(6, 0.05), []
    for _ in range(SIMULATIONS):
        low.append(rounds.p_value([estimate(x) for x in machine.logs(3, 0.05)], machine.known(3)) < 0.05)
    assert np.mean(low) == pytest.approx(0.05, abs=0.015)


def test_the_p_value_of_one_process_on_an_unknown_device_is_that_of_its_own_interval():
    borderline = Estimate(math.exp(0.02), 1.0, math.exp(0.04))
    assert rounds.p_value([borderline], None) == pytest.approx(0.05)
    assert rounds.p_value([borderline], Spread(0.02, 8)) > 0.3


def test_the_p_value_of_equal_errors_is_that_of_students_t():
    logs = [0.05, 0.11, 0.08]
    expected = scipy.stats.ttest_1samp(logs, 0.0).pvalue
    assert rounds.p_value([estimate(x, 1e-6) for x in logs], None) == pytest.approx(expected, rel=1e-6)


def test_the_detectable_effect_is_called_faster_in_four_of_five_measurements():
    half = 0.03
    true_effect = math.log1p(rounds.detectable(half))
    seen = np.random.default_rng(7).normal(true_effect, half / NORMAL, 20_000)
    assert np.mean(seen - half > 0) == pytest.approx(0.8, abs=0.01)
