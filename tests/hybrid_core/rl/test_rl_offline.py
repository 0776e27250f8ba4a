"""Imitating the best recipes of other models before anything is rolled out."""

from __future__ import annotations

import math

import pytest

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.rl.game import RecipeGame
from hybrid_core.rl.offline import top_keys
from hybrid_core.rl.optimizer import HybridRLOptimizer
from hybrid_core.rl.tree import Slot

SLOTS = (Slot("a", ("1", "2")), Slot("b", ("1", "2", "3")))


def learner() -> HybridRLOptimizer:
    options = HybridOptimizationConfig(rl_hidden_dim=32, rl_learning_rate=3e-3)
    return HybridRLOptimizer(options, RecipeGame(SLOTS, {"baseline": 0.0, "a=1": 0.1}), seed=0)


def chance(agent: HybridRLOptimizer, key: str) -> float:
    states = [s for s, name in enumerate(agent.env.keys) if name == key and s >= agent.env.first_finished]
    return math.exp(agent.log_probabilities()[states[0]])


def test_the_top_tenth_of_twenty_is_two_and_only_what_gained_counts():
    values = [(f"r{n}", 0.01 * n) for n in range(-10, 10)]
    assert top_keys(values) == ["r9", "r8"]
    assert top_keys([("x", -0.1), ("y", -0.2)]) == [] == top_keys([])
    assert top_keys([("x", 0.1)]) == ["x"]


def test_imitated_recipes_become_likely_in_proportion_and_nothing_impossible():
    agent = learner()
    agent.imitate(["a=1+b=2", "a=1+b=2", "a=2"])
    twice, once = chance(agent, "a=1+b=2"), chance(agent, "a=2")
    assert twice > 1.5 * once > 2 * (1 / 12)
    assert all(chance(agent, key) > 0.002 for key in set(agent.env.keys))
    assert agent.behaviour_cloning["examples"] == 3
    assert agent.behaviour_cloning["last_loss"] < agent.behaviour_cloning["first_loss"]


def test_recipes_the_game_cannot_build_are_left_out_and_none_at_all_changes_nothing():
    agent = learner()
    before = chance(agent, "a=2")
    agent.imitate(["c=9"])
    assert agent.behaviour_cloning == {} and chance(agent, "a=2") == before
    agent.imitate(["c=9", "a=2"])
    assert agent.behaviour_cloning["examples"] == 1
    assert chance(agent, "a=2") > before


def test_a_policy_that_imitates_a_short_recipe_learns_to_leave_slots_off():
    agent = learner()
    agent.imitate(["baseline"])
    assert chance(agent, "baseline") == pytest.approx(max(chance(agent, key) for key in set(agent.env.keys)))
