"""Advantage estimators against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.rl.advantages import (
    alpha_for,
    compute_gae,
    discounted_returns,
    length_adaptive_lambda,
    whiten,
)

GAMMA = 0.9


@pytest.fixture
def episode() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    rewards = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    values = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    dones = torch.zeros(3, 5, dtype=torch.float64)
    dones[:, -1] = 1
    return rewards, values, dones


def test_gae_with_lambda_one_is_the_return_minus_the_value(episode):
    rewards, values, dones = episode
    advantages, returns = compute_gae(rewards, values, dones, 0.0, GAMMA, 1.0)
    by_hand = torch.tensor(
        [[sum(GAMMA ** (k - t) * row[k].item() for k in range(t, 5)) for t in range(5)] for row in rewards],
        dtype=torch.float64,
    )
    torch.testing.assert_close(advantages, by_hand - values)
    torch.testing.assert_close(returns, by_hand)
    torch.testing.assert_close(discounted_returns(rewards, GAMMA), by_hand)


def test_gae_with_lambda_zero_is_the_one_step_error(episode):
    rewards, values, dones = episode
    advantages, _ = compute_gae(rewards, values, dones, 0.0, GAMMA, 0.0)
    following = torch.cat([values[:, 1:], torch.zeros(3, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(advantages, rewards + GAMMA * following - values)


def test_gae_is_the_geometric_sum_of_the_errors_for_any_lambda(episode):
    rewards, values, dones = episode
    lam = 0.6
    deltas, _ = compute_gae(rewards, values, dones, 0.0, GAMMA, 0.0)
    advantages, returns = compute_gae(rewards, values, dones, 0.0, GAMMA, lam)
    for t in range(5):
        expected = sum((GAMMA * lam) ** (k - t) * deltas[:, k] for k in range(t, 5))
        torch.testing.assert_close(advantages[:, t], expected)
    torch.testing.assert_close(returns, advantages + values)


def test_nothing_flows_back_over_the_end_of_an_episode(episode):
    rewards, values, _ = episode
    dones = torch.zeros(3, 5, dtype=torch.float64)
    dones[:, 2] = 1
    together, _ = compute_gae(rewards, values, dones, 0.0, GAMMA, 0.8)
    first, _ = compute_gae(rewards[:, :3], values[:, :3], dones[:, :3], 0.0, GAMMA, 0.8)
    torch.testing.assert_close(together[:, :3], first)


def test_the_value_after_a_cut_episode_counts_and_after_a_finished_one_does_not(episode):
    rewards, values, dones = episode
    cut, _ = compute_gae(rewards, values, torch.zeros_like(dones), 100.0, GAMMA, 0.8)
    finished, _ = compute_gae(rewards, values, dones, 100.0, GAMMA, 0.8)
    torch.testing.assert_close(cut[:, -1] - finished[:, -1], torch.full((3,), 90.0, dtype=torch.float64))


def test_the_papers_alpha_would_make_lambda_negative_for_recipes_and_is_clamped():
    assert 1 - 1 / (0.05 * 6) == pytest.approx(-2.333, abs=1e-3)
    assert [length_adaptive_lambda(length, 0.05) for length in (1, 4, 6, 20)] == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("lam", [0.5, 0.9, 0.95, 0.99])
def test_alpha_reproduces_the_configured_lambda_at_the_reference_length(lam):
    assert length_adaptive_lambda(6, alpha_for(lam)) == pytest.approx(lam)
    assert length_adaptive_lambda(3, alpha_for(lam)) <= lam <= length_adaptive_lambda(12, alpha_for(lam)) < 1


def test_lambda_one_stays_one_and_lambda_zero_stays_in_range():
    assert alpha_for(1.0) == math.inf
    assert length_adaptive_lambda(3, alpha_for(1.0)) == 1.0
    assert length_adaptive_lambda(3, alpha_for(0.0)) == 0.0


def test_an_episode_without_steps_is_refused():
    with pytest.raises(InvalidInput, match="length=0"):
        length_adaptive_lambda(0, 1.0)


def test_whitened_advantages_have_mean_zero_and_unit_spread():
    values = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 5
    white = whiten(values, 1e-6)
    assert white.mean().item() == pytest.approx(0, abs=1e-12)
    assert white.std(unbiased=False).item() == pytest.approx(1)
