"""The recipe game in Gymnasium's interface, so that any agent written for it can play.

`reset` and `step` speak numpy and keep one episode; everything else is `RecipeGame`, whose tensors the project's own
learner uses directly. The legal settings of the next slot are in `info["action_mask"]`, as Gymnasium's own masked
environments have them, and sampling the action space respects them. Source: Gymnasium 1.x (Towers et al. 2024, arXiv
2407.17032). Only this file imports gymnasium: the learner plays without it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from hybrid_core.errors import InvalidInput
from hybrid_core.rl.game import RecipeGame
from hybrid_core.rl.tree import Choices

Observation = NDArray[np.float32]


class SlotActions(spaces.Discrete):
    """The settings of the current slot: `sample()` without a mask of its own draws what the slot allows now."""

    def __init__(self, game: OptimizationEnvironment) -> None:
        super().__init__(game.action_dim)
        self._game = game

    def sample(self, mask: Any = None, probability: Any = None) -> np.int64:
        """One allowed action, each equally likely unless `probability` says otherwise."""
        if mask is None and probability is None:
            mask = self._game.action_mask()
        return super().sample(mask, probability)


class OptimizationEnvironment(RecipeGame, gymnasium.Env[Observation, np.int64]):
    """One episode builds one recipe; takes the arguments of `RecipeGame`.

    The observation is a float32 vector: a one-hot per slot (undecided, off, settings), best gain so far, share of the
    budget used, progress, the surrogate's mean and doubt of the recipe as it stands, then the features of model and
    hardware where they were given. `info` has `action_mask` (int8, 1 = allowed), `recipe` (its key as it stands) and,
    in the end, whether its reward was `measured`.
    """

    choices: Choices = ()

    @cached_property
    def observation_space(self) -> spaces.Box:  # type: ignore[override]
        """Float32 vectors of `state_dim` numbers."""
        return spaces.Box(-np.inf, np.inf, (self.state_dim,), np.float32)

    @cached_property
    def action_space(self) -> SlotActions:  # type: ignore[override]
        """0 is off, i the i-th setting of the current slot."""
        return SlotActions(self)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a new recipe: the state with every slot undecided. No options, and the seed changes nothing."""
        gymnasium.Env.reset(self, seed=seed, options=options)
        self.choices = ()
        return self._observation(), self._info()

    def step(self, action: int | np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decide the current slot: (state, reward, terminated, truncated, info). The reward is 0 before the last step.

        An episode is never truncated: where `max_steps` ends it, the slots left are off and the recipe is complete.

        Raises:
            InvalidInput: the action is masked here, or the episode is over.
        """
        if self.is_over(self.choices):
            raise InvalidInput(f"all {self.horizon} slots are decided; call reset() before the next step")
        allowed = np.flatnonzero(self.action_mask()).tolist()
        if int(action) not in allowed:
            raise InvalidInput(f"action {action} is not allowed in slot {len(self.choices)}; choose one of {allowed}")
        self.choices += (int(action),)
        is_over = self.is_over(self.choices)
        return self._observation(), self.reward(self.choices) if is_over else 0.0, is_over, False, self._info()

    def action_mask(self) -> NDArray[np.int8]:
        """1 where an action is allowed in the current slot, shape (action_dim,)."""
        return self.mask(self.choices).numpy().astype(np.int8)

    def _observation(self) -> Observation:
        # A copy: what a caller does to its observation must not change the game.
        return self.observe(self.choices).numpy().copy()

    def _info(self) -> dict[str, Any]:
        key = self.keys[self.state(self.choices)]
        info = {"action_mask": self.action_mask(), "recipe": key}
        return info | ({"measured": key in self.measured_rewards} if self.is_over(self.choices) else {})
