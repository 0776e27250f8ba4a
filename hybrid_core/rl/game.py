"""The game the learner plays: build a recipe slot by slot, be paid by what was measured.

One slot per strategy in a fixed order; the action is a setting of the current slot, action 0 is "off". The reward
comes with the last slot: the recipe's *measured* gain over the baseline, or a pessimistic surrogate estimate where it
is unmeasured. Illegal settings are masked, not punished (Huang and Ontanon 2020, arXiv 2006.14171). Nothing here is
random: the same actions always earn the same reward.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hybrid_core.errors import InvalidInput
from hybrid_core.records import Recipe
from hybrid_core.rl.surrogate import RidgeEnsemble, Surrogate, failure_score
from hybrid_core.rl.tree import Choices, RecipeTree, Slot

# best so far, share of the budget used, progress, and the surrogate's mean and doubt of the recipe as it stands
CONTEXT_FEATURES = 5


class RecipeGame(RecipeTree):
    """The tree of recipes with what each state looks like and what each finished recipe earns.

    Args:
        slots: strategies in the order they are decided; `max_steps` of them at most, the others stay off.
        scores: measured value by recipe key; the baseline's own key gives the zero of the reward.
        failed: keys of recipes that were tried and failed; they earn less than the worst measured one.
        noise: differences of the value below this are indistinguishable.
        kappa: how many standard deviations of the surrogate an unmeasured recipe is marked down.
        budget_share: share of the run's budget already used, a feature of the state.
        seed: of the surrogate's bootstrap.
        is_legal: whether a (partial) recipe may be built.
        surrogate: predicts the gain of recipes nobody measured; None is a ridge ensemble on `scores`.
        model_features, hardware_features: named numbers that every state carries, on the scale of 1 (logarithms of
            counts, shares). They tell contexts apart for a policy that is trained on several of them.

    Attributes:
        observations: of every state, shape (states, state_dim).
        rewards, doubts: of every finished state, 0 before; float64, shape (states,).
        measured_rewards: gain by recipe key of what was measured; `best_so_far` is the largest.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        scores: Mapping[str, float],
        *,
        failed: Collection[str] = (),
        noise: float = 0.01,
        kappa: float = 1.0,
        budget_share: float = 0.0,
        max_steps: int = 50,
        seed: int = 0,
        is_legal: Callable[[Recipe], bool] = lambda recipe: True,
        surrogate: Surrogate | None = None,
        model_features: Mapping[str, float] | None = None,
        hardware_features: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(slots, max_steps, is_legal)
        if not scores:
            raise InvalidInput("an environment needs measured scores to pay with; measure the baseline first")
        self.noise, self.kappa, self.budget_share = noise, kappa, budget_share
        zero = scores.get(Recipe().key, sum(scores.values()) / len(scores))
        self.measured_rewards = {key: value - zero for key, value in scores.items()}
        self.best_so_far = max(self.measured_rewards.values())
        # Failures stay out of the surrogate: its settings add up, so one bad pair would condemn both of its halves.
        surrogate = surrogate or RidgeEnsemble(self.measured_rewards, seed)
        # A state and the one after "off" stand for the same recipe, so most questions repeat.
        predicted = {key: surrogate.predict(Recipe.from_key(key)) for key in dict.fromkeys(self.keys)}
        self._predictions = np.array([predicted[key] for key in self.keys])
        self._features = [
            *_checked("model_features", model_features),
            *_checked("hardware_features", hardware_features),
        ]
        floor = failure_score(list(self.measured_rewards.values()), noise)
        self._pay(self.measured_rewards | {key: floor for key in failed if key not in scores})
        self._describe()

    def is_over(self, choices: Choices) -> bool:
        """True when every slot that the horizon allows is decided."""
        return len(choices) >= self.horizon

    def reward(self, choices: Choices) -> float:
        """Gain over the baseline of the finished recipe: measured, else surrogate mean - kappa * sd."""
        return float(self.rewards[self.state(choices)])

    def doubt(self, choices: Choices) -> float:
        """Standard deviation of the surrogate; 0 for a recipe that was tried."""
        return float(self.doubts[self.state(choices)])

    def mask(self, choices: Choices) -> Tensor:
        """True where an action is allowed in the slot after `choices`, shape (action_dim,)."""
        return self.masks[self.state(choices)]

    def observe(self, choices: Choices) -> Tensor:
        """What the state looks like: a one-hot per slot (undecided, off, settings), context, features; (state_dim,)."""
        return self.observations[self.state(choices)]

    def decode(self, state: Tensor) -> Choices:
        """Read the choices back out of a state that `observe` made."""
        choices: list[int] = []
        for start, width in self._one_hots:
            taken = int(state[start : start + width].argmax())
            if taken == 0:
                break
            choices.append(taken - 1)
        return tuple(choices)

    def finished_paths(self) -> list[Choices]:
        """Every legal finished recipe as choices."""
        return list(self.paths[self.first_finished :])

    def partial_paths(self) -> list[Choices]:
        """Every legal state, finished or not, shortest first."""
        return list(self.paths)

    def _pay(self, known: Mapping[str, float]) -> None:
        is_finished = np.arange(len(self.paths)) >= self.first_finished
        is_known = np.array([key in known for key in self.keys])
        means, sds = self._predictions.T
        earned = np.where(is_known, [known.get(key, 0.0) for key in self.keys], means - self.kappa * sds)
        self.rewards = torch.from_numpy(np.where(is_finished, earned, 0.0))
        self.doubts = torch.from_numpy(np.where(is_finished & ~is_known, sds, 0.0))

    def _describe(self) -> None:
        widths = [len(slot.settings) + 2 for slot in self.slots]
        starts = [0, *itertools.accumulate(widths)]
        self._one_hots = list(zip(starts, widths, strict=False))
        self.state_dim = starts[-1] + CONTEXT_FEATURES + len(self._features)
        # One more than the choice; 0 stands for undecided.
        marked = np.array([[1 + a for a in path] + [0] * (len(self.slots) - len(path)) for path in self.paths])
        rows = np.zeros((len(self.paths), self.state_dim), dtype=np.float32)
        np.put_along_axis(rows, marked + np.array(starts[:-1]), 1.0, axis=1)
        now = rows[:, starts[-1] :]
        now[:, 0], now[:, 1] = self.best_so_far, self.budget_share
        now[:, 2] = [len(path) / self.horizon for path in self.paths]
        now[:, 3:5] = self._predictions
        now[:, 5:] = self._features
        self.observations = torch.from_numpy(rows)


def _checked(what: str, features: Mapping[str, float] | None) -> list[float]:
    """The numbers in the order of their names, so that equal names stand at equal places in every game."""
    for name, value in (features or {}).items():
        if not math.isfinite(value):
            raise InvalidInput(f"{what}[{name!r}]={value} is not allowed; give a finite number or leave it out")
    return [float(value) for _, value in sorted((features or {}).items())]
