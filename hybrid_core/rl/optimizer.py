"""The learner: a policy that builds recipes, trained with DAPO, VAPO and ORZ, each of which can be switched off.

One iteration rolls out a group of recipes, drops the group if it teaches nothing (DAPO), turns rewards into advantages
(relative to the group: GRPO; with a pretrained critic: VAPO; with shaped rewards and at least a plain critic: ORZ), and
makes several clipped passes over the batch. It learns from what was measured, so it is only as good as those
measurements; at this number of them a plain ranking is a strong rival and the leaderboard says who won.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.rl import advantages as adv
from hybrid_core.rl.dapo import DynamicSampling, group_accuracy, is_informative
from hybrid_core.rl.game import RecipeGame
from hybrid_core.rl.grpo import group_advantages
from hybrid_core.rl.networks import PolicyNetwork, ValueNetwork
from hybrid_core.rl.offline import clone_behaviour
from hybrid_core.rl.orz import RewardZones
from hybrid_core.rl.rollouts import Group, log_probabilities, roll_out
from hybrid_core.rl.tree import Choices
from hybrid_core.rl.updates import Batch, Learners, update
from hybrid_core.rl.vapo import CRITIC_LAMBDA, explained_variance, pretrain_value
from hybrid_core.rl.variants import uses_critic

GROUP_SIZE = 8
GROUPS_PER_UPDATE = 2
PRETRAIN_GROUPS = 8
PER_UPDATE = (
    "policy_loss",
    "value_loss",
    "avg_reward",
    "entropy",
    "clip_fraction",
    "clip_high",
    "clip_low",
    "approx_kl",
    "groups_seen",
)


class HybridRLOptimizer:
    """PPO over the recipe game. `rl_max_episodes` counts iterations, each one group of eight episodes.

    Attributes:
        env: the game, also one in Gymnasium's interface.
        policy, value: the networks; `value` is trained only with enable_vapo or enable_orz.
        zones: the reward zones, None without enable_orz.
        episode_history: per group: mean and best reward, accuracy and the threshold it was judged by, whether kept.
        performance_metrics: one list per name of PER_UPDATE; `value_loss` stays empty without a critic.
        value_pretraining, behaviour_cloning: what the offline start reached, empty where there was none.
    """

    def __init__(
        self, config: HybridOptimizationConfig, environment: RecipeGame, device: str = "cpu", seed: int = 0
    ) -> None:
        if not config.enable_rl_optimization:
            raise InvalidInput("enable_rl_optimization=False; enable it before you build a HybridRLOptimizer")
        self.config = config
        self.env = environment
        self.device = torch.device(device)
        # Everything random is drawn on the CPU, so that a seed means the same on every device.
        self._generator = torch.Generator().manual_seed(seed)
        width = config.rl_hidden_dim
        self.policy = PolicyNetwork(environment.state_dim, width, environment.action_dim, self._generator).to(device)
        self.value = ValueNetwork(environment.state_dim, width, self._generator).to(device)
        # Fused: networks this small spend more time on starting operations than on arithmetic.
        adam = partial(torch.optim.Adam, fused=True)
        self.optimizer_policy = adam(self.policy.parameters(), lr=config.rl_learning_rate)
        self.optimizer_value = adam(self.value.parameters(), lr=config.rl_value_learning_rate)
        self._learners = Learners(self.policy, self.value, self.optimizer_policy, self.optimizer_value)
        self.zones = RewardZones(environment) if config.enable_orz else None
        self.sampling = DynamicSampling(list(environment.measured_rewards.values()))
        adaptive = adv.length_adaptive_lambda(environment.horizon, adv.alpha_for(config.rl_lambda))
        self.policy_lambda = adaptive if config.enable_vapo else config.rl_lambda
        self.episode_history: list[dict[str, Any]] = []
        self.performance_metrics: dict[str, list[float]] = {name: [] for name in PER_UPDATE}
        self.value_pretraining: dict[str, Any] = {}
        self.behaviour_cloning: dict[str, Any] = {}

    def compute_gae(
        self, rewards: Tensor, values: Tensor, dones: Tensor, last_value: Tensor | float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Advantages and value targets with rl_gamma and the policy's lambda (length-adaptive with enable_vapo)."""
        return adv.compute_gae(rewards, values, dones, last_value, self.config.rl_gamma, self.policy_lambda)

    def is_episode_valid_for_dapo(self, rewards: list[float], threshold: float = 0.0) -> bool:
        """True when some but not all of a group's rewards reach the threshold (the document's 0 < accuracy < 1)."""
        return is_informative(group_accuracy(rewards, threshold))

    def reward_zoning(self, state: Any, action: int) -> float:
        """The shaping bonus of an action in a state of this environment; 0 without enable_orz."""
        if self.zones is None:
            return 0.0
        return self.zones.bonus(self.env.decode(torch.as_tensor(state)), int(action), self.config.rl_gamma)

    @torch.no_grad()
    def select_optimization_strategy(self, state: Any) -> int:
        """Sample an action of the current slot from the policy; masked actions are never drawn. numpy or tensor."""
        state = torch.as_tensor(state)
        mask = self.env.mask(self.env.decode(state))
        probabilities = self.policy(state.to(self.device), mask.to(self.device)).cpu()
        return int(torch.multinomial(probabilities, 1, generator=self._generator))

    def log_probability(self, path: Choices) -> float:
        """Log-probability that the policy builds exactly this recipe."""
        return float(self.log_probabilities()[self.env.state(path)])

    def log_probabilities(self) -> Tensor:
        """The same for every state of the game, shape (states,)."""
        return log_probabilities(self.policy, self.env)

    def roll_out(self, episodes: int = GROUP_SIZE) -> Group:
        """Let the policy build `episodes` recipes side by side."""
        return roll_out(self.policy, self.env, episodes, self._generator)

    def imitate(self, keys: Sequence[str]) -> None:
        """Fit the policy to these recipes before it is trained; those that the game cannot build are left out."""
        losses = clone_behaviour(self.policy, self.optimizer_policy, self.env, keys)
        if losses:
            known = set(self.env.keys[self.env.first_finished :])
            self.behaviour_cloning = {
                "examples": sum(key in known for key in keys),
                "first_loss": losses[0],
                "last_loss": losses[-1],
            }

    def train_rl_optimizer(self, num_episodes: int | None = None) -> dict[str, list[float]]:
        """Train for `num_episodes` iterations (default rl_max_episodes); returns `performance_metrics`."""
        if self.config.enable_vapo and not self.value_pretraining:
            self._pretrain()
        waiting: list[Group] = []
        for _ in range(self.config.rl_max_episodes if num_episodes is None else num_episodes):
            group = self.roll_out()
            scores, threshold = group.scores, self.sampling.threshold
            accuracy = group_accuracy(scores, threshold)
            kept = self.sampling.admit(scores) or not self.config.enable_dapo
            self.episode_history.append(
                {
                    "mean": sum(scores) / len(scores),
                    "best": max(scores),
                    "accuracy": accuracy,
                    "threshold": threshold,
                    "kept": kept,
                }
            )
            waiting += [group] if kept else []
            if len(waiting) == GROUPS_PER_UPDATE:
                self._update(waiting)
                waiting = []
        return self.performance_metrics

    def _pretrain(self) -> None:
        """VAPO: fit the critic to returns of the policy as it stands before its advantages are used."""
        groups = [self.roll_out() for _ in range(PRETRAIN_GROUPS)]
        states = self._observed(torch.cat([g.nodes for g in groups]))
        returns = adv.discounted_returns(self._shaped(groups), self.config.rl_gamma).to(self.device)
        losses = pretrain_value(self.value, self.optimizer_value, states, returns)
        with torch.no_grad():
            explained = explained_variance(self.value(states), returns)
        self.value_pretraining = {
            "first_loss": losses[0],
            "last_loss": losses[-1],
            "explained_variance": explained,
            "losses": losses,
        }

    def _observed(self, nodes: Tensor) -> Tensor:
        return self.env.observations[nodes].to(self.device)

    def _shaped(self, groups: Sequence[Group]) -> Tensor:
        """Rewards plus the zones' bonus, all episodes in one tensor; the plain rewards without enable_orz."""
        rewards = torch.cat([g.rewards for g in groups])
        if self.zones is None:
            return rewards
        nodes, successors = torch.cat([g.nodes for g in groups]), torch.cat([g.successors for g in groups])
        return rewards + self.zones.bonuses(nodes, successors, self.config.rl_gamma)

    def _advantages(self, groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
        """Advantages of every decision and targets of the critic, shape (episodes, steps)."""
        rewards, gamma = self._shaped(groups), self.config.rl_gamma
        returns = adv.discounted_returns(rewards, gamma)
        if not uses_critic(self.config):
            # One score per episode, spread over its decisions.
            scores = returns[:, 0].reshape(len(groups), -1)
            per_episode = group_advantages(scores, self.env.noise).reshape(-1, 1)
            return per_episode.expand_as(returns).to(self.device), returns.to(self.device)
        dones = torch.zeros_like(rewards)
        dones[:, -1] = 1.0
        with torch.no_grad():
            values = self.value(self._observed(torch.cat([g.nodes for g in groups]))).cpu()
        advantages, targets = self.compute_gae(rewards, values, dones)
        if self.config.enable_vapo:
            # Decoupled: the critic's target is the plain return, whatever lambda the policy uses.
            _, targets = adv.compute_gae(rewards, values, dones, 0.0, gamma, CRITIC_LAMBDA)
        return adv.whiten(advantages, self.env.noise).to(self.device), targets.to(self.device)

    def _update(self, groups: Sequence[Group]) -> None:
        """One update of the networks, and its figures into `performance_metrics`."""
        nodes = torch.cat([g.nodes for g in groups])
        scores = [score for g in groups for score in g.scores]
        advantages, targets = self._advantages(groups)
        batch = Batch(
            self._observed(nodes),
            self.env.masks[nodes].to(self.device),
            torch.cat([g.actions for g in groups]).to(self.device),
            torch.cat([g.log_probs for g in groups]).to(self.device),
            advantages,
            targets,
            torch.tensor([score >= self.sampling.threshold for score in scores], device=self.device),
        )
        figures = update(self._learners, batch, self.config)
        figures |= {"avg_reward": sum(scores) / len(scores), "groups_seen": len(self.episode_history)}
        for name, value in figures.items():
            self.performance_metrics[name].append(value)
