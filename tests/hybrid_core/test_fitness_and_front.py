"""Fitness, verdicts, bounds and the Pareto front against closed forms, simulation and brute force."""

import dataclasses
import math
import random

import pytest

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.fitness import (
    active_weights,
    baseline_fitness,
    dominates,
    fitness_of,
    infeasible_reason,
    judge,
    noise_floor_of,
    pareto_front,
    unfit_parent_reason,
    verdicts_of,
)
from hybrid_core.records import Estimate, Measurement, Outcome, Purpose, Quality, Recipe, Trial, Verdict

DEFAULT = HybridOptimizationConfig()
CANDIDATE = Recipe.from_dict({"quantization": "int8_dynamic"})


def measured(speed=(1.0, 1.0, 1.0), memory=(1.0, 1.0, 1.0), accuracy=(1.0, 1.0, 1.0)):
    one = Estimate.exact(1.0)
    return Measurement(
        speed_improvement=Estimate(*speed),
        memory_efficiency=Estimate(*memory),
        accuracy_preservation=Estimate(*accuracy),
        latency_ms=one,
        baseline_latency_ms=one,
        peak_bytes=1,
        baseline_peak_bytes=1,
        weight_bytes=1,
        baseline_weight_bytes=1,
        resident_bytes=1,
        first_call_s=0.0,
        baseline_first_call_s=0.0,
        break_even_calls=None,
        quality=Quality("agreement", 1, one, one),
        max_abs_error=0.0,
        stop_reason="",
        pairs_ms=(),
        changes=(),
        warnings=(),
        environment={},
    )


def trial(measurement, recipe=CANDIDATE, outcome=Outcome.OK, reason=""):
    return Trial("t", "r", recipe, Purpose.SEARCH, outcome, reason=reason, measurement=measurement)


@pytest.mark.parametrize("weights", [{"speed": 0.4, "memory": 0.3, "accuracy": 0.3}, {"speed": 2}, {"memory": 1e-9}])
@pytest.mark.parametrize("multi", [True, False])
def test_the_untouched_model_scores_the_sum_of_the_weights(weights, multi):
    options = HybridOptimizationConfig(objective_weights=weights, enable_multi_objective_optimization=multi)
    total = sum(weights.values())
    assert baseline_fitness(options) == pytest.approx(total)
    assert fitness_of(measured(), options) == Estimate(*[pytest.approx(total)] * 3)


def test_the_documented_figures_give_the_documented_sum():
    fitness = fitness_of(measured((1.5, 1.4, 1.6), (2.0, 2.0, 2.0), (0.97, 0.96, 0.98)), DEFAULT)
    assert fitness.value == pytest.approx(0.4 * 1.5 + 0.3 * 2.0 + 0.3 * 0.97)
    assert fitness.low == pytest.approx(0.4 * 1.4 + 0.3 * 2.0 + 0.3 * 0.96)
    assert fitness.high == pytest.approx(0.4 * 1.6 + 0.3 * 2.0 + 0.3 * 0.98)


def test_without_multi_objective_memory_and_accuracy_do_not_count():
    options = HybridOptimizationConfig(enable_multi_objective_optimization=False)
    fitness = fitness_of(measured((1.5, 1.4, 1.6), (9.0, 9.0, 9.0), (0.5, 0.5, 0.5)), options)
    assert fitness.value == pytest.approx(1.5)
    assert active_weights(options)["memory"] == 0


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.5, 1.0])
def test_the_interval_of_the_sum_covers_at_least_95_percent_at_any_correlation(correlation):
    rng, sd, hits, n = random.Random(7), 0.02, 0, 4000
    for _ in range(n):
        a, b = rng.gauss(0, 1), rng.gauss(0, 1)
        errors = a * sd, (correlation * a + math.sqrt(1 - correlation**2) * b) * sd
        speed, memory = (1.2 + errors[0], 1.4 + errors[1])
        half = 1.959964 * sd
        fitness = fitness_of(
            measured((speed, speed - half, speed + half), (memory, memory - half, memory + half)), DEFAULT
        )
        hits += fitness.low <= 0.4 * 1.2 + 0.3 * 1.4 + 0.3 <= fitness.high
    assert hits / n > 0.95 - 3 * math.sqrt(0.95 * 0.05 / n)


def test_an_objective_of_weight_zero_may_be_unknown():
    options = HybridOptimizationConfig(objective_weights={"speed": 1.0})
    assert fitness_of(measured((1.2, 1.1, 1.3), (math.nan,) * 3), options).value == pytest.approx(1.2)
    assert math.isnan(fitness_of(measured((1.2, 1.1, 1.3), (math.nan,) * 3), DEFAULT).value)


@pytest.mark.parametrize(
    ("ratio", "floor", "verdict"),
    [
        ((1.10, 1.05, 1.15), 0.02, Verdict.BETTER),
        ((1.10, 1.00, 1.15), 0.02, Verdict.TIE),  # the interval touches 1
        ((1.019, 1.01, 1.03), 0.02, Verdict.TIE),  # within the noise floor
        ((0.90, 0.85, 0.95), 0.02, Verdict.WORSE),
        ((0.90, 0.85, 1.01), 0.02, Verdict.TIE),
        ((0.985, 0.98, 0.99), 0.02, Verdict.TIE),
        ((math.nan, math.nan, math.nan), 0.02, Verdict.TIE),
    ],
)
def test_better_or_worse_needs_the_interval_and_the_noise_floor(ratio, floor, verdict):
    assert judge(Estimate(*ratio), floor) is verdict


def test_an_empty_recipe_judged_by_its_own_noise_floor_is_a_tie():
    rng = random.Random(3)
    for _ in range(200):
        value = 1 + rng.gauss(0, 0.05)
        ratio = Estimate(value, value - rng.random() / 10, value + rng.random() / 10)
        assert judge(ratio, noise_floor_of(ratio)) is Verdict.TIE


def test_the_noise_floor_is_never_below_one_percent():
    assert noise_floor_of(Estimate.exact(1.0)) == 0.01
    assert noise_floor_of(Estimate(0.99, 0.94, 1.01)) == pytest.approx(0.06)


def test_verdicts_name_every_objective():
    verdicts = verdicts_of(measured((1.2, 1.1, 1.3), (0.5, 0.5, 0.5)), {"speed": 0.02})
    assert verdicts == {"speed": Verdict.BETTER, "memory": Verdict.WORSE, "accuracy": Verdict.TIE}


def test_the_accuracy_bound_is_judged_on_the_pessimistic_end():
    inside = trial(measured((2, 2, 2), accuracy=(0.99, 0.9801, 1.0)))
    below = trial(measured((2, 2, 2), accuracy=(0.9711, 0.962, 0.979)))
    assert infeasible_reason(inside, DEFAULT, 0.01) is None
    assert (
        infeasible_reason(below, DEFAULT, 0.01)
        == "accuracy preservation 0.971 (95 % interval 0.962 to 0.979) is below the bound 0.98"
    )


def test_an_accuracy_whose_mean_is_fine_is_refused_when_it_is_not_sure():
    unsure = trial(measured((2, 2, 2), accuracy=(0.99, 0.97, 1.01)))
    assert "0.970" in infeasible_reason(unsure, DEFAULT, 0.01)


def test_the_speed_bound_is_judged_on_the_optimistic_end():
    assert infeasible_reason(trial(measured((0.99, 0.97, 1.01), (2, 2, 2))), DEFAULT, 0.02) is None
    slow = trial(measured((0.9, 0.88, 0.92), (2, 2, 2)))
    assert infeasible_reason(slow, DEFAULT, 0.02) == (
        "speed improvement 0.900 (95 % interval 0.880 to 0.920) is below the bound 1"
    )
    lowered = HybridOptimizationConfig(min_speed_improvement=0.8)
    assert infeasible_reason(slow, lowered, 0.02) is None


def test_a_shortfall_inside_the_noise_floor_is_refused_but_named():
    reason = infeasible_reason(trial(measured((0.985, 0.98, 0.99), (2, 2, 2))), DEFAULT, 0.03)
    assert "within the A/A noise floor of 0.030" in reason


def test_a_slow_candidate_may_still_be_a_parent():
    slow = trial(measured((0.9, 0.88, 0.92), (2, 2, 2)))
    assert unfit_parent_reason(slow, DEFAULT) is None


def test_the_performance_threshold_is_a_share_of_the_baselines_fitness():
    weights = {"speed": 4.0, "memory": 3.0, "accuracy": 3.0}
    options = HybridOptimizationConfig(objective_weights=weights, min_speed_improvement=0.0)
    poor = trial(measured((0.4, 0.39, 0.41)))
    assert "fitness 7.600" in infeasible_reason(poor, options, 0.01)
    assert "8.000" in infeasible_reason(poor, options, 0.01)
    tolerant = dataclasses.replace(options, performance_threshold=0.7)
    assert infeasible_reason(poor, tolerant, 0.01) is None


def test_the_baseline_is_always_feasible():
    noisy = trial(measured((0.97, 0.96, 0.98), accuracy=(0.97, 0.9, 1.0)), recipe=Recipe())
    assert infeasible_reason(noisy, DEFAULT, 0.01) is None


def test_a_failed_trial_is_infeasible_with_its_own_reason():
    failed = trial(None, outcome=Outcome.WRONG, reason="outputs differ by 0.4, tolerance 0.02")
    assert infeasible_reason(failed, DEFAULT, 0.01) == "not measured: outputs differ by 0.4, tolerance 0.02"
    assert infeasible_reason(trial(None, outcome=Outcome.CRASHED), DEFAULT, 0.01) == "not measured: crashed"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("objective", ["speed", "memory", "accuracy"])
def test_a_number_that_is_none_is_infeasible_by_name(bad, objective):
    reason = infeasible_reason(trial(measured(**{objective: (bad, bad, bad)})), DEFAULT, 0.01)
    assert reason is not None and f"{objective} is {bad}" in reason


def brute_force_front(points):
    """A point stays unless some other is nowhere smaller and somewhere larger."""
    keep = []
    for i, p in enumerate(points):
        beaten = False
        for q in points:
            if q[0] >= p[0] and q[1] >= p[1] and q[2] >= p[2] and tuple(q) != tuple(p):
                beaten = True
        if not beaten:
            keep.append(i)
    return keep


@pytest.mark.parametrize("seed", range(30))
def test_the_front_equals_brute_force_on_random_points_with_ties(seed):
    rng = random.Random(seed)
    grid = [i / 4 for i in range(5)]
    points = [tuple(rng.choice(grid) for _ in range(3)) for _ in range(rng.randint(0, 40))]
    assert pareto_front(points) == brute_force_front(points)


@pytest.mark.parametrize("seed", range(10))
def test_the_front_does_not_depend_on_the_order(seed):
    rng = random.Random(seed)
    points = [(rng.random(), rng.random(), rng.random()) for _ in range(25)]
    order = rng.sample(range(25), 25)
    assert {points[i] for i in pareto_front(points)} == {
        points[order[i]] for i in pareto_front([points[j] for j in order])
    }


def test_equal_points_stay_and_unknown_points_leave_the_front():
    assert pareto_front([(1, 1, 1), (1, 1, 1), (math.nan, 9, 9)]) == [0, 1]
    assert pareto_front([]) == []


def test_domination_is_strict_somewhere():
    assert dominates((1, 2, 3), (1, 2, 2)) and not dominates((1, 2, 3), (1, 2, 3))
    assert not dominates((2, 0, 0), (1, 1, 1))
