"""The losses of the learner as pure functions, averaged per decision ("token") and not per episode.

PPO's clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, equation 7) with DAPO's separate lower and upper
bounds (arXiv 2503.14476, equation 8). The ratio is pi_new / pi_old with pi_old frozen at rollout time; with a single
update per rollout it is exactly 1 and the clip never acts, which is why the learner makes several passes over each
batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# exp(20) is far beyond any clip; it only keeps a diverged policy from producing infinities.
LOG_RATIO_LIMIT = 20.0


@dataclass(frozen=True)
class PolicyLoss:
    """The loss to minimise and the shares of decisions whose gradient the upper and the lower bound removed."""

    loss: Tensor
    clip_high: float
    clip_low: float

    @property
    def clip_fraction(self) -> float:
        """The share of decisions whose gradient the clip removed."""
        return self.clip_high + self.clip_low


def clipped_policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, epsilon_low: float, epsilon_high: float
) -> PolicyLoss:
    """Mean of `max(-A r, -A clip(r, 1 - epsilon_low, 1 + epsilon_high))` over all decisions of the batch."""
    ratio = (log_probs - old_log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    free = -advantages * ratio
    held = -advantages * ratio.clamp(1.0 - epsilon_low, 1.0 + epsilon_high)
    removed = held > free
    high, low = (float((removed & side).float().mean()) for side in (ratio > 1.0, ratio < 1.0))
    return PolicyLoss(torch.maximum(free, held).mean(), high, low)


def approximate_kl(log_probs: Tensor, old_log_probs: Tensor) -> float:
    """Estimate of KL(old, new) from actions the old policy drew: the mean of `r - 1 - log r`, r = new / old.

    Unbiased, never negative, and of small variance while the policies are close (Schulman 2020, "Approximating KL
    divergence", estimator k3).
    """
    log_ratio = (log_probs - old_log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return float((log_ratio.exp() - 1.0 - log_ratio).mean())


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """Half the mean squared error between predicted and observed returns."""
    return 0.5 * (values - returns).square().mean()


def entropy(log_probabilities: Tensor) -> Tensor:
    """Mean entropy in nats of the rows; masked actions (-inf) count as probability 0."""
    # 0 * -inf is NaN, so the masked entries are replaced before the product.
    finite = log_probabilities.masked_fill(log_probabilities == -torch.inf, 0.0)
    return -(log_probabilities.exp() * finite).sum(dim=-1).mean()
