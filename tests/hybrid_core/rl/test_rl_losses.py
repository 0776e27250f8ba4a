"""The clipped loss against a scalar re-implementation and its known gradients."""

from __future__ import annotations

import math

import pytest
import torch

from hybrid_core.rl.losses import approximate_kl, clipped_policy_loss, entropy, value_loss

LOW, HIGH = 0.1, 0.3


def scalar_objective(ratio: float, advantage: float) -> float:
    clipped = min(max(ratio, 1 - LOW), 1 + HIGH)
    return min(ratio * advantage, clipped * advantage)


def test_the_loss_is_the_mean_over_decisions_of_the_clipped_objective():
    ratios, advantages = [0.5, 0.95, 1.2, 1.5, 0.5, 1.5], [1.0, 2.0, -1.0, 1.0, -1.0, -2.0]
    old = torch.zeros(6)
    got = clipped_policy_loss(torch.tensor(ratios).log(), old, torch.tensor(advantages), LOW, HIGH)
    expected = -sum(map(scalar_objective, ratios, advantages)) / 6
    assert got.loss.item() == pytest.approx(expected, rel=1e-5)
    # Clipped: 1.5 with a positive advantage, 0.5 with a negative one.
    assert got.clip_fraction == pytest.approx(2 / 6)
    assert (got.clip_high, got.clip_low) == pytest.approx((1 / 6, 1 / 6))


@pytest.mark.parametrize(
    ("ratio", "advantage", "has_gradient"),
    [(1.29, 1.0, True), (1.31, 1.0, False), (0.91, -1.0, True), (0.89, -1.0, False), (1.4, -1.0, True)],
)
def test_the_bounds_are_decoupled_and_cut_the_gradient(ratio, advantage, has_gradient):
    log_prob = torch.tensor([math.log(ratio)], requires_grad=True)
    clipped_policy_loss(log_prob, torch.zeros(1), torch.tensor([advantage]), LOW, HIGH).loss.backward()
    assert (log_prob.grad.abs() > 0).item() is has_gradient


def test_every_decision_weighs_the_same_whatever_episode_it_is_in():
    # Two episodes, of one and of three decisions: a mean of episode means would weigh the first decision three times.
    log_probs = torch.zeros(4, requires_grad=True)
    clipped_policy_loss(log_probs, torch.zeros(4), torch.ones(4), LOW, HIGH).loss.backward()
    torch.testing.assert_close(log_probs.grad, torch.full((4,), -0.25))


def test_with_one_update_per_rollout_the_clip_cannot_act_and_with_several_it_does():
    """The original code updated once per episode: its ratio was always 1."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.zeros(64, 4, requires_grad=True)
    actions = torch.randint(4, (64, 1), generator=generator)
    advantages = torch.randn(64, generator=generator)
    old = logits.detach().log_softmax(-1).gather(1, actions).squeeze(1)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    fractions = []
    for _ in range(8):
        log_probs = logits.log_softmax(-1).gather(1, actions).squeeze(1)
        step = clipped_policy_loss(log_probs, old, advantages, LOW, HIGH)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        fractions.append(step.clip_fraction)
    assert fractions[0] == 0.0
    assert fractions[-1] > 0.5


def test_without_the_clip_the_same_steps_go_much_further():
    def furthest(high: float) -> float:
        logits = torch.zeros(1, 4, requires_grad=True)
        old = logits.detach().log_softmax(-1)[:, 0]
        optimizer = torch.optim.SGD([logits], lr=1.0)
        for _ in range(20):
            step = clipped_policy_loss(logits.log_softmax(-1)[:, 0], old, torch.ones(1), LOW, high)
            optimizer.zero_grad()
            step.loss.backward()
            optimizer.step()
        return float((logits.detach().log_softmax(-1)[:, 0] - old).exp())

    assert furthest(HIGH) < 2.0 < 3.0 < furthest(10.0)


def test_the_kl_estimate_is_exact_in_expectation_and_never_negative():
    generator = torch.Generator().manual_seed(4)
    old, new = (torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    exact = float((old.exp() * (old - new)).sum())
    # Over all actions of the old policy, each as often as it draws it.
    each = torch.tensor([approximate_kl(new[a : a + 1], old[a : a + 1]) for a in range(5)], dtype=torch.float64)
    assert float((old.exp() * each).sum()) == pytest.approx(exact)
    assert (each >= 0).all() and exact > 0.01
    assert approximate_kl(old, old) == 0.0


def test_a_diverged_policy_gives_finite_losses():
    step = clipped_policy_loss(torch.tensor([500.0]), torch.tensor([-500.0]), torch.tensor([-1.0]), LOW, HIGH)
    assert math.isfinite(step.loss.item())


def test_value_loss_is_half_the_mean_squared_error():
    assert value_loss(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])).item() == pytest.approx((1 + 4) / 4)


def test_entropy_ignores_masked_actions():
    even = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log()
    assert entropy(even).item() == pytest.approx(math.log(2) / 2)
