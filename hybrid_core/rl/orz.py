"""Reward shaping over zones that cannot change which recipe is best.

The document this project comes from calls ORZ "Optimized Reward Zoning"; in the literature ORZ is
*Open-Reasoner-Zero* (arXiv 2503.24290), plain PPO without shaping. We implement the document's meaning in its one
sound form: potential-based shaping `F(s, a, s') = gamma * Phi(s') - Phi(s)` with `Phi(terminal) = 0`, which leaves
every optimal policy as it was (Ng, Harada and Russell 1999). Zones are bins of (best completion, doubt): good,
neutral, bad, unknown. The bonus adds up to `-Phi(s_0)`, so it can speed up the critic and can do nothing else; in
group-normalised advantages without a critic it cancels exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from hybrid_core.rl.environment import Choices, OptimizationEnvironment

SHRINKAGE = 2.0
ZONES = ("good", "neutral", "bad", "unknown")


class RewardZones:
    """The potential of every partial recipe: the shrunk mean of its zone.

    Attributes:
        zone_of: zone name by state.
        counts: how many states each zone holds.
    """

    def __init__(self, environment: OptimizationEnvironment) -> None:
        best = _best_completions(environment)
        values = np.array([value for value, _ in best.values()])
        doubts = np.array([doubt for _, doubt in best.values()])
        low, high = np.quantile(values, [1 / 3, 2 / 3])
        # Unknown: the surrogate's doubt is larger than everything that the zones would tell apart.
        unknown_above = max(float(values.std()), environment.noise)
        names = np.where(values >= high, "good", np.where(values <= low, "bad", "neutral"))
        names = np.where(doubts > unknown_above, "unknown", names)
        self.zone_of: dict[Choices, str] = dict(zip(best, map(str, names), strict=True))
        self.counts: dict[str, int] = {zone: Counter(self.zone_of.values())[zone] for zone in ZONES}
        overall = float(values.mean())
        self._level = {zone: _shrunk(values[names == zone], overall) for zone in ZONES} | {"unknown": overall}
        self._environment = environment

    def potential(self, choices: Choices) -> float:
        """Phi: the zone's shrunk mean, and 0 once the recipe is finished."""
        return 0.0 if self._environment.is_over(choices) else self._level[self.zone_of[choices]]

    def bonus(self, choices: Choices, action: int, gamma: float) -> float:
        """`gamma * Phi(next) - Phi(now)` for deciding the next slot."""
        return shaping(self.potential, choices, (*choices, action), gamma)


def shaping(potential: Callable[[Choices], float], now: Choices, then: Choices, gamma: float) -> float:
    """The shaping reward of one step."""
    return gamma * potential(then) - potential(now)


def _best_completions(environment: OptimizationEnvironment) -> dict[Choices, tuple[float, float]]:
    """For every state the best reward still reachable, and the surrogate's doubt about that recipe."""
    best: dict[Choices, tuple[float, float]] = {}
    for path in environment.finished_paths():
        found = (environment.reward(path), environment.doubt(path))
        for length in range(environment.horizon + 1):
            prefix = path[:length]
            best[prefix] = max(best.get(prefix, found), found, key=lambda pair: pair[0])
    return best


def _shrunk(values: np.ndarray[tuple[int], np.dtype[np.float64]], overall: float) -> float:
    return float((values.sum() + SHRINKAGE * overall) / (len(values) + SHRINKAGE))
