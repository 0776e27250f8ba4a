"""The learner: a policy that builds recipes, trained with DAPO, VAPO and ORZ, each of which can be switched off.

One iteration rolls out a group of recipes, drops the group if it teaches nothing (DAPO), turns rewards into
advantages (with a critic: VAPO; shaped: ORZ), and makes several clipped passes over the batch. It learns from what
the run measured, so it is only as good as those measurements; at this number of them a plain ranking is a strong
rival and the leaderboard says who won.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.rl import advantages as adv
from hybrid_core.rl.dapo import DynamicSampling, group_accuracy, is_informative
from hybrid_core.rl.environment import Choices, OptimizationEnvironment
from hybrid_core.rl.losses import clipped_policy_loss, entropy, value_loss
from hybrid_core.rl.networks import PolicyNetwork, ValueNetwork
from hybrid_core.rl.orz import RewardZones
from hybrid_core.rl.vapo import CRITIC_LAMBDA, NLL_WEIGHT, explained_variance, positive_example_loss, pretrain_value

GROUP_SIZE = 8
GROUPS_PER_UPDATE = 2
EPOCHS_PER_UPDATE = 4
PRETRAIN_GROUPS = 8
GRADIENT_NORM_LIMIT = 1.0


@dataclass(frozen=True)
class Group:
    """Episodes rolled out together: tensors of shape (episodes, steps, ...) and the recipes they built."""

    states: Tensor
    masks: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    paths: tuple[Choices, ...]

    @property
    def scores(self) -> list[float]:
        """The reward of each episode, before any shaping."""
        return [float(r) for r in self.rewards.sum(dim=-1)]


class HybridRLOptimizer:
    """PPO over the slot environment. `rl_max_episodes` counts iterations, each one group of eight episodes.

    Attributes:
        policy, value: the networks; `value` is trained only with enable_vapo.
        zones: the reward zones, None without enable_orz.
        episode_history: per group: mean reward, best reward, accuracy, whether it was kept.
        performance_metrics: lists over updates: policy_loss, value_loss, avg_reward, entropy, clip_fraction.
    """

    def __init__(
        self, config: HybridOptimizationConfig, environment: OptimizationEnvironment, device: str = "cpu", seed: int = 0
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
        self.optimizer_policy = torch.optim.Adam(self.policy.parameters(), lr=config.rl_learning_rate)
        self.optimizer_value = torch.optim.Adam(self.value.parameters(), lr=config.rl_value_learning_rate)
        self.zones = RewardZones(environment) if config.enable_orz else None
        self.sampling = DynamicSampling(list(environment.measured_rewards.values()))
        self.policy_lambda = adv.length_adaptive_lambda(environment.horizon, adv.alpha_for(config.rl_lambda))
        self.episode_history: list[dict[str, Any]] = []
        names = ("policy_loss", "value_loss", "avg_reward", "entropy", "clip_fraction")
        self.performance_metrics: dict[str, list[float]] = {name: [] for name in names}
        self.value_pretraining: dict[str, float] = {}

    def compute_gae(
        self, rewards: Tensor, values: Tensor, dones: Tensor, last_value: Tensor | float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Advantages and value targets with rl_gamma and the policy's length-adaptive lambda."""
        return adv.compute_gae(rewards, values, dones, last_value, self.config.rl_gamma, self.policy_lambda)

    def is_episode_valid_for_dapo(self, rewards: list[float], threshold: float = 0.0) -> bool:
        """True when some but not all of a group's rewards reach the threshold (the document's 0 < accuracy < 1)."""
        return is_informative(group_accuracy(rewards, threshold))

    def reward_zoning(self, state: Tensor, action: int) -> float:
        """The shaping bonus of an action in a state of this environment; 0 without enable_orz."""
        if self.zones is None:
            return 0.0
        return self.zones.bonus(self.env.decode(state), action, self.config.rl_gamma)

    @torch.no_grad()
    def select_optimization_strategy(self, state: Tensor) -> int:
        """Sample an action of the current slot from the policy; masked actions are never drawn."""
        mask = self.env.mask(self.env.decode(state))
        probabilities = self.policy(state.to(self.device), mask.to(self.device)).cpu()
        return int(torch.multinomial(probabilities, 1, generator=self._generator))

    @torch.no_grad()
    def log_probability(self, path: Choices) -> float:
        """Log-probability that the policy builds exactly this recipe."""
        prefixes = [path[:n] for n in range(len(path))]
        states = torch.stack([self.env.observe(p) for p in prefixes]).to(self.device)
        masks = torch.stack([self.env.mask(p) for p in prefixes]).to(self.device)
        table = self.policy.log_probabilities(states, masks)
        return float(table.gather(-1, torch.tensor(path, device=self.device)[:, None]).sum())

    def train_rl_optimizer(self, num_episodes: int | None = None) -> dict[str, list[float]]:
        """Train for `num_episodes` iterations (default rl_max_episodes); returns `performance_metrics`."""
        if self.config.enable_vapo and not self.value_pretraining:
            self._pretrain()
        waiting: list[Group] = []
        for _ in range(self.config.rl_max_episodes if num_episodes is None else num_episodes):
            group = self.roll_out()
            accuracy = group_accuracy(group.scores, self.sampling.threshold)
            kept = self.sampling.admit(group.scores) or not self.config.enable_dapo
            best, mean = max(group.scores), sum(group.scores) / GROUP_SIZE
            self.episode_history.append({"mean": mean, "best": best, "accuracy": accuracy, "kept": kept})
            waiting += [group] if kept else []
            if len(waiting) == GROUPS_PER_UPDATE:
                self._update(waiting)
                waiting = []
        return self.performance_metrics

    @torch.no_grad()
    def roll_out(self, episodes: int = GROUP_SIZE) -> Group:
        """Let the policy build `episodes` recipes side by side."""
        paths: list[Choices] = [()] * episodes
        columns: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for _ in range(self.env.horizon):
            states = torch.stack([self.env.observe(p) for p in paths])
            masks = torch.stack([self.env.mask(p) for p in paths])
            table = self.policy.log_probabilities(states.to(self.device), masks.to(self.device)).cpu()
            actions = torch.multinomial(table.exp(), 1, generator=self._generator)
            columns.append((states, masks, actions.squeeze(-1), table.gather(-1, actions).squeeze(-1)))
            paths = [(*p, int(a)) for p, a in zip(paths, actions, strict=True)]
        states, masks, actions, log_probs = (torch.stack(c, dim=1).to(self.device) for c in zip(*columns, strict=True))
        rewards = torch.zeros(episodes, self.env.horizon)
        rewards[:, -1] = torch.tensor([self.env.reward(p) for p in paths])
        return Group(states, masks, actions, log_probs, rewards.to(self.device), tuple(paths))

    def _pretrain(self) -> None:
        """VAPO: fit the critic to returns of the untrained policy before its advantages are used."""
        groups = [self.roll_out() for _ in range(PRETRAIN_GROUPS)]
        states = torch.cat([g.states for g in groups])
        returns = adv.discounted_returns(torch.cat([self._shaped(g) for g in groups]), self.config.rl_gamma)
        losses = pretrain_value(self.value, self.optimizer_value, states, returns)
        with torch.no_grad():
            explained = explained_variance(self.value(states), returns)
        self.value_pretraining = {"first_loss": losses[0], "last_loss": losses[-1], "explained_variance": explained}

    def _shaped(self, group: Group) -> Tensor:
        """Rewards plus the zones' bonus; the plain rewards without enable_orz."""
        if self.zones is None:
            return group.rewards
        bonus = [
            [self.zones.bonus(path[:t], path[t], self.config.rl_gamma) for t in range(len(path))]
            for path in group.paths
        ]
        return group.rewards + torch.tensor(bonus, device=self.device)

    def _advantages(self, groups: list[Group]) -> tuple[Tensor, Tensor]:
        """Advantages of every decision and returns for the critic, shape (episodes, steps)."""
        rewards = [self._shaped(group) for group in groups]
        gamma = self.config.rl_gamma
        if not self.config.enable_vapo:
            # One score per episode, spread over its decisions (GRPO); no critic takes part.
            scores = [adv.discounted_returns(r, gamma)[:, 0] for r in rewards]
            per_episode = torch.cat([adv.group_advantages(s, self.env.noise) for s in scores])
            returns = adv.discounted_returns(torch.cat(rewards), gamma)
            return per_episode[:, None].expand_as(returns), returns
        every = torch.cat(rewards)
        dones = torch.zeros_like(every)
        dones[:, -1] = 1.0
        with torch.no_grad():
            values = self.value(torch.cat([g.states for g in groups]))
        advantages, _ = self.compute_gae(every, values, dones)
        _, returns = adv.compute_gae(every, values, dones, 0.0, gamma, CRITIC_LAMBDA)
        return adv.whiten(advantages, self.env.noise), returns

    def _update(self, groups: list[Group]) -> None:
        """Several clipped passes over the batch; DAPO off means a symmetric clip of rl_epsilon_low."""
        config = self.config
        high = config.rl_epsilon_high if config.enable_dapo else config.rl_epsilon_low
        states, masks = torch.cat([g.states for g in groups]), torch.cat([g.masks for g in groups])
        actions, old = torch.cat([g.actions for g in groups]), torch.cat([g.log_probs for g in groups])
        succeeded = torch.tensor([s >= self.sampling.threshold for g in groups for s in g.scores], device=self.device)
        advantages, returns = self._advantages(groups)
        clipped: list[float] = []
        for _ in range(EPOCHS_PER_UPDATE):
            table = self.policy.log_probabilities(states, masks)
            log_probs = table.gather(-1, actions[..., None]).squeeze(-1)
            step = clipped_policy_loss(log_probs, old, advantages, config.rl_epsilon_low, high)
            loss = step.loss
            if config.enable_vapo:
                loss = loss + NLL_WEIGHT * positive_example_loss(log_probs, succeeded)
            _descend(loss, self.optimizer_policy)
            clipped.append(step.clip_fraction)
            if config.enable_vapo:
                critic = value_loss(self.value(states), returns)
                _descend(critic, self.optimizer_value)
        metrics = self.performance_metrics
        metrics["policy_loss"].append(step.loss.item())
        metrics["entropy"].append(entropy(table.detach()).item())
        metrics["clip_fraction"].append(sum(clipped) / len(clipped))
        metrics["avg_reward"].append(sum(s for g in groups for s in g.scores) / len(succeeded))
        if config.enable_vapo:
            metrics["value_loss"].append(critic.item())


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for group in optimizer.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], GRADIENT_NORM_LIMIT)
    optimizer.step()
