"""Selection by a learned policy: train on what was scored so far, then draw parents from the policy.

The policy is a distribution over recipes; restricted to the candidates that were measured and work, drawing `count`
of them without replacement is exact sampling by Gumbel keys (Vieira 2014; Kool et al. 2019, arXiv 1903.06059). With
fewer than four working candidates there is nothing to learn from: then the fittest are taken and the details say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.records import STRATEGY_NAMES, Estimate, Recipe
from hybrid_core.rl.game import RecipeGame
from hybrid_core.rl.optimizer import HybridRLOptimizer
from hybrid_core.rl.report import learning_report, untrained_report
from hybrid_core.rl.tree import slots_of

MINIMUM_MEASURED = 4
DEFAULT_NOISE = 0.01


class Scored(Protocol):
    """What the selector reads of a candidate: its recipe, its fitness, and whether it was measured and is correct."""

    @property
    def recipe(self) -> Recipe:
        """The recipe that was tried."""
        ...

    @property
    def fitness(self) -> Any:
        """A number or an `Estimate`; ignored when `ok` is False."""
        ...

    @property
    def ok(self) -> bool:
        """False for a candidate that failed."""
        ...


class RLSelector:
    """`choose` trains a fresh `HybridRLOptimizer` on the scored candidates; the same input gives the same choice."""

    def __init__(self, options: HybridOptimizationConfig, seed: int = 0, device: str = "cpu") -> None:
        if not options.enable_rl_optimization:
            raise InvalidInput("enable_rl_optimization=False; choose another selection method, or enable it")
        self.options = options
        self.seed = seed
        self.device = device

    def choose(self, scored: Sequence[Scored], count: int) -> tuple[list[int], dict[str, Any]]:
        """Indices of up to `count` distinct working candidates, and what the training did (JSON-able).

        Raises:
            InvalidInput: `count` is below 1.
        """
        if count < 1:
            raise InvalidInput(f"count={count} is not allowed; choose at least one candidate")
        usable = _usable(scored)
        if len(usable) < MINIMUM_MEASURED:
            return self._fittest(scored, usable, count)
        learner = self.fit(scored)
        ranked = self.rank(learner, [scored[i].recipe for i in usable.values()])
        indices = [list(usable.values())[i] for i in ranked[:count]]
        return indices, learning_report(learner, f"policy trained on {len(usable)} measured candidates")

    def fit(self, scored: Sequence[Scored]) -> HybridRLOptimizer:
        """A learner trained on these candidates."""
        learner = HybridRLOptimizer(
            self.options, environment_of(scored, self.options, self.seed), self.device, self.seed
        )
        learner.train_rl_optimizer()
        return learner

    def rank(self, learner: HybridRLOptimizer, recipes: Sequence[Recipe]) -> list[int]:
        """Positions of the recipes as drawn without replacement from the policy; unreachable ones last."""
        generator = torch.Generator().manual_seed(self.seed)
        uniform = torch.rand(len(recipes), generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
        gumbel = -(-uniform.log()).log()
        reached = learner.log_probabilities()
        keys = [_log_probability(reached, learner.env, r) + float(g) for r, g in zip(recipes, gumbel, strict=True)]
        return sorted(range(len(recipes)), key=lambda i: keys[i], reverse=True)

    def _fittest(
        self, scored: Sequence[Scored], usable: dict[str, int], count: int
    ) -> tuple[list[int], dict[str, Any]]:
        order = sorted(usable.values(), key=lambda i: fitness_value(scored[i].fitness), reverse=True)
        reason = (
            f"only {len(usable)} working candidates, and learning needs {MINIMUM_MEASURED}; took the fittest instead"
        )
        return order[:count], untrained_report(self.options, reason)


def environment_of(scored: Sequence[Scored], options: HybridOptimizationConfig, seed: int = 0) -> RecipeGame:
    """The game over the strategies and settings that occur among the candidates, paid by their measured fitness."""
    usable = _usable(scored)
    failed = {c.recipe.key for c in scored if not c.ok} - set(usable)
    slots = slots_of([c.recipe for c in scored], STRATEGY_NAMES)
    planned = max(1, options.num_candidates * options.max_iterations)
    return RecipeGame(
        slots,
        {key: fitness_value(scored[i].fitness) for key, i in usable.items()},
        failed=failed,
        noise=_noise([scored[i].fitness for i in usable.values()]),
        budget_share=min(1.0, len(scored) / planned),
        max_steps=options.rl_max_steps_per_episode,
        seed=seed,
    )


def fitness_value(fitness: Any) -> float:
    """The number inside an `Estimate`, or the number itself."""
    return float(fitness.value if isinstance(fitness, Estimate) else fitness)


def _usable(scored: Sequence[Scored]) -> dict[str, int]:
    """Index of the fittest working candidate of every recipe key, in the order of first appearance."""
    best: dict[str, int] = {}
    for index, candidate in enumerate(scored):
        if not candidate.ok or not math.isfinite(fitness_value(candidate.fitness)):
            continue
        rival = best.setdefault(candidate.recipe.key, index)
        if fitness_value(candidate.fitness) > fitness_value(scored[rival].fitness):
            best[candidate.recipe.key] = index
    return best


def _noise(estimates: Sequence[Any]) -> float:
    """The typical half width of the fitness intervals; 0.01 where only plain numbers are known."""
    widths = sorted((e.high - e.low) / 2 for e in estimates if isinstance(e, Estimate))
    middle = widths[len(widths) // 2] if widths else DEFAULT_NOISE
    return middle if math.isfinite(middle) and middle > 0 else DEFAULT_NOISE


def _log_probability(reached: torch.Tensor, game: RecipeGame, recipe: Recipe) -> float:
    try:
        return float(reached[game.state(game.choices_of(recipe))])
    except InvalidInput:
        # Fewer steps than slots (rl_max_steps_per_episode): the policy cannot build this recipe.
        return -math.inf
