"""The networks: shapes, masks, and leaving the caller's random numbers alone."""

from __future__ import annotations

import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.rl.networks import PolicyNetwork, ValueNetwork


def test_a_policy_gives_probabilities_over_the_allowed_actions_only():
    policy = PolicyNetwork(5, 16, 4, torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, False, True, True], [True, False, False, False]])
    probabilities = policy(torch.randn(2, 5, generator=torch.Generator().manual_seed(1)), mask)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2))
    assert (probabilities[~mask] == 0).all() and (probabilities[mask] > 0).all()


def test_masked_actions_get_no_gradient_and_no_nan():
    policy = PolicyNetwork(5, 16, 3, torch.Generator().manual_seed(0))
    table = policy.log_probabilities(torch.ones(1, 5), torch.tensor([[True, True, False]]))
    table[0, 0].backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters())


def test_a_state_without_any_allowed_action_is_refused():
    policy = PolicyNetwork(2, 4, 3)
    with pytest.raises(InvalidInput, match="no action"):
        policy(torch.zeros(1, 2), torch.zeros(1, 3, dtype=torch.bool))


def test_an_untrained_policy_is_nearly_uniform():
    policy = PolicyNetwork(8, 64, 4, torch.Generator().manual_seed(0))
    probabilities = policy(torch.randn(32, 8, generator=torch.Generator().manual_seed(1)))
    assert (probabilities - 0.25).abs().max() < 0.05


def test_equal_seeds_give_equal_networks_and_the_global_generator_is_not_used():
    before = torch.get_rng_state()
    first, second = (PolicyNetwork(5, 8, 3, torch.Generator().manual_seed(4)) for _ in range(2))
    ValueNetwork(5, 8, torch.Generator().manual_seed(4))
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_value_is_one_number_per_state():
    assert ValueNetwork(5, 8)(torch.zeros(2, 3, 5)).shape == (2, 3)
