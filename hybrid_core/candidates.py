"""Candidates: really changed copies of the caller's module with what was measured on them.

`HybridOptimizationStrategy` offers each strategy as a function of a module; `generate_candidates` makes the
documented list of single strategies and pairs. A pair is measured as a pair: the original code multiplied the figures
of its two halves.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from torch import nn

from hybrid_core.candidate_selector import Candidate
from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.fitness import fitness_of
from hybrid_core.measured_module import DEFAULT_BUDGET_S, MeasuredModule
from hybrid_core.records import STRATEGY_NAMES, Purpose, Recipe, Trial
from hybrid_core.search.costs import Budget, CostModel, limits_for
from hybrid_core.search.proposals import order_singles
from hybrid_core.search.space import Space


class HybridOptimizationStrategy:
    """Each strategy as a function of a module: measures its settings and returns the best one's candidate.

    Attributes:
        strategy_performance: fitness of every candidate returned so far, by strategy.
    """

    def __init__(self, config: HybridOptimizationConfig | None = None, seed: int = 0) -> None:
        self.config = config or HybridOptimizationConfig()
        self.seed = seed
        self.strategy_performance: dict[str, list[float]] = {name: [] for name in STRATEGY_NAMES}

    def kernel_fusion_strategy(
        self, module: nn.Module, example_inputs: Any = None, *, budget_s: float = DEFAULT_BUDGET_S
    ) -> Candidate:
        """The best kernel_fusion setting on this module."""
        return self._best_setting("kernel_fusion", module, example_inputs, budget_s)

    def quantization_strategy(
        self, module: nn.Module, example_inputs: Any = None, *, budget_s: float = DEFAULT_BUDGET_S
    ) -> Candidate:
        """The best quantization setting on this module."""
        return self._best_setting("quantization", module, example_inputs, budget_s)

    def memory_pooling_strategy(
        self, module: nn.Module, example_inputs: Any = None, *, budget_s: float = DEFAULT_BUDGET_S
    ) -> Candidate:
        """The best memory_pooling setting on this module."""
        return self._best_setting("memory_pooling", module, example_inputs, budget_s)

    def attention_fusion_strategy(
        self, module: nn.Module, example_inputs: Any = None, *, budget_s: float = DEFAULT_BUDGET_S
    ) -> Candidate:
        """The best attention_fusion setting on this module."""
        return self._best_setting("attention_fusion", module, example_inputs, budget_s)

    def get_strategy_function(self, name: str) -> Callable[..., Candidate]:
        """The function of that strategy.

        Raises:
            InvalidInput: there is no such strategy; the message lists those there are.
        """
        if name not in STRATEGY_NAMES:
            raise InvalidInput(f"strategy {name!r:.60} is unknown; choose one of {', '.join(STRATEGY_NAMES)}")
        function: Callable[..., Candidate] = getattr(self, f"{name}_strategy")
        return function

    def _best_setting(self, name: str, module: nn.Module, example_inputs: Any, budget_s: float) -> Candidate:
        measured = MeasuredModule(module, example_inputs, budget_s=budget_s, seed=self.seed)
        space = measured.space(HybridOptimizationConfig(optimization_strategies=(name,)))
        attempts = Attempts(measured, space, most=len(space.singles))
        for recipe in order_singles(space, space.expected_cost_s, self.config):
            attempts.make(recipe)
        if not attempts.ok:
            why = "; ".join(f"{key}: {reason}" for key, reason in attempts.missing.items())
            raise StrategyUnsupported(f"{name} has no setting that works on this module: {why}")
        scores = {t.recipe.key: fitness_of(t.measurement, self.config).value for t in attempts.ok if t.measurement}
        best = max(attempts.ok, key=lambda trial: scores[trial.recipe.key])
        self.strategy_performance[name].append(scores[best.recipe.key])
        return measured.candidate(best)


def generate_candidates(
    measured: MeasuredModule, space: Space, options: HybridOptimizationConfig
) -> tuple[list[Candidate], dict[str, str]]:
    """Up to `num_candidates` working candidates, and why the other recipes are missing.

    One setting of every strategy comes first (the next one where it does not work), then pairs of those that worked,
    most promising first, then the remaining settings.
    """
    attempts = Attempts(measured, space, most=options.num_candidates)
    singles = order_singles(space, space.expected_cost_s, options)
    for recipe in singles:
        if recipe.strategies[0] not in {t.recipe.strategies[0] for t in attempts.ok}:
            attempts.make(recipe)
    if options.enable_ensemble_optimization:
        scores = [(t.recipe, fitness_of(t.measurement, options).value) for t in attempts.ok if t.measurement]
        for (first, _), (second, _) in sorted(
            itertools.combinations(scores, 2), key=lambda pair: -pair[0][1] - pair[1][1]
        ):
            together = space.find(first.to_dict() | second.to_dict())
            if together is not None:
                attempts.make(together)
    for recipe in singles:
        attempts.make(recipe)
    return [measured.candidate(trial) for trial in attempts.ok], attempts.missing


class Attempts:
    """Measures recipes until `most` of them work or the module's budget is used, and keeps why others are missing.

    Attributes:
        ok: the trials that worked, in order.
        missing: recipe key -> why there is no candidate of it.
    """

    def __init__(
        self, measured: MeasuredModule, space: Space, most: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.ok: list[Trial] = []
        self.missing: dict[str, str] = {**space.unavailable, **space.left_out}
        self._measured, self._most = measured, most
        self._budget, self._costs = Budget(measured.budget_s, clock), CostModel(space)
        self._tried: set[str] = set()

    def make(self, recipe: Recipe) -> None:
        """Measure the recipe if it was not tried, is still wanted, and fits into what is left of the budget."""
        expected_s, left_s = self._costs.expected_s(recipe), self._budget.remaining_s
        if recipe.key in self._tried:
            return
        if len(self.ok) >= self._most:
            self.missing[recipe.key] = f"not measured: {self._most} candidates are enough"
        elif expected_s > left_s:
            self.missing[recipe.key] = (
                f"not measured: about {expected_s:.0f} s do not fit into the {left_s:.0f} s left of "
                f"budget_s={self._measured.budget_s:g}"
            )
        else:
            self._measure(recipe, left_s)

    def _measure(self, recipe: Recipe, left_s: float) -> None:
        limits = limits_for(self._measured.budget_s, Purpose.SEARCH, left_s)
        trial = self._measured.measure(recipe, Purpose.SEARCH, limits)
        self._tried.add(recipe.key)
        self._costs.observe(trial)
        self.missing.pop(recipe.key, None)
        if trial.is_ok:
            self.ok.append(trial)
        else:
            self.missing[recipe.key] = f"{trial.outcome}: {trial.reason}"
