"""Selection by the learned policy: who can be chosen, what is said, and when it admits that it cannot learn."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import pytest

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.records import Estimate, Recipe
from hybrid_core.rl.selector import RLSelector, environment_of


@dataclass(frozen=True)
class Candidate:
    recipe: Recipe
    fitness: float | Estimate
    ok: bool = True


def candidate(key: str, fitness: float | Estimate, ok: bool = True) -> Candidate:
    return Candidate(Recipe.from_key(key), fitness, ok)


POOL = [
    candidate("baseline", 1.0),
    candidate("kernel_fusion=fold", 1.1),
    candidate("quantization=int8_dynamic", 0.8),
    candidate("attention_fusion=sdpa", 1.4),
    candidate("memory_pooling=in_place", 1.02),
    candidate("attention_fusion=sdpa+kernel_fusion=fold", 1.6),
    candidate("attention_fusion=sdpa+quantization=int8_dynamic", 0.0, ok=False),
]
QUICK = HybridOptimizationConfig(rl_max_episodes=24, rl_hidden_dim=32, rl_learning_rate=3e-3)


def test_an_ensemble_can_be_chosen_and_the_best_candidate_is_chosen_most_often():
    """In the original a strategy's number was used as a candidate's: ensembles were unreachable."""
    chosen = Counter(RLSelector(QUICK, seed).choose(POOL, 1)[0][0] for seed in range(8))
    assert chosen.most_common(1)[0][0] == 5
    assert chosen[5] >= 4


def test_chosen_parents_are_distinct_and_work():
    for seed in range(2):
        indices, _ = RLSelector(QUICK, seed).choose(POOL, 5)
        assert len(set(indices)) == 5 and 6 not in indices


def test_asking_for_more_than_there_are_gives_all_that_work():
    indices, _ = RLSelector(QUICK, 0).choose(POOL, 50)
    assert sorted(indices) == [0, 1, 2, 3, 4, 5]


def test_the_same_seed_chooses_the_same():
    assert RLSelector(QUICK, 9).choose(POOL, 3) == RLSelector(QUICK, 9).choose(POOL, 3)


def test_details_tell_what_ran_and_are_json():
    _, details = RLSelector(QUICK, 0).choose(POOL, 2)
    assert details["trained"] is True
    assert details["groups"] == 24 and details["episodes"] == 24 * 8
    assert len(details["returns"]) == 24 and 0 < details["kept_groups"] <= 24
    assert len(details["policy_loss"]) == len(details["entropy"]) == details["updates"] > 0
    assert 0 <= details["clip_fraction"] <= 1
    assert (details["enable_dapo"], details["enable_vapo"], details["enable_orz"]) == (True, True, True)
    json.dumps(details, allow_nan=False)


def test_details_follow_the_switches():
    options = HybridOptimizationConfig(
        rl_max_episodes=10, rl_hidden_dim=8, enable_dapo=False, enable_vapo=False, enable_orz=False
    )
    _, details = RLSelector(options, 0).choose(POOL, 2)
    assert (details["enable_dapo"], details["enable_vapo"], details["enable_orz"]) == (False, False, False)
    assert details["kept_groups"] == 10
    assert details["value_loss"] == [] and details["zones"] == {}


@pytest.mark.parametrize("working", [0, 1, 3])
def test_with_too_few_measurements_the_fittest_are_taken_and_that_is_said(working):
    pool = POOL[:working] + [POOL[6]]
    indices, details = RLSelector(QUICK, 0).choose(pool, 2)
    assert indices == sorted(range(working), key=lambda i: -pool[i].fitness)[:2]
    assert details["trained"] is False and f"only {working} working" in details["reason"]


def test_four_copies_of_one_recipe_are_one_measurement():
    _, details = RLSelector(QUICK, 0).choose([POOL[0]] * 6, 2)
    assert details["trained"] is False


def test_a_nan_fitness_is_never_chosen():
    pool = [*POOL, candidate("memory_pooling=micro_batch", float("nan"))]
    indices, _ = RLSelector(QUICK, 0).choose(pool, 20)
    assert 7 not in indices


def test_estimates_are_read_and_their_width_is_the_noise():
    pool = [candidate(c.recipe.key, Estimate(c.fitness, c.fitness - 0.05, c.fitness + 0.05), c.ok) for c in POOL]
    environment = environment_of(pool, QUICK)
    assert environment.noise == pytest.approx(0.05)
    assert environment.measured_rewards["attention_fusion=sdpa"] == pytest.approx(0.4)


def test_recipes_beyond_the_step_limit_are_chosen_last():
    options = HybridOptimizationConfig(rl_max_episodes=10, rl_hidden_dim=8, rl_max_steps_per_episode=1)
    indices, _ = RLSelector(options, 0).choose(POOL, 6)
    assert set(indices[:2]) == {0, 1}


def test_rl_switched_off_and_counts_below_one_are_refused():
    with pytest.raises(InvalidInput, match="enable_rl_optimization=False"):
        RLSelector(HybridOptimizationConfig(enable_rl_optimization=False))
    with pytest.raises(InvalidInput, match="count=0"):
        RLSelector(QUICK).choose(POOL, 0)
