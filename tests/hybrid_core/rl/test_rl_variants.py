"""The names of the combinations, and that each of the three switches changes what runs."""

from __future__ import annotations

import itertools

import pytest
import torch

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.rl.game import RecipeGame
from hybrid_core.rl.optimizer import HybridRLOptimizer
from hybrid_core.rl.tree import Slot
from hybrid_core.rl.variants import SWITCHES, uses_critic, variant_name

NAMES = {
    (False, False, False): "GRPO",
    (False, True, False): "DAPO",
    (True, False, False): "VAPO",
    (False, False, True): "ORZ",
    (True, True, False): "VAPO + DAPO",
    (False, True, True): "DAPO + ORZ",
    (True, False, True): "VAPO + ORZ",
    (True, True, True): "VAPO + DAPO + ORZ",
}
ALL = list(itertools.product([False, True], repeat=3))
SLOTS = (Slot("a", ("1", "2")), Slot("b", ("1", "2")))
SCORES = {"baseline": 1.0, "a=1": 1.2, "a=2": 0.9, "b=1": 1.1, "b=2": 0.7, "a=1+b=1": 1.5, "a=1+b=2": 0.8}


def options_of(vapo, dapo, orz, **more) -> HybridOptimizationConfig:
    return HybridOptimizationConfig(enable_vapo=vapo, enable_dapo=dapo, enable_orz=orz, **more)


@pytest.mark.parametrize("switches", ALL)
def test_every_combination_has_its_own_name(switches):
    assert variant_name(options_of(*switches)) == NAMES[switches]


def test_every_switch_of_the_configuration_is_named():
    assert set(SWITCHES.values()) == {"enable_dapo", "enable_vapo", "enable_orz"}


def test_a_critic_takes_part_where_vapo_or_orz_need_one():
    assert [uses_critic(options_of(*switches)) for switches in ALL] == [v or o for v, _, o in ALL]


def test_all_eight_combinations_learn_different_policies():
    learned = []
    for switches in ALL:
        options = options_of(*switches, rl_max_episodes=16, rl_hidden_dim=8, rl_learning_rate=5e-3)
        agent = HybridRLOptimizer(options, RecipeGame(SLOTS, SCORES), seed=2)
        agent.train_rl_optimizer()
        learned.append(torch.cat([p.detach().flatten() for p in agent.policy.parameters()]))
    for one, other in itertools.combinations(learned, 2):
        assert not torch.equal(one, other)
