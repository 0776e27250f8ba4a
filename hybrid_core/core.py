"""The documented entry point: optimize a module, get a changed copy and what was measured on the way.

The search is the same one the dashboard runs (`hybrid_core.search.loop`), with one difference: it measures in the
calling process (see `hybrid_core.measured_module`). Each figure in a result is measured on the module it belongs to;
`fitness_score` is the fitness of the recipe that was selected, from the final race, and `none` with ratios of exactly
1.0 means that nothing beat the untouched module, which is a normal answer.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hybrid_core.adaptive.history import HistoryRow
from hybrid_core.adaptive.shipped import shipped_history
from hybrid_core.candidate_selector import Candidate, CandidateSelector
from hybrid_core.candidates import HybridOptimizationStrategy, generate_candidates
from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.measured_module import (
    DEFAULT_BUDGET_S,
    RATIOS,
    MeasuredModule,
    plain_ratios,
    strategy_name,
    trial_summary,
)
from hybrid_core.measurement.machine import describe_versions
from hybrid_core.records import Estimate, Trial, to_json
from hybrid_core.search.loop import run_search
from hybrid_core.search.result import SearchResult
from hybrid_core.search.space import Space

NOTHING_YET = "No optimizations performed yet"
RL_MEANS = {"avg_policy_loss": "policy_loss", "avg_value_loss": "value_loss", "avg_rl_reward": "returns"}


class HybridOptimizationCore:
    """Optimizes modules with one configuration and remembers what it found.

    Attributes:
        candidate_selector, optimization_strategy: the two documented parts, with the same configuration.
        optimization_history: the result of every `hybrid_optimize_module`, oldest first.
        missing_candidates: why recipes are absent from the last `generate_optimization_candidates`.
    """

    def __init__(self, config: HybridOptimizationConfig | None = None, seed: int = 0) -> None:
        self.config = config or HybridOptimizationConfig()
        self.seed = seed
        self.candidate_selector = CandidateSelector(self.config, seed)
        self.optimization_strategy = HybridOptimizationStrategy(self.config, seed)
        self.optimization_history: list[dict[str, Any]] = []
        self.missing_candidates: dict[str, str] = {}
        self._rl_details: list[Mapping[str, Any]] = []
        self._rows: list[HistoryRow] = []

    def hybrid_optimize_module(
        self, model: nn.Module, example_inputs: Any = None, *, budget_s: float = DEFAULT_BUDGET_S
    ) -> tuple[nn.Module, dict[str, Any]]:
        """Search for the best recipe within `budget_s` seconds; returns the optimized copy and the result.

        `model` itself is never changed. `example_inputs` are the arguments of one call, inferred for modules that start
        with Linear, LayerNorm or Embedding and for the registry's models. The result is JSON-able.

        Raises:
            InvalidInput: the module, the inputs or the budget are not allowed.
        """
        measured = MeasuredModule(model, example_inputs, budget_s=budget_s, seed=self.seed)
        events: list[tuple[str, dict[str, Any]]] = []
        space = measured.space(self.config)
        found = run_search(
            dataclasses.replace(measured.run, options=self.config),
            space,
            measured.measure,
            lambda kind, data: events.append((kind, data)),
            history=self._known(measured),
            in_processes=False,
        )
        self._remember(measured, events)
        result = describe(found, measured.trials, skipped_settings(space, found, measured.trials, events))
        self.optimization_history.append(result)
        return measured.build(found.winner), result

    def _known(self, measured: MeasuredModule) -> list[HistoryRow]:
        """What this core measured of such modules, then what comes with the project for this processor."""
        own = [row for row in self._rows if row.family == measured.run.model]
        device = str(measured.situation.device)
        return [*own, *shipped_history(describe_versions()["cpu_capability"], device)]

    def generate_optimization_candidates(
        self, model: nn.Module, example_inputs: Any = None, *, budget_s: float = DEFAULT_BUDGET_S
    ) -> list[Candidate]:
        """Up to `num_candidates` measured candidates: single strategies, pairs of those that work, further settings.

        Failed recipes are left out; `missing_candidates` says why each is missing.
        """
        measured = MeasuredModule(model, example_inputs, budget_s=budget_s, seed=self.seed)
        candidates, self.missing_candidates = generate_candidates(measured, measured.space(self.config), self.config)
        self._remember(measured, [])
        return candidates

    def get_optimization_report(self) -> dict[str, Any]:
        """What this core did so far: how often each strategy won, mean ratios, the best result, the switches."""
        history = self.optimization_history
        if not history:
            return {"message": NOTHING_YET}
        report: dict[str, Any] = {
            "total_optimizations": len(history),
            "strategy_usage": dict(Counter(result["selected_strategy"] for result in history)),
            "average_metrics": {
                f"avg_{name}": statistics.fmean(r["performance_metrics"][name] for r in history) for name in RATIOS
            },
            "best_optimization": max(history, key=lambda result: float(result["fitness_score"])),
            "hybrid_optimization_enabled": True,
            "ensemble_optimization_enabled": self.config.enable_ensemble_optimization,
            "rl_optimization_enabled": self.config.enable_rl_optimization,
            "dapo_enabled": self.config.enable_dapo,
            "vapo_enabled": self.config.enable_vapo,
            "orz_enabled": self.config.enable_orz,
        }
        trained = [details for details in self._rl_details if details.get("trained")]
        if trained:
            report["rl_performance"] = _rl_performance(trained)
        return report

    def _remember(self, measured: MeasuredModule, events: list[tuple[str, dict[str, Any]]]) -> None:
        """Keep what the next search on a module of this class may start from, and what the policy reported."""
        self._rl_details += learning_reports(events)
        for trial in measured.trials:
            if trial.recipe.is_baseline:
                continue
            found = trial.measurement
            ratios = (found.speed_improvement, found.memory_efficiency, found.accuracy_preservation) if found else ()
            situation = measured.situation
            self._rows.append(
                HistoryRow(
                    trial.recipe.key,
                    measured.run.model,
                    measured.run.model,
                    situation.workload.name,
                    str(situation.device),
                    str(trial.outcome),
                    *ratios,
                )
            )


def create_hybrid_optimization_core(config: Mapping[str, Any] | None = None) -> HybridOptimizationCore:
    """A core with the documented configuration keys; unknown keys and impossible values are refused by name."""
    if isinstance(config, HybridOptimizationConfig):
        return HybridOptimizationCore(config)
    return HybridOptimizationCore(HybridOptimizationConfig.from_dict(config))


def describe(found: SearchResult, trials: list[Trial], skipped: Mapping[str, str]) -> dict[str, Any]:
    """The documented result of a search, JSON-able: plain numbers and text only."""
    winner = found.winner_trial.measurement if found.improved and found.winner_trial else None
    working = {t.recipe.key: t.recipe for t in trials if t.is_ok and not t.recipe.is_baseline}
    intervals = {name: getattr(winner, name) if winner else Estimate.exact(1.0) for name in RATIOS}
    result: dict[str, Any] = {
        "selected_strategy": strategy_name(found.winner),
        "fitness_score": float(found.fitness.value) if found.improved and found.fitness else found.baseline_fitness,
        "num_candidates": len(working),
        "all_strategies": [strategy_name(recipe) for recipe in working.values()],
        "performance_metrics": plain_ratios(winner),
        "recipe": found.winner.to_dict(),
        "intervals": to_json(intervals),
        "verdicts": to_json(found.verdicts) if found.improved else {},
        "baseline_fitness": found.baseline_fitness,
        "noise_floor": found.noise_floor,
        "trials": [trial_summary(trial, found.noise_floor) for trial in trials],
        "skipped": [{"key": key, "reason": reason} for key, reason in skipped.items()],
        "pareto_front": list(found.front_keys),
        "sentence": found.sentence,
        "stop_reason": found.stop_reason,
        "iterations": found.iterations,
    }
    return result


def skipped_settings(
    space: Space, found: SearchResult, trials: list[Trial], events: list[tuple[str, dict[str, Any]]]
) -> dict[str, str]:
    """Why recipes were not measured: what the search said, and its reason to stop for the single settings left over."""
    said = {data["key"]: data["reason"] for kind, data in events if kind == "skipped"}
    measured = {trial.recipe.key for trial in trials}
    left = [recipe.key for recipe in space.singles if recipe.key not in measured and recipe.key not in said]
    return said | {key: f"not measured: {found.stop_reason}" for key in left}


def learning_reports(events: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """What learned policies reported: of a draw of parents, or beside what a searcher proposed."""
    drawn = [data["details"] for kind, data in events if kind == "selection" and data["method"] == "rl"]
    notes = [data["notes"] for kind, data in events if kind == "proposals"]
    said = [note for own in notes for note in (own, *own.values()) if isinstance(note, Mapping)]
    return drawn + [note["learning"] for note in said if isinstance(note.get("learning"), Mapping)]


def _rl_performance(trained: list[Mapping[str, Any]]) -> dict[str, float]:
    """Means over all trainings of the policy; a critic that never ran (VAPO off) has no value loss to report."""
    report: dict[str, float] = {"total_rl_episodes": sum(details["episodes"] for details in trained)}
    for key, source in RL_MEANS.items():
        values = [value for details in trained for value in details[source]]
        if values:
            report[key] = statistics.fmean(values)
    return report
