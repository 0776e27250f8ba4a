"""VAPO's additions to PPO: a critic that is trained before it is trusted, and imitation of what worked.

VAPO is *Value-based Augmented Proximal Policy Optimization* (arXiv 2504.05118, building on VC-PPO, arXiv 2503.01491);
the document this project comes from expands it as "Value-Aware Policy Optimization". Its ablation names the critic's
bias at the start as the main risk, hence value pretraining on returns of a fixed policy. The critic's target uses
lambda = 1 (plain returns), the policy a length-adaptive lambda (advantages.py), and successful episodes add a
likelihood term.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybrid_core.rl.losses import value_loss
from hybrid_core.rl.networks import ValueNetwork

CRITIC_LAMBDA = 1.0
NLL_WEIGHT = 0.1
PRETRAIN_STEPS = 50


def pretrain_value(
    value: ValueNetwork, optimizer: torch.optim.Optimizer, states: Tensor, returns: Tensor, steps: int = PRETRAIN_STEPS
) -> list[float]:
    """Fit the critic to the returns of a fixed policy; the losses in order."""
    losses: list[float] = []
    for _ in range(steps):
        loss = value_loss(value(states), returns)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """`1 - Var(returns - values) / Var(returns)`; NaN where the returns do not vary."""
    spread = returns.var(unbiased=False)
    if spread == 0:
        return float("nan")
    return float(1.0 - (returns - values).var(unbiased=False) / spread)


def positive_example_loss(log_probs: Tensor, succeeded: Tensor) -> Tensor:
    """Negative log-likelihood per decision of the successful episodes, `(N, T)` and `(N,)`; 0 when none succeeded."""
    if not bool(succeeded.any()):
        return log_probs.sum() * 0.0
    return -log_probs[succeeded].mean()
