"""Every partial recipe that can be built slot by slot, laid out once as tensors.

A recipe is built by deciding one slot after the other, so all states form a tree with one path to each recipe. Its
rows are written down level by level, and a rollout or the probability of every recipe is then only indexing. Spaces
here have a few thousand recipes at the most.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.records import Recipe, Step

Choices = tuple[int, ...]


@dataclass(frozen=True)
class Slot:
    """One strategy and the settings it may take; "off" is always action 0 and not listed."""

    strategy: str
    settings: tuple[str, ...]


class RecipeTree:
    """The states of `slots`, of which the first `horizon` are decided; the others stay off.

    Attributes:
        paths: every legal state as choices, shortest first; `first_finished` is where the finished ones begin.
        levels: the range of states of each depth.
        keys: the key of the recipe each state stands for, undecided slots off.
        parents, actions: the state each state comes from and by which action, -1 for the first; shape (states,).
        children: the state each action leads to, -1 where it is masked; shape (states, action_dim).
        masks: True where an action is allowed; in finished states only 0, shape as `children`.
    """

    def __init__(self, slots: Sequence[Slot], horizon: int, is_legal: Callable[[Recipe], bool]) -> None:
        if not slots:
            raise InvalidInput("an environment without slots has nothing to decide; give at least one strategy")
        self.slots, self.horizon = tuple(slots), min(horizon, len(slots))
        self.action_dim = 1 + max(len(slot.settings) for slot in self.slots)
        paths: list[Choices] = [()]
        parents, taken = [-1], [-1]
        children: list[list[int]] = []
        self.levels = [range(1)]
        for slot in self.slots[: self.horizon]:
            for parent in self.levels[-1]:
                row = [-1] * self.action_dim
                for action in range(1 + len(slot.settings)):
                    path = (*paths[parent], action)
                    if action == 0 or is_legal(self.recipe(path)):
                        row[action] = len(paths)
                        paths.append(path)
                        parents.append(parent)
                        taken.append(action)
                children.append(row)
            self.levels.append(range(self.levels[-1].stop, len(paths)))
        self.paths = tuple(paths)
        self.keys = tuple(self.recipe(path).key for path in paths)
        self.first_finished = self.levels[-1].start
        self._position = {path: i for i, path in enumerate(paths)}
        self.parents, self.actions = torch.tensor(parents), torch.tensor(taken)
        self.children = torch.full((len(paths), self.action_dim), -1)
        self.children[: self.first_finished] = torch.tensor(children)
        self.masks = self.children >= 0
        self.masks[self.first_finished :, 0] = True

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

    def state(self, choices: Choices) -> int:
        """The position of a state in `paths`.

        Raises:
            InvalidInput: these choices are not legal.
        """
        if choices not in self._position:
            raise InvalidInput(f"choices {choices!r:.60} are not legal here; follow mask() from the first slot on")
        return self._position[choices]


def slots_of(recipes: Sequence[Recipe], order: Sequence[str]) -> tuple[Slot, ...]:
    """One slot per strategy that occurs, in the given order, with the settings that occur in sorted order."""
    seen = set(itertools.chain.from_iterable(recipe.steps for recipe in recipes))
    found = {name: tuple(sorted(s.setting for s in seen if s.strategy == name)) for name in order}
    return tuple(Slot(name, settings) for name, settings in found.items() if settings)
