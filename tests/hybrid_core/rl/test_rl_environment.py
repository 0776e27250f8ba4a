"""The slot game: what it pays, what it forbids, and that actions matter."""

from __future__ import annotations

import itertools

import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.records import Recipe
from hybrid_core.rl.environment import OptimizationEnvironment
from hybrid_core.rl.surrogate import RidgeEnsemble, failure_score
from hybrid_core.rl.tree import Slot, slots_of

SLOTS = (Slot("kernel_fusion", ("fold",)), Slot("quantization", ("bfloat16", "int8_dynamic")))
SCORES = {"baseline": 1.0, "kernel_fusion=fold": 1.2, "quantization=bfloat16": 0.7, "quantization=int8_dynamic": 1.1}


def make(**options) -> OptimizationEnvironment:
    return OptimizationEnvironment(SLOTS, SCORES, **options)


def play(environment: OptimizationEnvironment, actions) -> float:
    environment.reset()
    rewards = [environment.step(action)[1] for action in actions]
    assert all(reward == 0 for reward in rewards[:-1])
    return rewards[-1]


def test_the_reward_is_the_measured_gain_of_the_recipe_that_was_built():
    """In the original the reward was a random walk, whatever the action."""
    environment = make()
    assert play(environment, [0, 0]) == 0.0
    assert play(environment, [1, 0]) == pytest.approx(0.2)
    assert play(environment, [0, 1]) == pytest.approx(-0.3)
    assert play(environment, [0, 2]) == pytest.approx(0.1)


def test_the_same_actions_always_earn_the_same_and_different_ones_do_not():
    environment = make()
    rewards = {actions: {play(environment, actions) for _ in range(3)} for actions in [(0, 0), (1, 0), (0, 1), (1, 2)]}
    assert all(len(found) == 1 for found in rewards.values())
    assert len(set.union(*rewards.values())) == 4


def test_an_unmeasured_recipe_earns_the_surrogates_pessimistic_end():
    neutral, wary = make(kappa=0.0), make(kappa=2.0)
    unmeasured = (1, 2)
    assert wary.doubt(unmeasured) > 0
    assert wary.reward(unmeasured) == pytest.approx(neutral.reward(unmeasured) - 2 * wary.doubt(unmeasured))
    assert wary.doubt((1, 0)) == 0.0


def test_a_failed_recipe_earns_less_than_the_worst_that_works_and_does_not_condemn_its_settings():
    key = Recipe.from_dict({"kernel_fusion": "fold", "quantization": "int8_dynamic"}).key
    environment, without = make(failed=[key]), make()
    worst = min(environment.reward(p) for p in [(0, 0), (1, 0), (0, 1), (0, 2)])
    assert environment.reward((1, 2)) < worst
    assert environment.reward((1, 1)) == without.reward((1, 1))


def test_every_recipe_has_exactly_one_path():
    environment = make()
    keys = [environment.recipe(path).key for path in environment.finished_paths()]
    assert len(keys) == len(set(keys)) == 2 * 3
    for path in environment.finished_paths():
        assert environment.choices_of(environment.recipe(path)) == path


def test_illegal_settings_are_masked_and_refused():
    def legal(recipe: Recipe) -> bool:
        return recipe.to_dict() != {"kernel_fusion": "fold", "quantization": "int8_dynamic"}

    environment = make(is_legal=legal)
    assert environment.mask((1,)).tolist() == [True, True, False]
    assert environment.mask((0,)).tolist() == [True, True, True]
    environment.reset()
    environment.step(1)
    with pytest.raises(InvalidInput, match="action 2 is not allowed"):
        environment.step(2)


@pytest.mark.parametrize("action", [-1, 2, 99])
def test_an_action_outside_the_slot_is_refused(action):
    environment = make()
    environment.reset()
    with pytest.raises(InvalidInput, match="not allowed in slot 0"):
        environment.step(action)


def test_an_over_episode_wants_a_reset():
    environment = make()
    play(environment, [0, 0])
    with pytest.raises(InvalidInput, match="reset"):
        environment.step(0)


def test_states_are_distinct_decodable_and_of_the_declared_width():
    environment = make(budget_share=0.25)
    states = {path: environment.observe(path) for path in environment.partial_paths()}
    assert len(states) == 1 + 2 + 6
    for (path, state), (other, another) in itertools.combinations(states.items(), 2):
        assert state.shape == (environment.state_dim,)
        assert environment.decode(state) == path and environment.decode(another) == other
        assert not torch.equal(state, another)


def test_the_context_of_a_state_is_best_so_far_budget_and_progress():
    state = make(budget_share=0.25).observe((1,))
    assert state[-5:-2].tolist() == pytest.approx([0.2, 0.25, 0.5])


def test_fewer_steps_than_slots_leave_the_rest_off():
    environment = make(max_steps=1)
    environment.reset()
    _, reward, done, _, _ = environment.step(1)
    assert done and reward == pytest.approx(0.2)
    with pytest.raises(InvalidInput, match="do not reach"):
        environment.choices_of(Recipe.from_dict({"quantization": "bfloat16"}))


def test_nothing_measured_or_nothing_to_decide_is_refused():
    with pytest.raises(InvalidInput, match="measure the baseline"):
        OptimizationEnvironment(SLOTS, {})
    with pytest.raises(InvalidInput, match="nothing to decide"):
        OptimizationEnvironment((), SCORES)


def test_slots_follow_the_given_order_and_hold_what_occurs():
    recipes = [Recipe.from_key(key) for key in SCORES]
    assert slots_of(recipes, ("quantization", "attention_fusion", "kernel_fusion")) == (SLOTS[1], SLOTS[0])


def test_the_surrogate_recovers_additive_scores():
    effects = {"a=1": 0.3, "b=1": -0.2, "c=1": 0.1}
    keys = ["+".join(c) for n in range(1, 4) for c in itertools.combinations(effects, n)]
    scores = {"baseline": 0.0} | {key: sum(effects[part] for part in key.split("+")) for key in keys}
    held_out = "a=1+b=1+c=1"
    surrogate = RidgeEnsemble({k: v for k, v in scores.items() if k != held_out})
    mean, sd = surrogate.predict(Recipe.from_key(held_out))
    assert mean == pytest.approx(scores[held_out], abs=0.06)
    assert sd < 0.1


def test_a_failure_is_worth_less_than_the_worst_by_the_spread_or_the_noise():
    assert failure_score([0.0, 1.0], 0.01) == -1.0
    assert failure_score([0.5], 0.01) == pytest.approx(0.49)
