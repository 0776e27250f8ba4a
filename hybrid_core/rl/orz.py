"""Reward shaping over zones that cannot change which recipe is best.

The document this project comes from calls ORZ "Optimized Reward Zoning"; in the literature ORZ is
*Open-Reasoner-Zero* (arXiv 2503.24290): plain PPO with a critic, gamma = lambda = 1, no KL term and no shaping at all.
We implement the document's meaning in its one sound form, potential-based shaping `F(s, a, s') = gamma * Phi(s') -
Phi(s)` with `Phi(terminal) = 0`, which leaves every optimal policy as it was (Ng, Harada and Russell 1999); any bonus
that is no such difference is another objective and can make another recipe the best. Building is deterministic, so the
zone of a state and an action is the zone of the state it leads to: good, neutral, bad or unknown by the best gain
still reachable and the doubt about it.

What shaping can do: the bonus adds up to `-Phi(s_0)` over any episode and is the same as adding Phi to what the critic
starts with, so it can help a critic early on, like VAPO's pretraining, and nothing else. What it cannot do: help a
learner without a critic. In advantages relative to a group it cancels, so where ORZ is on and VAPO off, the learner
gets the plain critic of PPO, which is the literature's ORZ.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid_core.rl.game import RecipeGame
from hybrid_core.rl.tree import Choices

SHRINKAGE = 2.0
ZONES = ("good", "neutral", "bad", "unknown")


class RewardZones:
    """The potential of every partial recipe: the shrunk mean of its zone.

    Attributes:
        zone_of: zone name by state.
        counts: how many states each zone holds.
        levels: the shrunk mean of each zone.
        potentials: Phi of every state of the game, 0 where the recipe is finished; shape (states,).
    """

    def __init__(self, game: RecipeGame) -> None:
        values, doubts = best_completions(game)
        low, high = np.quantile(values, [1 / 3, 2 / 3])
        # Unknown: the surrogate's doubt is larger than everything that the zones would tell apart.
        unknown_above = max(float(values.std()), game.noise)
        names = np.where(values >= high, "good", np.where(values <= low, "bad", "neutral"))
        names = np.where(doubts > unknown_above, "unknown", names)
        overall = float(values.mean())
        self.zone_of: dict[Choices, str] = dict(zip(game.paths, map(str, names), strict=True))
        self.counts = {zone: int((names == zone).sum()) for zone in ZONES}
        self.levels = {zone: _shrunk(values[names == zone], overall) for zone in ZONES} | {"unknown": overall}
        self.potentials = torch.tensor([self.levels[str(name)] for name in names])
        self.potentials[game.first_finished :] = 0.0
        self._game = game

    def potential(self, choices: Choices) -> float:
        """Phi: the zone's shrunk mean, and 0 once the recipe is finished."""
        return float(self.potentials[self._game.state(choices)])

    def bonus(self, choices: Choices, action: int, gamma: float) -> float:
        """`gamma * Phi(next) - Phi(now)` for deciding the next slot."""
        return shaping(self.potential, choices, (*choices, action), gamma)

    def bonuses(self, nodes: Tensor, successors: Tensor, gamma: float) -> Tensor:
        """The same for many steps at once, states given by their positions in the game."""
        return gamma * self.potentials[successors] - self.potentials[nodes]


def shaping(potential: Callable[[Choices], float], now: Choices, then: Choices, gamma: float) -> float:
    """The shaping reward of one step."""
    return gamma * potential(then) - potential(now)


def best_completions(game: RecipeGame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For every state the best reward still reachable, and the surrogate's doubt about that recipe; shape (states,)."""
    values, doubts = game.rewards.numpy().copy(), game.doubts.numpy().copy()
    children = game.children.numpy()
    for level in reversed(game.levels[:-1]):
        states = slice(level.start, level.stop)
        reachable = np.where(children[states] >= 0, values[children[states]], -np.inf)
        best = np.take_along_axis(children[states], reachable.argmax(axis=1)[:, None], axis=1)[:, 0]
        values[states], doubts[states] = values[best], doubts[best]
    return values, doubts


def _shrunk(values: NDArray[np.float64], overall: float) -> float:
    return float((values.sum() + SHRINKAGE * overall) / (len(values) + SHRINKAGE))
