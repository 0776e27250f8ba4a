"""GRPO: a group of recipes for one model is its own yardstick, so no critic is needed.

GRPO is *Group Relative Policy Optimization* (DeepSeekMath, arXiv 2402.03300). The document this project comes from
names only a module `enhanced_grpo` "for training optimization" and does not expand the name; here it is what remains
when DAPO, VAPO and ORZ are switched off. The paper divides what a recipe scored above its group's mean by the group's
deviation. Dr. GRPO (arXiv 2503.20783) drops that division, because it makes a group whose scores differ by nothing but
noise weigh as much as one with real differences; here timing noise is known, so the second variant divides, but never
by less than that noise, and it is the one that runs. The paper also averages within each episode first, which favours
short answers, where Dr. GRPO divides by a constant length: every episode here has the same number of decisions, so that
constant, DAPO's mean over all decisions and the paper's mean of means are one and the same up to a factor.
"""

from __future__ import annotations

from torch import Tensor

from hybrid_core.errors import InvalidInput


def centred_advantages(scores: Tensor) -> Tensor:
    """Dr. GRPO: `score - mean` over the last dimension, the group.

    Raises:
        InvalidInput: a group of one; it has nothing to be compared with.
    """
    if scores.shape[-1] < 2:
        raise InvalidInput("a group of one episode has no relative advantage; use groups of two or more")
    return scores - scores.mean(dim=-1, keepdim=True)


def group_advantages(scores: Tensor, noise_floor: float) -> Tensor:
    """GRPO with a floor: `(score - mean) / max(sample sd, noise_floor)` over the last dimension, the group.

    Raises:
        InvalidInput: a group of one, or a floor that is not positive.
    """
    if not noise_floor > 0:
        raise InvalidInput(f"noise_floor={noise_floor!r} is not allowed; give the measured noise, above 0")
    return centred_advantages(scores) / scores.std(dim=-1, keepdim=True).clamp_min(noise_floor)
