"""VAPO's critic pretraining and its positive-example term."""

from __future__ import annotations

import math

import pytest
import torch

from hybrid_core.rl.networks import ValueNetwork
from hybrid_core.rl.vapo import explained_variance, positive_example_loss, pretrain_value


def test_pretraining_brings_the_critic_close_to_the_returns():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(64, 4, 6, generator=generator)
    returns = states[..., 0] - 0.5 * states[..., 1]
    value = ValueNetwork(6, 64, generator)
    optimizer = torch.optim.Adam(value.parameters(), lr=3e-3)
    losses = pretrain_value(value, optimizer, states, returns, steps=150)
    assert losses[-1] < 0.1 * losses[0]
    with torch.no_grad():
        assert explained_variance(value(states), returns) > 0.8


def test_explained_variance_is_one_for_truth_zero_for_the_mean_and_unknown_without_spread():
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(torch.full((3,), 2.0), returns) == pytest.approx(0.0)
    assert math.isnan(explained_variance(returns, torch.ones(3)))


def test_the_positive_term_is_the_mean_over_decisions_of_successful_episodes_only():
    log_probs = torch.tensor([[-1.0, -3.0], [-10.0, -10.0], [-2.0, -2.0]], requires_grad=True)
    loss = positive_example_loss(log_probs, torch.tensor([True, False, True]))
    assert loss.item() == pytest.approx(2.0)
    loss.backward()
    torch.testing.assert_close(log_probs.grad, torch.tensor([[-0.25, -0.25], [0.0, 0.0], [-0.25, -0.25]]))


def test_without_a_success_the_positive_term_is_zero_and_differentiable():
    log_probs = torch.tensor([[-1.0]], requires_grad=True)
    loss = positive_example_loss(log_probs, torch.tensor([False]))
    loss.backward()
    assert loss.item() == 0.0 and log_probs.grad.item() == 0.0
