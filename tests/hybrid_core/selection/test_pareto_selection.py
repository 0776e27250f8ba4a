"""Pareto selection of measured candidates: which objectives count, what a broken bound costs, what the event tells."""

import itertools
import json
import math
import random
from collections import Counter

import pytest
from scipy import stats

from hybrid_core import CandidateSelector
from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.fitness import fitness_of, infeasible_reason, shortfall
from hybrid_core.records import Estimate, Outcome, Purpose, Recipe, Trial
from hybrid_core.selection import pareto, registry
from hybrid_core.selection.base import ScoredCandidate
from tests.hybrid_core.search.conftest import make_measurement

PARETO = HybridOptimizationConfig(enable_rl_optimization=False, selection_strategy="pareto")
# (speed, memory, accuracy): two extremes and a middle on the front, one they beat, one that is too slow to win.
RATIOS = {
    "fast": (2.0, 1.0, 1.0),
    "small": (1.0, 3.0, 1.0),
    "both": (1.5, 1.5, 1.0),
    "beaten": (1.2, 1.2, 1.0),
    "slow": (0.7, 9.0, 1.0),
}


def recipe_of(name):
    return Recipe() if name == "baseline" else Recipe.from_dict({"quantization": name})


def measured(ratios, options=PARETO):
    pool = []
    for name, (speed, memory, accuracy) in ratios.items():
        measurement = make_measurement(speed, memory, accuracy)
        fitness = fitness_of(measurement, options).value
        pool.append(ScoredCandidate(recipe_of(name), fitness, True, measurement))
    return pool


def fronts(ratios, options=PARETO):
    keys = registry.choose_parents("pareto", measured(ratios, options), 1, random.Random(0), options).details["fronts"]
    return {key.removeprefix("quantization="): front for key, front in keys.items()}


def test_a_bound_comes_before_every_objective_and_dominance_before_the_sum():
    assert fronts(RATIOS) == {"fast": 0, "small": 0, "both": 0, "beaten": 1, "slow": 2}


def test_the_sum_would_have_chosen_otherwise():
    by_sum = max(measured(RATIOS), key=lambda candidate: candidate.fitness)
    assert by_sum.recipe.key == "quantization=slow"
    chosen = Counter(c.recipe.key for c in pareto.select(measured(RATIOS), 2000, random.Random(1), PARETO))
    assert chosen["quantization=slow"] == 0


def test_where_the_speed_bound_is_lowered_the_slow_one_is_on_the_front():
    relaxed = HybridOptimizationConfig(min_speed_improvement=0.5)
    assert fronts(RATIOS, relaxed)["slow"] == 0


def test_an_objective_without_weight_is_not_compared():
    only_speed = HybridOptimizationConfig(objective_weights={"speed": 1.0})
    assert fronts(RATIOS, only_speed) == {"fast": 0, "both": 1, "beaten": 2, "small": 3, "slow": 4}
    switched_off = HybridOptimizationConfig(enable_multi_objective_optimization=False)
    assert fronts(RATIOS, switched_off) == fronts(RATIOS, only_speed)
    choice = registry.choose_parents("pareto", measured(RATIOS), 1, random.Random(0), only_speed)
    assert choice.details["objectives"] == ["speed"]


def test_accuracy_counts_as_an_objective_where_it_has_weight():
    ratios = {"exact": (1.2, 1.0, 1.0), "rough": (1.2, 1.0, 0.99)}
    assert fronts(ratios) == {"exact": 0, "rough": 1}
    assert fronts(ratios, HybridOptimizationConfig(objective_weights={"speed": 1, "memory": 1})) == {
        "exact": 0,
        "rough": 0,
    }


def test_parents_are_drawn_by_the_exact_chances_that_the_event_carries():
    """Brute force over all pairs, from fronts and crowding worked out by hand."""
    pool = measured(RATIOS)
    order = {"fast": (0, math.inf), "small": (0, math.inf), "both": (0, 2.0), "beaten": (-1, 0.0), "slow": (-2, 0.0)}
    exact = Counter()
    for a, b in itertools.combinations(order, 2):
        for winner in [a, b] if order[a] == order[b] else [max(a, b, key=order.__getitem__)]:
            exact[f"quantization={winner}"] += (0.5 if order[a] == order[b] else 1.0) / 10
    choice = registry.choose_parents("pareto", pool, 100_000, random.Random(7), PARETO)
    told = choice.details["probabilities"]
    assert told == pytest.approx({candidate.recipe.key: exact[candidate.recipe.key] for candidate in pool})
    drawn = Counter(parent.recipe.key for parent in choice.parents)
    able = [key for key, p in told.items() if p > 0]
    assert set(drawn) == set(able)
    assert stats.chisquare([drawn[k] for k in able], [100_000 * exact[k] for k in able]).pvalue > 1e-4
    json.dumps(choice.details, allow_nan=False)


def test_the_untouched_model_breaks_no_bound():
    noisy = make_measurement(0.9)
    pool = [
        ScoredCandidate(Recipe(), 1.0, True, noisy),
        ScoredCandidate(recipe_of("slow"), 1.0, True, noisy),
    ]
    choice = registry.choose_parents("pareto", pool, 1, random.Random(0), PARETO)
    assert choice.details["fronts"] == {"baseline": 0, "quantization=slow": 1}


def test_where_one_candidate_has_no_measurement_all_are_compared_by_fitness_and_the_event_says_so():
    pool = [*measured(RATIOS), ScoredCandidate(recipe_of("given"), 1.3)]
    choice = registry.choose_parents("pareto", pool, 1, random.Random(0), PARETO)
    assert choice.details["objectives"] == ["fitness"]
    ranked = sorted(pool, key=lambda candidate: -candidate.fitness)
    assert [choice.details["fronts"][candidate.recipe.key] for candidate in ranked] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("speed", [math.nan, math.inf, -1.0])
def test_a_ratio_that_is_no_ratio_is_refused_by_name(speed):
    pool = measured(RATIOS)
    pool[1] = ScoredCandidate(pool[1].recipe, 1.0, True, make_measurement(speed))
    with pytest.raises(InvalidInput, match="speed of 'quantization=small' is"):
        pareto.select(pool, 1, random.Random(0), PARETO)


def test_nothing_left_of_the_quality_is_the_worst_and_no_crash():
    loose = HybridOptimizationConfig(min_accuracy_preservation=0.0)
    ratios = {"fine": (1.2, 1.0, 1.0), "ruined": (1.2, 1.0, 0.0), "middle": (1.2, 1.0, 0.5)}
    assert fronts(ratios, loose) == {"fine": 0, "middle": 1, "ruined": 2}


@pytest.mark.parametrize(
    ("speed", "accuracy"), [(1.2, 1.0), (0.9, 1.0), (1.2, 0.9), (0.9, 0.9), (0.995, 1.0), (1.0, 0.981)]
)
def test_the_shortfall_is_above_zero_exactly_where_a_reason_against_winning_is_given(speed, accuracy):
    measurement = make_measurement(speed, 1.0, accuracy)
    trial = Trial("t", "r", recipe_of("x"), Purpose.SEARCH, Outcome.OK, measurement=measurement)
    lacks = shortfall(measurement.accuracy_preservation, measurement.speed_improvement, PARETO)
    assert (lacks > 0) == (infeasible_reason(trial, PARETO, 0.01) is not None)


def test_the_shortfall_adds_what_each_bound_lacks_and_is_infinite_where_nothing_is_known():
    known, unknown = Estimate(0.9, 0.8, 0.95), Estimate(math.nan, math.nan, math.nan)
    assert shortfall(known, known, PARETO) == pytest.approx(0.98 - 0.8 + 1.0 - 0.95)
    assert shortfall(unknown, known, PARETO) == shortfall(known, unknown, PARETO) == math.inf


def test_the_document_s_selector_compares_the_ratios_of_candidates_that_carry_their_trial():
    candidates = []
    for name, ratios in RATIOS.items():
        trial = Trial("t", "r", recipe_of(name), Purpose.SEARCH, Outcome.OK, measurement=make_measurement(*ratios))
        figures = dict(zip(("speed_improvement", "memory_efficiency", "accuracy_preservation"), ratios, strict=True))
        candidates.append({"recipe": {"quantization": name}, "strategy": "quantization", **figures, "trial": trial})
    selector = CandidateSelector(PARETO, seed=3)
    chosen = {selector.select_candidate(candidates)["recipe"]["quantization"] for _ in range(60)}
    assert selector.last_details["objectives"] == ["speed", "memory", "accuracy"]
    assert {"fast", "small", "both"} <= chosen and "slow" not in chosen
    bare = [{k: v for k, v in candidate.items() if k != "trial"} for candidate in candidates]
    selector.select_candidate(bare)
    assert selector.last_details["objectives"] == ["fitness"]
