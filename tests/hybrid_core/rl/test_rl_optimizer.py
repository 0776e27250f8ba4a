"""The learner: it learns what was measured, and every documented key changes what runs."""

from __future__ import annotations

import dataclasses
import functools
import math

import pytest
import torch

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.rl import advantages
from hybrid_core.rl.game import RecipeGame
from hybrid_core.rl.optimizer import GROUP_SIZE, HybridRLOptimizer
from hybrid_core.rl.tree import Slot
from hybrid_core.rl.updates import EPOCHS_PER_UPDATE

SLOTS = (
    Slot("kernel_fusion", ("fold",)),
    Slot("quantization", ("bfloat16", "int8_dynamic")),
    Slot("attention_fusion", ("sdpa",)),
)
SCORES = {
    "baseline": 1.0,
    "kernel_fusion=fold": 1.1,
    "quantization=bfloat16": 0.6,
    "quantization=int8_dynamic": 0.8,
    "attention_fusion=sdpa": 1.4,
    "attention_fusion=sdpa+kernel_fusion=fold": 1.6,
}
BEST = (1, 0, 1)


def learner(seed: int = 0, **options) -> HybridRLOptimizer:
    config = HybridOptimizationConfig(
        **{"rl_max_episodes": 40, "rl_hidden_dim": 32, "rl_learning_rate": 2e-3} | options
    )
    return HybridRLOptimizer(config, RecipeGame(SLOTS, SCORES, max_steps=config.rl_max_steps_per_episode), seed=seed)


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


SWITCHES = [
    {},
    {"enable_dapo": False},
    {"enable_vapo": False},
    {"enable_orz": False},
    {"enable_dapo": False, "enable_vapo": False, "enable_orz": False},
]


@pytest.mark.parametrize("options", SWITCHES, ids=lambda o: "+".join(o) or "all on")
def test_training_makes_the_best_recipe_more_likely(options):
    gains = []
    for seed in range(2):
        agent = learner(seed, **options)
        before = agent.log_probability(BEST)
        agent.train_rl_optimizer()
        gains.append(agent.log_probability(BEST) - before)
    assert sum(gains) / len(gains) > math.log(3)


def test_equal_seeds_learn_the_same_and_the_callers_random_numbers_are_untouched():
    before = (torch.get_rng_state(), torch.get_num_threads())
    first, second = learner(3), learner(3)
    first.train_rl_optimizer()
    second.train_rl_optimizer()
    assert torch.equal(weights(first.policy), weights(second.policy))
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == torch.get_num_threads()


def test_dapo_drops_groups_and_without_it_every_group_trains():
    on, off = learner(), learner(enable_dapo=False)
    on.train_rl_optimizer()
    off.train_rl_optimizer()
    kept = [entry["kept"] for entry in on.episode_history]
    assert 0 < sum(kept) < len(kept)
    for entry in on.episode_history:
        assert entry["kept"] == (0 < entry["accuracy"] < 1)
    assert all(entry["kept"] for entry in off.episode_history)
    assert len(off.performance_metrics["policy_loss"]) == 20 > len(on.performance_metrics["policy_loss"])


def test_without_dapo_the_clip_is_symmetric(monkeypatch):
    seen = []
    from hybrid_core.rl import updates

    real = updates.clipped_policy_loss

    def spy(log_probs, old, adv, low, high):
        seen.append((low, high))
        return real(log_probs, old, adv, low, high)

    monkeypatch.setattr(updates, "clipped_policy_loss", spy)
    for options in ({}, {"enable_dapo": False}):
        learner(rl_epsilon_low=0.15, rl_epsilon_high=0.4, rl_max_episodes=12, **options).train_rl_optimizer()
    assert set(seen) == {(0.15, 0.4), (0.15, 0.15)}


def test_vapo_trains_the_critic_and_without_vapo_and_orz_it_stays_as_it_was():
    """Shaping acts through a critic only, so ORZ alone brings one too: switching VAPO off is not enough any more."""
    on, off = learner(), learner(enable_vapo=False, enable_orz=False)
    start = weights(off.value)
    assert torch.equal(start, weights(on.value))
    on.train_rl_optimizer()
    off.train_rl_optimizer()
    assert not torch.equal(start, weights(on.value))
    assert torch.equal(start, weights(off.value))
    assert on.value_pretraining["last_loss"] < on.value_pretraining["first_loss"]
    assert off.value_pretraining == {} and off.performance_metrics["value_loss"] == []
    # Without a critic the policy is still trained: the original trained nothing at all then.
    assert off.performance_metrics["policy_loss"]


def test_orz_without_vapo_has_the_plain_critic_of_ppo():
    agent = learner(enable_vapo=False)
    start = weights(agent.value)
    agent.train_rl_optimizer(num_episodes=0)
    # Not pretrained, and lambda as it was given instead of adapted to the length.
    assert agent.value_pretraining == {} and torch.equal(start, weights(agent.value))
    assert agent.policy_lambda == agent.config.rl_lambda
    agent.train_rl_optimizer()
    assert not torch.equal(start, weights(agent.value)) and agent.performance_metrics["value_loss"]


def test_the_critic_is_pretrained_before_the_policy_moves():
    agent = learner()
    policy = weights(agent.policy)
    agent.train_rl_optimizer(num_episodes=0)
    assert agent.value_pretraining and torch.equal(policy, weights(agent.policy))


def test_the_clip_acts_within_an_update_of_several_passes():
    """One pass per rollout has ratio 1; these make several, and a fast learner then reaches the bounds."""
    assert EPOCHS_PER_UPDATE > 1
    agent = learner(rl_learning_rate=3e-2, enable_dapo=False, rl_max_episodes=20)
    agent.train_rl_optimizer()
    assert max(agent.performance_metrics["clip_fraction"]) > 0.05


def test_with_one_pass_per_rollout_no_clip_can_act_and_the_policy_has_not_moved_yet(monkeypatch):
    from hybrid_core.rl import updates

    monkeypatch.setattr(updates, "EPOCHS_PER_UPDATE", 1)
    agent = learner(rl_learning_rate=3e-2, enable_dapo=False, rl_max_episodes=20)
    agent.train_rl_optimizer()
    assert len(agent.performance_metrics["policy_loss"]) == 10
    assert set(agent.performance_metrics["clip_fraction"]) == {0.0}
    assert max(agent.performance_metrics["approx_kl"]) < 1e-6


def test_a_higher_upper_bound_lets_more_rising_actions_through():
    shares = {}
    for high in (0.1, 0.3):
        agent = learner(rl_learning_rate=1e-2, rl_epsilon_low=0.1, rl_epsilon_high=high, rl_max_episodes=24)
        agent.train_rl_optimizer()
        shares[high] = sum(agent.performance_metrics["clip_high"]) / len(agent.performance_metrics["clip_high"])
        assert max(agent.performance_metrics["clip_low"]) > 0
    assert 0 < shares[0.3] < shares[0.1]


def test_the_critic_of_vapo_is_fitted_to_plain_returns_and_the_plain_one_to_its_own_lambda():
    """Decoupled GAE: a critic fitted to its own biased guesses keeps its bias."""
    for lam in (0.2, 0.9):
        decoupled, coupled = learner(rl_lambda=lam), learner(rl_lambda=lam, enable_vapo=False)
        for agent in (decoupled, coupled):
            group = agent.roll_out()
            _, targets = agent._advantages([group])
            returns = advantages.discounted_returns(agent._shaped([group]), agent.config.rl_gamma)
            assert torch.allclose(targets, returns, atol=1e-5) is (agent is decoupled)


def test_shaping_leaves_group_relative_advantages_as_they_are(monkeypatch):
    """Without a critic the bonus is the same constant in every episode, so it is switched on here by force."""
    from hybrid_core.rl import optimizer

    monkeypatch.setattr(optimizer, "uses_critic", lambda config: False)
    plain, shaped = learner(enable_vapo=False, enable_orz=False), learner(enable_vapo=False)
    group = plain.roll_out()
    without, _ = plain._advantages([group])
    with_zones, _ = shaped._advantages([group])
    assert not torch.allclose(plain._shaped([group]), shaped._shaped([group]))
    torch.testing.assert_close(without, with_zones, atol=2e-6, rtol=1e-4)


def test_compute_gae_uses_the_configured_gamma_and_the_length_adaptive_lambda():
    agent = learner(rl_gamma=0.9, rl_lambda=0.8)
    expected_lambda = 1 - (6 / 3) * (1 - 0.8)
    assert agent.policy_lambda == pytest.approx(expected_lambda)
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.1, 0.2, 0.3]])
    dones = torch.tensor([[0.0, 0.0, 1.0]])
    got, _ = agent.compute_gae(rewards, values, dones)
    expected, _ = advantages.compute_gae(rewards, values, dones, 0.0, 0.9, expected_lambda)
    torch.testing.assert_close(got, expected)


def test_the_documents_dapo_rule_on_a_list_of_rewards():
    agent = learner()
    assert agent.is_episode_valid_for_dapo([1.0, -1.0, 0.5])
    assert not agent.is_episode_valid_for_dapo([1.0, 2.0])
    assert not agent.is_episode_valid_for_dapo([-1.0, -2.0])
    assert not agent.is_episode_valid_for_dapo([1.0, 2.0], threshold=3.0)


def test_reward_zoning_depends_on_state_and_action_and_is_zero_when_off():
    agent, off = learner(), learner(enable_orz=False)
    states = [agent.env.observe(path) for path in ((), (1,), (0,))]
    found = {agent.reward_zoning(state, action) for state in states for action in (0, 1)}
    assert len(found) > 1
    assert {off.reward_zoning(state, 0) for state in states} == {0.0}


def test_selected_actions_follow_the_policy_and_the_mask():
    environment = RecipeGame(SLOTS, SCORES, is_legal=lambda recipe: "quantization" not in recipe.strategies)
    agent = HybridRLOptimizer(HybridOptimizationConfig(rl_hidden_dim=16), environment, seed=1)
    state = environment.observe((1,))
    assert {agent.select_optimization_strategy(state) for _ in range(50)} == {0}
    first = [agent.select_optimization_strategy(environment.observe(())) for _ in range(200)]
    assert 60 < sum(first) < 140  # untrained: two actions, about even


def test_log_probabilities_of_all_recipes_sum_to_one():
    agent = learner()
    agent.train_rl_optimizer()
    total = sum(math.exp(agent.log_probability(path)) for path in agent.env.finished_paths())
    assert total == pytest.approx(1.0, abs=1e-5)


def test_rollouts_earn_what_their_recipes_earn():
    agent = learner()
    group = agent.roll_out()
    paths = [agent.env.paths[state] for state in group.finals.tolist()]
    assert len(paths) == GROUP_SIZE
    assert group.scores == pytest.approx([agent.env.reward(path) for path in paths])
    for episode, path in enumerate(paths):
        assert group.log_probs[episode].sum().item() == pytest.approx(agent.log_probability(path), abs=1e-5)


KEYS = [
    ("rl_hidden_dim", 16),
    ("rl_learning_rate", 1e-4),
    ("rl_value_learning_rate", 1e-2),
    ("rl_gamma", 0.5),
    ("rl_lambda", 0.6),
    ("rl_epsilon_low", 0.01),
    ("rl_epsilon_high", 0.01),
    ("rl_max_episodes", 7),
    ("rl_max_steps_per_episode", 2),
]


@functools.cache
def plainly_trained() -> torch.Tensor:
    agent = learner(rl_max_episodes=16)
    agent.train_rl_optimizer()
    return weights(agent.policy)


@pytest.mark.parametrize(("key", "value"), KEYS)
def test_every_rl_key_changes_the_training(key, value):
    assert getattr(HybridOptimizationConfig(), key) != value
    changed = learner(**({"rl_max_episodes": 16} | {key: value}))
    changed.train_rl_optimizer()
    one, other = plainly_trained(), weights(changed.policy)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_every_rl_key_is_among_those_that_are_shown_to_matter():
    documented = {f.name for f in dataclasses.fields(HybridOptimizationConfig) if f.name.startswith("rl_")}
    assert documented == {key for key, _ in KEYS}


def test_rl_max_episodes_counts_groups():
    agent = learner(rl_max_episodes=7)
    agent.train_rl_optimizer()
    assert len(agent.episode_history) == 7


def test_a_learner_with_rl_switched_off_is_refused():
    with pytest.raises(InvalidInput, match="enable_rl_optimization=False"):
        learner(enable_rl_optimization=False)
