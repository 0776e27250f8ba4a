"""A problem small enough to be solved by listing: every variant has to find its optimum, which needs an interaction.

Three slots with three to four settings ("off" is one). Added up, the best of each slot would be s + g + i; together
with g, j gains more than i does, so the optimum is s + g + j and only a learner that sees the pair finds it.
"""

from __future__ import annotations

import itertools

import pytest

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.rl.game import RecipeGame
from hybrid_core.rl.optimizer import HybridRLOptimizer
from hybrid_core.rl.report import likeliest
from hybrid_core.rl.tree import Slot

SLOTS = (Slot("attention", ("s", "t")), Slot("fusion", ("f", "g", "h")), Slot("quantization", ("i", "j")))
EFFECTS = {"s": 0.18, "t": -0.05, "f": 0.08, "g": 0.10, "h": 0.0, "i": 0.08, "j": 0.02}
PAIR, PAIR_GAIN = {"g", "j"}, 0.3
VARIANTS = {
    "GRPO": (False, False, False),
    "DAPO": (True, False, False),
    "VAPO": (False, True, False),
    "ORZ": (False, False, True),
    "all": (True, True, True),
}


def scores() -> dict[str, float]:
    found = {}
    for row in itertools.product(*(["", *slot.settings] for slot in SLOTS)):
        key = "+".join(f"{slot.strategy}={name}" for slot, name in zip(SLOTS, row, strict=True) if name)
        gain = sum(EFFECTS[name] for name in row if name) + (PAIR_GAIN if set(row) >= PAIR else 0.0)
        found[key or "baseline"] = 1.0 + gain
    return found


def optimum() -> str:
    table = scores()
    return max(table, key=table.__getitem__)


def learner(variant: str, seed: int) -> HybridRLOptimizer:
    dapo, vapo, orz = VARIANTS[variant]
    options = HybridOptimizationConfig(
        enable_dapo=dapo,
        enable_vapo=vapo,
        enable_orz=orz,
        rl_max_episodes=50,
        rl_hidden_dim=24,
        rl_learning_rate=3e-3,
        rl_value_learning_rate=6e-3,
    )
    return HybridRLOptimizer(options, RecipeGame(SLOTS, scores()), seed=seed)


def test_the_optimum_is_not_the_best_of_each_slot():
    best_alone = "+".join(f"{slot.strategy}={max(slot.settings, key=EFFECTS.__getitem__)}" for slot in SLOTS)
    assert len(scores()) == 36
    assert best_alone == "attention=s+fusion=g+quantization=i"
    assert optimum() == "attention=s+fusion=g+quantization=j"


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_the_optimum_that_listing_all_recipes_gives(variant, seed):
    agent = learner(variant, seed)
    before = likeliest(agent, 1)[0]
    agent.train_rl_optimizer()
    top = likeliest(agent, 1)[0]
    assert before["probability"] < 0.1
    assert top["recipe"] == optimum()
    assert top["probability"] > 0.5
    # A learner that stayed on the untrained mean would show it here.
    returns = [entry["mean"] for entry in agent.episode_history]
    assert sum(returns[-10:]) > sum(returns[:10])
