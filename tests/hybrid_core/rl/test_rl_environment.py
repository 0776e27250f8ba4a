"""The slot game: what it pays, what it forbids, that actions matter, and that it keeps Gymnasium's interface."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

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


def forbidden_pair(recipe: Recipe) -> bool:
    return recipe.to_dict() != {"kernel_fusion": "fold", "quantization": "int8_dynamic"}


@pytest.mark.parametrize("options", [{}, {"is_legal": forbidden_pair}, {"max_steps": 1}])
def test_the_environment_passes_gymnasiums_checker_without_a_warning(options):
    """Slots of different width and a forbidden pair: the checker's own samples would be refused without the mask."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Without a registered id the checker cannot make further copies to render; there is nothing to render.
        warnings.filterwarnings("ignore", message=".*alternative render modes.*")
        # The features have no natural bounds.
        warnings.filterwarnings("ignore", message=".*A Box observation space.*")
        for _ in range(5):
            check_env(make(**options))


def test_a_broken_environment_fails_the_checker():
    class Broken(OptimizationEnvironment):
        def reset(self, *, seed=None, options=None):
            observation, info = super().reset(seed=seed, options=options)
            return observation.astype(np.float64), info

    with pytest.raises(AssertionError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(Broken(SLOTS, SCORES))


def test_observations_are_float32_vectors_of_the_space_and_copies():
    environment = make()
    observation, info = environment.reset(seed=3)
    assert observation.dtype == np.float32 and environment.observation_space.contains(observation)
    assert environment.observation_space.shape == (environment.state_dim,)
    observation[:] = 7.0
    info["action_mask"][:] = 0
    again, told = environment.reset()
    assert not (again == 7.0).any() and told["action_mask"].tolist() == [1, 1, 0]


def test_the_mask_in_info_is_the_mask_of_the_current_slot_and_sampling_keeps_to_it():
    environment = make(is_legal=forbidden_pair)
    environment.action_space.seed(0)
    drawn: dict[tuple[int, ...], set[int]] = {}
    for _ in range(60):
        _, info = environment.reset()
        is_over = False
        while not is_over:
            before = environment.choices
            assert info["action_mask"].dtype == np.int8
            assert np.array_equal(info["action_mask"], environment.mask(before).numpy().astype(np.int8))
            action = environment.action_space.sample()
            assert info["action_mask"][action]
            drawn.setdefault(before, set()).add(int(action))
            _, _, is_over, is_cut, info = environment.step(action)
            assert is_cut is False
    assert drawn == {(): {0, 1}, (0,): {0, 1, 2}, (1,): {0, 1}}


def test_info_names_the_recipe_as_it_stands_and_says_in_the_end_whether_it_was_measured():
    environment = make()
    _, info = environment.reset()
    assert info["recipe"] == "baseline" and "measured" not in info
    told = [environment.step(action)[-1] for action in (1, 2)]
    assert [one["recipe"] for one in told] == ["kernel_fusion=fold", "kernel_fusion=fold+quantization=int8_dynamic"]
    assert "measured" not in told[0] and told[1]["measured"] is False
    environment.reset()
    environment.step(1)
    assert environment.step(0)[-1]["measured"] is True


def test_features_of_model_and_hardware_stand_at_the_end_of_every_state_in_the_order_of_their_names():
    model, hardware = {"log_parameters": 1.5, "attention_share": 0.25}, {"cores": 2.0}
    plain, given = make(), make(model_features=model, hardware_features=hardware)
    assert given.state_dim == plain.state_dim + 3
    for path in given.partial_paths():
        assert given.observe(path)[-3:].tolist() == [0.25, 1.5, 2.0]
        assert torch.equal(given.observe(path)[:-3], plain.observe(path))
    shuffled = make(model_features=dict(reversed(model.items())), hardware_features=hardware)
    assert torch.equal(shuffled.observations, given.observations)


def test_a_feature_that_is_no_number_is_refused():
    with pytest.raises(InvalidInput, match=r"model_features\['log_parameters'\]=nan"):
        make(model_features={"log_parameters": float("nan")})


def test_choices_that_the_mask_forbids_are_no_state():
    with pytest.raises(InvalidInput, match="not legal here"):
        make(is_legal=forbidden_pair).reward((1, 2))


def test_predictions_made_elsewhere_pay_what_was_not_measured_and_must_cover_every_recipe():
    from hybrid_core.rl.surrogate import Predictions

    answers = {key: (0.5, 0.1) for key in make().keys}
    environment = make(surrogate=Predictions(answers), kappa=2.0)
    assert environment.reward((1, 2)) == pytest.approx(0.5 - 2 * 0.1)
    assert environment.reward((1, 0)) == pytest.approx(0.2)
    del answers["kernel_fusion=fold"]
    with pytest.raises(InvalidInput, match="'kernel_fusion=fold' has no prediction"):
        make(surrogate=Predictions(answers))


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
