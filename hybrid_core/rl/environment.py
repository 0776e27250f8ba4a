"""The game the learner plays: build a recipe slot by slot, be paid by what this run measured.

One slot per strategy in a fixed order; the action is a setting of the current slot, action 0 is "off". A fixed order
means every recipe has exactly one path. The reward comes with the last slot: the recipe's *measured* fitness gain
over the baseline, or a pessimistic surrogate estimate where it is unmeasured. Illegal settings are masked, not
punished (Huang and Ontanon 2020, arXiv 2006.14171). Nothing here is random: the same actions always earn the same
reward.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybrid_core.errors import InvalidInput
from hybrid_core.records import Recipe, Step
from hybrid_core.rl.surrogate import RidgeEnsemble, failure_score

Choices = tuple[int, ...]
CONTEXT_FEATURES = 5


@dataclass(frozen=True)
class Slot:
    """One strategy and the settings it may take; "off" is always action 0 and not listed."""

    strategy: str
    settings: tuple[str, ...]


class OptimizationEnvironment:
    """A deterministic episode of `len(slots)` steps, or `max_steps` if fewer: the slots left are then off.

    Args:
        slots: strategies in the order they are decided.
        scores: measured fitness by recipe key; the baseline's own key gives the zero of the reward.
        failed: keys of recipes that were tried and failed; they earn less than the worst measured one.
        noise: fitness differences below this are indistinguishable.
        kappa: how many ensemble standard deviations an unmeasured recipe is marked down.
        budget_share: share of the run's budget already used, a feature of the state.
        is_legal: whether a (partial) recipe may be built.
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
    ) -> None:
        if not slots:
            raise InvalidInput("an environment without slots has nothing to decide; give at least one strategy")
        self.slots = tuple(slots)
        self.noise = noise
        self.kappa = kappa
        self.action_dim = 1 + max(len(slot.settings) for slot in self.slots)
        self.horizon = min(max_steps, len(self.slots))
        self._one_hot_widths = [len(slot.settings) + 2 for slot in self.slots]
        self.state_dim = sum(self._one_hot_widths) + CONTEXT_FEATURES
        self._is_legal = is_legal
        self._budget_share = budget_share
        self._prepare_rewards(scores, failed, seed)
        self._observations: dict[Choices, Tensor] = {}
        self._masks: dict[Choices, Tensor] = {}
        self.choices: Choices = ()

    def _prepare_rewards(self, scores: Mapping[str, float], failed: Collection[str], seed: int) -> None:
        if not scores:
            raise InvalidInput("an environment needs measured scores to pay with; measure the baseline first")
        zero = scores.get(Recipe().key, sum(scores.values()) / len(scores))
        self.measured_rewards = {key: value - zero for key, value in scores.items()}
        self.best_so_far = max(self.measured_rewards.values())
        # Failures stay out of the surrogate: its settings add up, so one bad pair would condemn both of its halves.
        self._surrogate = RidgeEnsemble(self.measured_rewards, seed)
        floor = failure_score(list(self.measured_rewards.values()), self.noise)
        self._known = self.measured_rewards | {key: floor for key in failed if key not in scores}

    def reset(self) -> Tensor:
        """Start a new recipe; the state with every slot undecided."""
        self.choices = ()
        return self.observe(())

    def step(self, action: int) -> tuple[Tensor, float, bool]:
        """Decide the current slot: (next state, reward, done). The reward is 0 before the last step.

        Raises:
            InvalidInput: the action is masked here, or the episode is over.
        """
        if self.is_over(self.choices):
            raise InvalidInput(f"all {self.horizon} slots are decided; call reset() before the next step")
        if not 0 <= action < self.action_dim or not bool(self.mask(self.choices)[action]):
            allowed = torch.nonzero(self.mask(self.choices)).flatten().tolist()
            raise InvalidInput(f"action {action} is not allowed in slot {len(self.choices)}; choose one of {allowed}")
        self.choices += (int(action),)
        done = self.is_over(self.choices)
        return self.observe(self.choices), self.reward(self.choices) if done else 0.0, done

    def is_over(self, choices: Choices) -> bool:
        """True when every slot that the horizon allows is decided."""
        return len(choices) >= self.horizon

    def recipe(self, choices: Choices) -> Recipe:
        """The recipe these choices build; undecided slots are off."""
        decided = zip(self.slots, choices, strict=False)
        return Recipe(tuple(Step(slot.strategy, slot.settings[a - 1]) for slot, a in decided if a))

    def choices_of(self, recipe: Recipe) -> Choices:
        """The one path that builds the recipe.

        Raises:
            InvalidInput: the recipe uses something that no slot offers, or more slots than the horizon has.
        """
        steps = recipe.to_dict()
        path: list[int] = []
        for slot in self.slots[: self.horizon]:
            setting = steps.pop(slot.strategy, None)
            if setting is not None and setting not in slot.settings:
                raise InvalidInput(f"{slot.strategy}={setting!r} is in no slot; the slot has {slot.settings}")
            path.append(0 if setting is None else 1 + slot.settings.index(setting))
        if steps:
            raise InvalidInput(
                f"recipe {recipe.key} needs {sorted(steps)}, which the {self.horizon} steps do not reach"
            )
        return tuple(path)

    def reward(self, choices: Choices) -> float:
        """Fitness gain over the baseline of the finished recipe: measured, else surrogate mean - kappa * sd."""
        key = self.recipe(choices).key
        if key in self._known:
            return self._known[key]
        mean, sd = self._surrogate.predict(self.recipe(choices))
        return mean - self.kappa * sd

    def doubt(self, choices: Choices) -> float:
        """Standard deviation of the surrogate; 0 for a recipe that was tried."""
        recipe = self.recipe(choices)
        return 0.0 if recipe.key in self._known else self._surrogate.predict(recipe)[1]

    def mask(self, choices: Choices) -> Tensor:
        """True where an action is allowed in the slot after `choices`, shape (action_dim,)."""
        if choices not in self._masks:
            allowed = torch.zeros(self.action_dim, dtype=torch.bool)
            allowed[0] = True
            if not self.is_over(choices):
                for action in range(1, 1 + len(self.slots[len(choices)].settings)):
                    allowed[action] = self._is_legal(self.recipe((*choices, action)))
            self._masks[choices] = allowed
        return self._masks[choices]

    def observe(self, choices: Choices) -> Tensor:
        """The state: a one-hot per slot (undecided, off, settings), best so far, budget, progress, surrogate."""
        if choices not in self._observations:
            row = torch.zeros(self.state_dim)
            start = 0
            for index, width in enumerate(self._one_hot_widths):
                row[start + (1 + choices[index] if index < len(choices) else 0)] = 1.0
                start += width
            mean, sd = self._surrogate.predict(self.recipe(choices))
            row[start:] = torch.tensor(
                [self.best_so_far, self._budget_share, len(choices) / self.horizon, mean, sd], dtype=row.dtype
            )
            self._observations[choices] = row
        return self._observations[choices]

    def decode(self, state: Tensor) -> Choices:
        """Read the choices back out of a state that `observe` made."""
        choices: list[int] = []
        start = 0
        for width in self._one_hot_widths:
            taken = int(state[start : start + width].argmax())
            if taken == 0:
                break
            choices.append(taken - 1)
            start += width
        return tuple(choices)

    def finished_paths(self) -> list[Choices]:
        """Every legal finished recipe as choices; the spaces here have a few hundred."""
        paths: list[Choices] = [()]
        for _ in range(self.horizon):
            paths = [(*p, a) for p in paths for a in torch.nonzero(self.mask(p)).flatten().tolist()]
        return paths

    def partial_paths(self) -> list[Choices]:
        """Every legal state, finished or not, shortest first."""
        prefixes = {p[:n] for p in self.finished_paths() for n in range(self.horizon + 1)}
        return sorted(prefixes, key=lambda p: (len(p), p))


def slots_of(recipes: Sequence[Recipe], order: Sequence[str]) -> tuple[Slot, ...]:
    """One slot per strategy that occurs, in the given order, with the settings that occur in sorted order."""
    seen = set(itertools.chain.from_iterable(recipe.steps for recipe in recipes))
    found = {name: tuple(sorted(s.setting for s in seen if s.strategy == name)) for name in order}
    return tuple(Slot(name, settings) for name, settings in found.items() if settings)
