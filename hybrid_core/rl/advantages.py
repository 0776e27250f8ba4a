"""How much better an action was than a critic expected: GAE and VAPO's length-adaptive lambda as pure functions.

Time is the last dimension everywhere. Sources: GAE, Schulman et al. 2015 (arXiv 1506.02438) equation 16;
length-adaptive lambda, VAPO (arXiv 2504.05118). Advantages without a critic, relative to a group, are in grpo.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybrid_core.errors import InvalidInput

# rl_lambda is meant for a recipe of this many decisions; alpha = 10/3 then gives 0.95.
REFERENCE_LENGTH = 6


def compute_gae(
    rewards: Tensor, values: Tensor, dones: Tensor, last_value: Tensor | float, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets: `A_t = delta_t + gamma lam A_{t+1}`, `delta_t = r_t + gamma V_{t+1} - V_t`.

    Shapes `(..., T)`; nothing flows back over a step whose `done` is 1. `last_value` is V after the last step.
    The target is `A + V` taken before any normalisation.
    """
    alive = 1.0 - dones.to(rewards.dtype)
    next_value = torch.as_tensor(last_value, dtype=rewards.dtype).expand(rewards.shape[:-1])
    running = torch.zeros_like(next_value)
    advantages = torch.empty_like(rewards)
    for t in range(rewards.shape[-1] - 1, -1, -1):
        delta = rewards[..., t] + gamma * next_value * alive[..., t] - values[..., t]
        running = delta + gamma * lam * alive[..., t] * running
        advantages[..., t] = running
        next_value = values[..., t]
    return advantages, advantages + values


def discounted_returns(rewards: Tensor, gamma: float) -> Tensor:
    """`G_t = r_t + gamma G_{t+1}` of complete episodes, shape `(..., T)`."""
    returns = torch.empty_like(rewards)
    running = torch.zeros_like(rewards[..., 0])
    for t in range(rewards.shape[-1] - 1, -1, -1):
        running = rewards[..., t] + gamma * running
        returns[..., t] = running
    return returns


def alpha_for(lam: float, reference_length: int = REFERENCE_LENGTH) -> float:
    """The alpha at which the length-adaptive lambda equals `lam` for episodes of `reference_length` steps.

    The paper's 0.05 is for answers of thousands of tokens; at six steps it would give lambda = -2.33.

    >>> round(alpha_for(0.95), 4)
    3.3333
    """
    return math.inf if lam >= 1.0 else 1.0 / (reference_length * (1.0 - lam))


def length_adaptive_lambda(length: int, alpha: float) -> float:
    """VAPO's `1 - 1 / (alpha * length)`, from `sum lambda^t = alpha * length`, clamped to [0, 1].

    >>> round(length_adaptive_lambda(4, alpha_for(0.95)), 3), length_adaptive_lambda(6, 0.05)
    (0.925, 0.0)
    """
    if length < 1:
        raise InvalidInput(f"length={length} is not allowed; an episode has at least one step")
    return min(1.0, max(0.0, 1.0 - 1.0 / (alpha * length)))


def whiten(advantages: Tensor, noise_floor: float) -> Tensor:
    """Zero mean and unit spread over the whole batch, but never dividing by less than the noise."""
    return (advantages - advantages.mean()) / advantages.std(unbiased=False).clamp_min(noise_floor)
