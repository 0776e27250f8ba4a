"""Advantages relative to a group: the centred kind, the kind with a noise floor, and what a mean over what means."""

from __future__ import annotations

import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.rl.grpo import centred_advantages, group_advantages
from hybrid_core.rl.losses import clipped_policy_loss


def test_centred_advantages_are_the_scores_above_the_mean_whatever_their_spread():
    scores = torch.tensor([[1.0, 2.0, 6.0], [0.1, 0.2, 0.6]], dtype=torch.float64)
    expected = torch.tensor([[-2.0, -1.0, 3.0], [-0.2, -0.1, 0.3]], dtype=torch.float64)
    torch.testing.assert_close(centred_advantages(scores), expected)


def test_centred_advantages_scale_with_the_scores_and_standard_scores_do_not():
    scores = torch.randn(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(centred_advantages(10 * scores), 10 * centred_advantages(scores))
    torch.testing.assert_close(group_advantages(10 * scores, 1e-9), group_advantages(scores, 1e-9))


def test_above_the_floor_the_two_differ_by_the_deviation_and_below_it_by_the_floor():
    scores = torch.tensor([0.0, 1.0, 5.0, 2.0], dtype=torch.float64)
    sd = scores.numpy().std(ddof=1)
    torch.testing.assert_close(group_advantages(scores, 0.01) * sd, centred_advantages(scores))
    torch.testing.assert_close(group_advantages(scores, 50.0) * 50.0, centred_advantages(scores))


def test_group_advantages_are_standard_scores_with_the_sample_deviation():
    scores = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    expected = (scores.numpy() - 4.0) / scores.numpy().std(ddof=1)
    torch.testing.assert_close(group_advantages(scores, 1e-6), torch.from_numpy(expected))


def test_a_spread_below_the_noise_is_not_blown_up_to_a_lesson():
    scores = 1.0 + 0.003 * torch.tensor([-1.0, 0.0, 1.0])
    assert group_advantages(scores, noise_floor=0.02).abs().max() == pytest.approx(0.15, rel=1e-3)
    assert group_advantages(scores, noise_floor=1e-9).abs().max() > 0.9
    assert group_advantages(torch.ones(4), noise_floor=0.02).abs().max() == 0.0


def test_a_group_of_one_is_refused():
    for advantages in (centred_advantages, lambda scores: group_advantages(scores, 0.01)):
        with pytest.raises(InvalidInput, match="group of one"):
            advantages(torch.ones(1))


@pytest.mark.parametrize("floor", [0.0, -1.0, float("nan")])
def test_a_noise_floor_that_is_not_positive_is_refused(floor):
    with pytest.raises(InvalidInput, match="noise_floor"):
        group_advantages(torch.ones(3), floor)


def test_with_episodes_of_one_length_the_mean_over_decisions_is_the_mean_of_episode_means():
    """The paper's 1/|o_i|, Dr. GRPO's constant and DAPO's token mean differ only where lengths do."""
    generator = torch.Generator().manual_seed(2)
    log_probs = (0.1 * torch.randn(6, 4, generator=generator)).requires_grad_()
    advantages = centred_advantages(torch.randn(6, generator=generator))[:, None].expand(6, 4)
    over_all = clipped_policy_loss(log_probs, torch.zeros(6, 4), advantages, 0.2, 0.2).loss
    by_episode = torch.stack(
        [clipped_policy_loss(log_probs[i], torch.zeros(4), advantages[i], 0.2, 0.2).loss for i in range(6)]
    ).mean()
    torch.testing.assert_close(over_all, by_episode)
    uneven = [log_probs[:3, :1], log_probs[3:, :]]
    means = torch.stack([part.mean() for part in uneven]).mean()
    assert not torch.isclose(means, torch.cat([part.flatten() for part in uneven]).mean())
