"""One update: several clipped passes of gradient descent over a batch of episodes.

With a single pass the policy is still the one that drew the actions, every ratio is exactly 1 and no clip can act
(Open-Reasoner-Zero trains that way on purpose); the lower and upper bounds matter only from the second pass on. So an
update makes `EPOCHS_PER_UPDATE` of them, and reports how often each bound acted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.rl.losses import PolicyLoss, approximate_kl, clipped_policy_loss, entropy, value_loss
from hybrid_core.rl.networks import PolicyNetwork, ValueNetwork
from hybrid_core.rl.vapo import NLL_WEIGHT, positive_example_loss
from hybrid_core.rl.variants import uses_critic

EPOCHS_PER_UPDATE = 4
GRADIENT_NORM_LIMIT = 1.0


@dataclass(frozen=True)
class Batch:
    """What an update learns from. Shapes (episodes, steps, ...); `succeeded` (episodes,).

    `old_log_probs` are of the policy that drew the actions; `targets` are what the critic is fitted to.
    """

    states: Tensor
    masks: Tensor
    actions: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    targets: Tensor
    succeeded: Tensor


@dataclass(frozen=True)
class Learners:
    """The two networks and their optimizers."""

    policy: PolicyNetwork
    value: ValueNetwork
    optimizer_policy: torch.optim.Optimizer
    optimizer_value: torch.optim.Optimizer


def update(learners: Learners, batch: Batch, config: HybridOptimizationConfig) -> dict[str, float]:
    """Change the networks; returns losses, entropy, clipped shares and approximate KL.

    With enable_dapo the bounds are rl_epsilon_low and rl_epsilon_high, else rl_epsilon_low on both sides. Losses,
    entropy and KL are those of the last pass, before its step; clipped shares are means over the passes.
    """
    high = config.rl_epsilon_high if config.enable_dapo else config.rl_epsilon_low
    passes: list[PolicyLoss] = []
    critic: list[float] = []
    for _ in range(EPOCHS_PER_UPDATE):
        table = learners.policy.log_probabilities(batch.states, batch.masks)
        log_probs = table.gather(-1, batch.actions[..., None]).squeeze(-1)
        step = clipped_policy_loss(log_probs, batch.old_log_probs, batch.advantages, config.rl_epsilon_low, high)
        passes.append(step)
        loss = step.loss
        if config.enable_vapo:
            loss = loss + NLL_WEIGHT * positive_example_loss(log_probs, batch.succeeded)
        _descend(loss, learners.optimizer_policy)
        if uses_critic(config):
            missed = value_loss(learners.value(batch.states), batch.targets)
            _descend(missed, learners.optimizer_value)
            critic.append(missed.item())
    clip_high, clip_low = (sum(getattr(p, side) for p in passes) / len(passes) for side in ("clip_high", "clip_low"))
    report = {
        "policy_loss": step.loss.item(),
        "entropy": entropy(table.detach()).item(),
        "clip_fraction": clip_high + clip_low,
        "clip_high": clip_high,
        "clip_low": clip_low,
        "approx_kl": approximate_kl(log_probs.detach(), batch.old_log_probs),
    }
    return report | ({"value_loss": critic[-1]} if critic else {})


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for group in optimizer.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], GRADIENT_NORM_LIMIT)
    optimizer.step()
