"""Reward shaping: what it adds up to, what it cannot change, and a bonus that does change it."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from hybrid_core.rl.advantages import compute_gae
from hybrid_core.rl.game import RecipeGame
from hybrid_core.rl.grpo import group_advantages
from hybrid_core.rl.orz import RewardZones, shaping
from hybrid_core.rl.tree import Slot

SLOTS = tuple(Slot(name, settings) for name, settings in [("a", ("1",)), ("b", ("1", "2")), ("c", ("1",))])
GAMMA = 0.9


@pytest.fixture
def environment() -> RecipeGame:
    """Every recipe measured with a random score: no structure that could help or hide."""
    rng = random.Random(5)
    keys = ["baseline"]
    for chosen in itertools.product(["", "a=1"], ["", "b=1", "b=2"], ["", "c=1"]):
        keys += ["+".join(part for part in chosen if part)] if any(chosen) else []
    return RecipeGame(SLOTS, {key: rng.gauss(1.0, 0.3) for key in keys})


def bonuses(potential, path, gamma=GAMMA):
    return [shaping(potential, path[:t], path[: t + 1], gamma) for t in range(len(path))]


def best_actions(environment, bonus) -> dict:
    """Brute force: the optimal actions of every state for rewards plus `bonus(state, action)`."""
    value: dict = {}
    policy: dict = {}
    for state in reversed(environment.partial_paths()):
        if environment.is_over(state):
            value[state] = 0.0
            continue
        totals = {}
        for action in torch.nonzero(environment.mask(state)).flatten().tolist():
            then = (*state, action)
            reward = environment.reward(then) if environment.is_over(then) else 0.0
            totals[action] = reward + bonus(state, action) + GAMMA * value[then]
        value[state] = max(totals.values())
        policy[state] = {a for a, total in totals.items() if total > value[state] - 1e-9}
    return policy


def test_the_bonus_of_a_whole_episode_is_minus_the_first_potential(environment):
    zones = RewardZones(environment)
    for path in environment.finished_paths():
        total = sum(GAMMA**t * bonus for t, bonus in enumerate(bonuses(zones.potential, path)))
        assert total == pytest.approx(-zones.potential(()))


def test_the_optimal_policy_is_the_same_for_any_potential(environment):
    plain = best_actions(environment, lambda state, action: 0.0)
    for seed in range(50):
        rng = random.Random(seed)
        table = {path: rng.gauss(0, 10) for path in environment.partial_paths()}

        def potential(path, table=table):
            return 0.0 if environment.is_over(path) else table[path]

        shaped = best_actions(environment, lambda s, a, phi=potential: shaping(phi, s, (*s, a), GAMMA))
        assert shaped == plain


def test_the_optimal_policy_is_the_same_with_the_zones(environment):
    zones = RewardZones(environment)
    plain = best_actions(environment, lambda state, action: 0.0)
    assert best_actions(environment, lambda s, a: zones.bonus(s, a, GAMMA)) == plain


def test_a_bonus_that_is_no_potential_changes_the_optimal_policy(environment):
    """The original added 0.01 * sum(state); any such bonus for a kind of action is another objective."""
    plain = best_actions(environment, lambda state, action: 0.0)
    assert best_actions(environment, lambda state, action: 1.0 * (action == 1)) != plain


def test_a_terminal_potential_that_is_not_zero_changes_the_optimal_policy(environment):
    rng = random.Random(0)
    table = {path: rng.gauss(0, 10) for path in environment.partial_paths()}
    plain = best_actions(environment, lambda state, action: 0.0)
    assert best_actions(environment, lambda s, a: shaping(table.__getitem__, s, (*s, a), GAMMA)) != plain


def test_shaping_cancels_in_group_advantages(environment):
    zones = RewardZones(environment)
    paths = environment.finished_paths()
    plain = torch.tensor([GAMMA ** (len(p) - 1) * environment.reward(p) for p in paths], dtype=torch.float64)
    extra = torch.tensor(
        [sum(GAMMA**t * b for t, b in enumerate(bonuses(zones.potential, p))) for p in paths], dtype=torch.float64
    )
    torch.testing.assert_close(group_advantages(plain + extra, 1e-3), group_advantages(plain, 1e-3))


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_shaping_is_the_same_as_starting_the_critic_at_the_potential(environment, lam):
    zones = RewardZones(environment)
    for path in environment.finished_paths()[:4]:
        rewards = torch.zeros(1, 3, dtype=torch.float64)
        rewards[0, -1] = environment.reward(path)
        values = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64)
        potentials = torch.tensor([[zones.potential(path[:t]) for t in range(3)]], dtype=torch.float64)
        dones = torch.tensor([[0.0, 0.0, 1.0]])
        extra = torch.tensor([bonuses(zones.potential, path)], dtype=torch.float64)
        shaped, _ = compute_gae(rewards + extra, values - potentials, dones, 0.0, GAMMA, lam)
        plain, _ = compute_gae(rewards, values, dones, 0.0, GAMMA, lam)
        torch.testing.assert_close(shaped, plain)


def test_zones_order_their_potentials_and_unknown_sits_at_the_mean(environment):
    zones = RewardZones(environment)
    level = zones.levels
    assert level["good"] > level["neutral"] > level["bad"]
    assert level["bad"] < level["unknown"] < level["good"]
    assert sum(zones.counts.values()) == len(environment.partial_paths())


def test_a_state_whose_best_completion_is_a_guess_is_unknown_and_sits_at_the_mean(environment, monkeypatch):
    best = max(environment.finished_paths(), key=environment.reward)
    doubts = torch.zeros_like(environment.doubts)
    doubts[environment.state(best)] = 99.0
    monkeypatch.setattr(environment, "doubts", doubts)
    zones = RewardZones(environment)
    unknown = {path for path, zone in zones.zone_of.items() if zone == "unknown"}
    assert unknown == {best[:length] for length in range(len(best) + 1)}
    reachable = [
        max(environment.reward(p) for p in environment.finished_paths() if p[: len(state)] == state)
        for state in environment.partial_paths()
    ]
    assert zones.potential(()) == pytest.approx(sum(reachable) / len(reachable))
