"""Choosing among candidate dictionaries: members only, ensembles too, and nothing assumed."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from hybrid_core import CandidateSelector, HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.selection.tournament import probabilities

METHODS = ["tournament_selection", "roulette_selection", "rank_selection", "rl_enhanced_selection", "select_candidate"]
QUICK = {"rl_max_episodes": 16, "rl_hidden_dim": 16, "rl_learning_rate": 3e-3}


def candidate(recipe: dict[str, str], speed: float, memory: float = 1.0, accuracy: float = 1.0) -> dict:
    return {
        "strategy": "_".join(recipe) or "none",
        "recipe": recipe,
        "speed_improvement": speed,
        "memory_efficiency": memory,
        "accuracy_preservation": accuracy,
    }


CANDIDATES = [
    candidate({"kernel_fusion": "fold"}, 1.1),
    candidate({"quantization": "int8_dynamic"}, 0.9, 2.0, 0.99),
    candidate({"memory_pooling": "in_place"}, 1.0, 1.2),
    candidate({"attention_fusion": "sdpa"}, 1.3),
    candidate({"attention_fusion": "sdpa", "kernel_fusion": "fold"}, 1.6, 1.1),
    candidate({"attention_fusion": "sdpa", "quantization": "int8_dynamic"}, 1.2, 2.1, 0.99),
]


def selector(seed: int = 0, **config) -> CandidateSelector:
    return CandidateSelector(HybridOptimizationConfig(**(QUICK | config)), seed)


def test_fitness_is_the_documented_weighted_sum():
    weights = {"speed": 0.5, "memory": 0.25, "accuracy": 2.0}
    got = selector(objective_weights=weights).evaluate_candidate_fitness(candidate({}, 1.5, 2.0, 0.9))
    assert got == pytest.approx(0.5 * 1.5 + 0.25 * 2.0 + 2.0 * 0.9)
    assert selector().evaluate_candidate_fitness(candidate({}, 1.0)) == pytest.approx(1.0)


def test_without_multi_objective_only_speed_counts():
    choose = selector(enable_multi_objective_optimization=False)
    assert choose.evaluate_candidate_fitness(candidate({}, 1.5, 9.0, 9.0)) == pytest.approx(1.5)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "1.0", True])
def test_a_missing_or_impossible_ratio_is_refused_and_never_read_as_one(value):
    broken = candidate({}, 1.0) | {"memory_efficiency": value}
    with pytest.raises(InvalidInput, match="memory_efficiency"):
        selector().evaluate_candidate_fitness(broken)
    del broken["memory_efficiency"]
    with pytest.raises(InvalidInput, match="memory_efficiency=None"):
        selector().evaluate_candidate_fitness(broken)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_returns_a_member_of_the_list_itself(method):
    choose = selector()
    chosen = getattr(choose, method)(CANDIDATES, [choose.evaluate_candidate_fitness(c) for c in CANDIDATES])
    assert any(chosen is member for member in CANDIDATES)
    assert choose.selection_history[-1]["recipe"] == chosen["recipe"]


@pytest.mark.parametrize("method", METHODS)
def test_ensembles_can_be_chosen_by_every_method(method):
    """With reinforcement learning the original could choose among the first four candidates only."""
    names = set()
    for seed in range(12):
        names.add(getattr(selector(seed), method)(CANDIDATES)["strategy"])
        if any("fusion_kernel" in name or "fusion_quant" in name for name in names):
            return
    pytest.fail(f"{method} chose only {names}")


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_choose_from_is_none(method):
    assert getattr(selector(), method)([], []) is None


@pytest.mark.parametrize("method", METHODS)
def test_scores_that_do_not_match_the_candidates_are_refused(method):
    choose = getattr(selector(), method)
    with pytest.raises(InvalidInput, match="5 fitness_scores for 6 candidates"):
        choose(CANDIDATES, [1.0] * 5)
    for bad in (math.nan, math.inf, "1", None):
        with pytest.raises(InvalidInput, match=r"fitness_scores\[2\]"):
            choose(CANDIDATES, [1.0, 1.0, bad, 1.0, 1.0, 1.0])


def test_a_tournament_wins_as_often_as_its_closed_form_says():
    choose = selector(tournament_size=3)
    scores = [choose.evaluate_candidate_fitness(c) for c in CANDIDATES]
    draws = 3000
    counts = Counter(id(choose.tournament_selection(CANDIDATES, scores)) for _ in range(draws))
    for member, chance in zip(CANDIDATES, probabilities(scores, 3), strict=True):
        assert abs(counts[id(member)] / draws - chance) < 5 * math.sqrt(0.25 / draws)


def test_a_tournament_of_all_takes_the_fittest():
    chosen = selector(tournament_size=50).tournament_selection(CANDIDATES)
    assert chosen is CANDIDATES[5]


@pytest.mark.parametrize("method", ["tournament", "roulette", "rank"])
def test_the_configured_method_chooses_when_rl_is_off(method):
    off, same = (selector(3, enable_rl_optimization=False, selection_strategy=method) for _ in range(2))
    picks = [off.select_candidate(CANDIDATES) for _ in range(20)]
    assert picks == [getattr(same, f"{method}_selection")(CANDIDATES) for _ in range(20)]
    assert {entry["method"] for entry in off.selection_history} == {method}


def test_rl_chooses_when_it_is_on_and_tells_how_it_was_trained():
    choose = selector(selection_strategy="roulette")
    choose.select_candidate(CANDIDATES)
    assert choose.selection_history[-1]["method"] == "rl"
    assert choose.last_details["trained"] is True and choose.last_details["episodes"] == 16 * 8


def test_rl_selection_with_rl_off_is_refused():
    with pytest.raises(InvalidInput, match="enable_rl_optimization=False"):
        selector(enable_rl_optimization=False).rl_enhanced_selection(CANDIDATES)


def test_with_selection_off_the_fittest_is_taken():
    choose = selector(enable_candidate_selection=False)
    assert choose.select_candidate(CANDIDATES) is CANDIDATES[5]


def test_given_scores_count_more_than_the_candidates_own_ratios():
    scores = [0.0] * 5 + [-1.0]
    scores[2] = 9.0
    assert selector(tournament_size=50).tournament_selection(CANDIDATES, scores) is CANDIDATES[2]


def test_candidates_in_the_documents_shape_without_a_recipe_can_be_chosen():
    named = [
        {k: v for k, v in c.items() if k != "recipe"} | {"strategy": s}
        for c, s in zip(CANDIDATES[:2], ("kernel_fusion", "ensemble_kernel_fusion_quantization"), strict=True)
    ]
    assert selector(tournament_size=9).tournament_selection(named, [1.0, 2.0]) is named[1]
    with pytest.raises(InvalidInput, match="'magic'"):
        selector().tournament_selection([named[0] | {"strategy": "magic"}], [1.0])


def test_two_equal_candidates_stay_two():
    twins = [dict(CANDIDATES[0]), dict(CANDIDATES[0])]
    chosen = {id(selector(seed).tournament_selection(twins)) for seed in range(40)}
    assert chosen == {id(twin) for twin in twins}
