"""Measuring recipes on the caller's own module, in the caller's own process.

The dashboard measures each candidate in a process of its own; a module that somebody holds in an interpreter cannot
be sent there without pickling it, so here it is measured in place, through the same `evaluation.evaluate`. That keeps
the numbers honest and gives up one thing, said in docs/api.md: a candidate that crashes the interpreter crashes the
caller. `evaluate` puts back what measuring disturbs: random state, thread count, default dtype.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

import torch
from torch import nn

from hybrid_core.application import situation_of
from hybrid_core.config import HybridOptimizationConfig, RunConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.evaluation import calibration_inputs, case_from_module, evaluate
from hybrid_core.examples import private_copy
from hybrid_core.fitness import SMALLEST_NOISE_FLOOR, objectives_of, verdicts_of
from hybrid_core.measurement.process_state import restored_state
from hybrid_core.recipes import apply_steps
from hybrid_core.records import (
    MeasureLimits,
    Measurement,
    MeasureRequest,
    Purpose,
    Recipe,
    Subject,
    Trial,
    to_json,
    trial_name,
)
from hybrid_core.search.space import Space
from hybrid_core.strategies.base import Situation

DEFAULT_BUDGET_S = 60.0
# No process to start: build, check and time a small module in place.
OVERHEAD_IN_PROCESS_S = 1.5
RATIOS = ("speed_improvement", "memory_efficiency", "accuracy_preservation")


class MeasuredModule:
    """One module of the caller with its example inputs, ready to have recipes measured on it.

    Attributes:
        run: the validated budget and seed, as the search takes them.
        situation: the call that is optimized.
        trials: every trial so far, in order.
    """

    def __init__(
        self, model: nn.Module, example_inputs: Any = None, *, budget_s: float = DEFAULT_BUDGET_S, seed: int = 0
    ) -> None:
        self.run = RunConfig(model=type(model).__name__, size="own", budget_s=budget_s, seed=seed)
        self.situation: Situation = situation_of(model, example_inputs)
        self._original = private_copy(model)
        self.budget_s = budget_s
        self.run_id = f"module-{uuid.uuid4().hex[:12]}"
        self.trials: list[Trial] = []
        threads = torch.get_num_threads()
        device = self.situation.device
        self._case = case_from_module(
            self._original, self.situation.example_inputs, device=device, threads=threads, seed=seed
        )
        self.situation = dataclasses.replace(self.situation, fresh_inputs=calibration_inputs(self._case))
        self._subject = Subject(type(model).__name__, "own", self._case.workload, str(device), threads, seed)

    def space(self, options: HybridOptimizationConfig) -> Space:
        """What may be tried on this machine, priced for measuring in place."""
        space = Space.from_registry(options, str(self.situation.device))
        return dataclasses.replace(space, overhead_s=OVERHEAD_IN_PROCESS_S)

    def measure(self, recipe: Recipe, purpose: Purpose, limits: MeasureLimits, round_number: int = 0) -> Trial:
        """Measure one recipe against the untouched module; the trial says how it ended."""
        longest_s = max(0.5, self.budget_s / 60) * (2 if purpose is Purpose.FINAL else 1)
        request = MeasureRequest(
            trial_id=trial_name(self.run_id, purpose, recipe, round_number),
            run_id=self.run_id,
            subject=self._subject,
            recipe=recipe,
            purpose=purpose,
            limits=dataclasses.replace(limits, max_timed_s=min(limits.max_timed_s, longest_s)),
        )
        trial = evaluate(self._case, request)
        self.trials.append(trial)
        return trial

    def build(self, recipe: Recipe) -> nn.Module:
        """A fresh copy of the module with the recipe applied, deciding as its last measurement here did."""
        measured = [t.measurement for t in self.trials if t.recipe == recipe and t.measurement is not None]
        decided = measured[-1].environment.get("decisions", {}) if measured else {}
        situation = dataclasses.replace(self.situation, decided=decided)
        with restored_state(threads=0):
            return apply_steps(private_copy(self._original), recipe, situation).model

    def candidate(self, trial: Trial) -> dict[str, Any]:
        """The documented candidate dictionary of a trial that is ok, with its recipe, intervals and trial."""
        if trial.measurement is None:
            raise InvalidInput(f"{trial.recipe.key} was not measured ({trial.reason or trial.outcome}); skip it")
        return {
            "module": self.build(trial.recipe),
            "strategy": strategy_name(trial.recipe),
            "original_strategy": "+".join(trial.recipe.strategies) or "none",
            **plain_ratios(trial.measurement),
            "recipe": trial.recipe.to_dict(),
            "intervals": {name: to_json(getattr(trial.measurement, name)) for name in RATIOS},
            "trial": trial,
        }


def strategy_name(recipe: Recipe) -> str:
    """'none', the strategy's name, or 'ensemble_<a>_<b>' in the order of application.

    >>> strategy_name(Recipe.from_dict({"attention_fusion": "sdpa", "quantization": "bfloat16"}))
    'ensemble_attention_fusion_quantization'
    """
    if len(recipe.steps) < 2:
        return recipe.strategies[0] if recipe.steps else "none"
    return "ensemble_" + "_".join(recipe.strategies)


def plain_ratios(measurement: Measurement | None) -> dict[str, float]:
    """The three ratios as plain numbers; 1.0 each for the untouched module."""
    return {name: float(getattr(measurement, name).value) if measurement else 1.0 for name in RATIOS}


def trial_summary(trial: Trial, noise_floor: float = SMALLEST_NOISE_FLOOR) -> dict[str, Any]:
    """One trial as JSON-able facts, without its raw samples."""
    facts: dict[str, Any] = {
        "recipe": trial.recipe.to_dict(),
        "key": trial.recipe.key,
        "purpose": str(trial.purpose),
        "outcome": str(trial.outcome),
        "reason": trial.reason,
        "stage": trial.stage,
        "seconds": float(trial.seconds),
    }
    if trial.measurement is not None:
        floors = {name: noise_floor for name in objectives_of(trial.measurement)}
        facts |= {name: to_json(getattr(trial.measurement, name)) for name in RATIOS}
        facts["verdicts"] = to_json(verdicts_of(trial.measurement, floors))
        facts["changes"] = list(trial.measurement.changes)
        facts["warnings"] = list(trial.measurement.warnings)
    return facts
