"""Multiplying out the tree against listing it: probabilities, shares of settings, best completions."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from hybrid_core.rl.game import RecipeGame
from hybrid_core.rl.networks import PolicyNetwork
from hybrid_core.rl.orz import best_completions
from hybrid_core.rl.rollouts import log_probabilities, roll_out, setting_shares
from hybrid_core.rl.tree import Slot

SLOTS = (Slot("a", ("1", "2")), Slot("b", ("1",)), Slot("c", ("1", "2", "3")))


@pytest.fixture(scope="module")
def game() -> RecipeGame:
    def legal(recipe) -> bool:
        return recipe.to_dict().get("a") != "2" or recipe.to_dict().get("c") != "3"

    plain = RecipeGame(SLOTS, {"baseline": 0.0}, is_legal=legal)
    rng = random.Random(3)
    return RecipeGame(SLOTS, {key: rng.gauss(0, 1) for key in plain.keys}, is_legal=legal)


@pytest.fixture(scope="module")
def policy(game) -> PolicyNetwork:
    generator = torch.Generator().manual_seed(0)
    network = PolicyNetwork(game.state_dim, 16, game.action_dim, generator)
    with torch.no_grad():
        network.body[-1].weight.normal_(0, 1.0, generator=generator)
    return network


def by_steps(policy, game, path) -> float:
    """The probability of a path, one state after the other."""
    chance = 1.0
    for n, action in enumerate(path):
        chance *= float(policy(game.observe(path[:n]), game.mask(path[:n]))[action].detach())
    return chance


def test_states_lie_level_by_level_and_know_where_they_come_from(game):
    assert [len(path) for path in game.paths] == sorted(len(path) for path in game.paths)
    for state, path in enumerate(game.paths[1:], 1):
        parent, action = int(game.parents[state]), int(game.actions[state])
        assert (*game.paths[parent], action) == path
        assert int(game.children[parent, action]) == state
    assert len(game.finished_paths()) == 3 * 2 * 4 - 2


def test_the_probability_of_every_state_is_the_product_along_its_path(policy, game):
    table = log_probabilities(policy, game)
    for state, path in enumerate(game.paths):
        assert math.exp(table[state]) == pytest.approx(by_steps(policy, game, path), rel=1e-4)
    assert float(table[game.first_finished :].exp().sum()) == pytest.approx(1.0, abs=1e-6)


def test_shares_of_settings_are_sums_over_the_listed_recipes(policy, game):
    shares = setting_shares(log_probabilities(policy, game), game)
    expected = {slot.strategy: dict.fromkeys(("off", *slot.settings), 0.0) for slot in SLOTS}
    for path in game.finished_paths():
        steps = game.recipe(path).to_dict()
        for slot in SLOTS:
            expected[slot.strategy][steps.get(slot.strategy, "off")] += by_steps(policy, game, path)
    for slot in expected:
        assert shares[slot] == pytest.approx(expected[slot], abs=1e-5)
        assert sum(shares[slot].values()) == pytest.approx(1.0, abs=1e-6)


def test_rollouts_come_as_often_as_their_probability_says(policy, game):
    episodes = 4000
    group = roll_out(policy, game, episodes, torch.Generator().manual_seed(5))
    counts = np.bincount(group.finals.numpy(), minlength=len(game.paths))[game.first_finished :]
    expected = log_probabilities(policy, game)[game.first_finished :].exp().numpy() * episodes
    often = expected > 5
    # Chi-square over the recipes that are common enough for it, the rare ones pooled.
    seen, wanted = np.append(counts[often], counts[~often].sum()), np.append(expected[often], expected[~often].sum())
    statistic = float(((seen - wanted) ** 2 / np.maximum(wanted, 1e-9)).sum())
    assert statistic < len(seen) + 5 * math.sqrt(2 * len(seen))


def test_a_group_records_where_each_decision_led(policy, game):
    group = roll_out(policy, game, 16, torch.Generator().manual_seed(1))
    assert torch.equal(game.children[group.nodes, group.actions], group.successors)
    assert (group.nodes[:, 0] == 0).all() and (group.finals >= game.first_finished).all()
    assert torch.equal(group.rewards[:, -1], game.rewards[group.finals].float()) and (group.rewards[:, :-1] == 0).all()


def test_the_best_completion_of_a_state_is_the_best_of_the_recipes_below_it(game):
    values, _ = best_completions(game)
    for state, path in enumerate(game.paths):
        below = [game.reward(p) for p in game.finished_paths() if p[: len(path)] == path]
        assert values[state] == pytest.approx(max(below))
