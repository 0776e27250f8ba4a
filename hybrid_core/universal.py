"""The universal optimizer of the document: the hybrid core behind one call that returns just the model.

Only the keys the document shows are accepted; the original listed dozens of switches that did nothing or broke the
model, and those are refused by name. The report lists what was really applied, from the recipe, with what it was
measured to do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.core import NOTHING_YET, HybridOptimizationCore
from hybrid_core.errors import InvalidInput
from hybrid_core.examples import private_copy
from hybrid_core.measured_module import DEFAULT_BUDGET_S, RATIOS
from hybrid_core.records import STRATEGY_NAMES, Recipe, Step


@dataclass(frozen=True)
class UniversalOptimizationConfig:
    """The documented keys. `enable_hybrid_optimization=False` returns an unchanged copy and reports that."""

    enable_hybrid_optimization: bool = True
    enable_candidate_selection: bool = True
    enable_ensemble_optimization: bool = True
    enable_rl_optimization: bool = True
    enable_dapo: bool = True
    enable_vapo: bool = True
    enable_orz: bool = True
    num_candidates: int = 5
    hybrid_strategies: tuple[str, ...] = STRATEGY_NAMES

    def __post_init__(self) -> None:
        """Refuse what the hybrid core would refuse, already here."""
        if not isinstance(self.enable_hybrid_optimization, bool):
            raise InvalidInput(
                f"enable_hybrid_optimization={self.enable_hybrid_optimization!r:.60} is not allowed; use True or False"
            )
        try:
            self.hybrid_config()
        except InvalidInput as error:
            raise InvalidInput(str(error).replace("optimization_strategies", "hybrid_strategies")) from None

    @classmethod
    def from_dict(cls, config: Mapping[str, Any] | None) -> UniversalOptimizationConfig:
        """Build from a dictionary; unknown keys are refused by name."""
        known = [f.name for f in fields(cls)]
        for key in config or {}:
            if key not in known:
                raise InvalidInput(
                    f"configuration key {key!r:.60} is unknown to the universal optimizer; choose among "
                    f"{', '.join(known)}"
                )
        return cls(**dict(config or {}))

    def hybrid_config(self) -> HybridOptimizationConfig:
        """The same choices as the hybrid core's configuration."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name.startswith("enable_")}
        del given["enable_hybrid_optimization"]
        return HybridOptimizationConfig(
            **given, num_candidates=self.num_candidates, optimization_strategies=self.hybrid_strategies
        )


class UniversalModelOptimizer:
    """Optimizes models by name and keeps a record of each.

    Attributes:
        core: the hybrid core that does the work.
        performance_metrics: the last record of every model name.
        optimization_history: every record, oldest first.
    """

    def __init__(self, config: UniversalOptimizationConfig | None = None) -> None:
        self.config = config or UniversalOptimizationConfig()
        self.core = HybridOptimizationCore(self.config.hybrid_config())
        self.performance_metrics: dict[str, dict[str, Any]] = {}
        self.optimization_history: list[dict[str, Any]] = []

    def optimize_model(
        self,
        model: nn.Module,
        model_name: str = "unknown",
        example_inputs: Any = None,
        *,
        budget_s: float = DEFAULT_BUDGET_S,
    ) -> nn.Module:
        """The optimized copy; what was applied and measured goes to `performance_metrics[model_name]`."""
        started = time.monotonic()
        result: dict[str, Any] | None = None
        if self.config.enable_hybrid_optimization:
            optimized, result = self.core.hybrid_optimize_module(model, example_inputs, budget_s=budget_s)
        else:
            optimized = private_copy(model)
        record = {
            "model_name": model_name,
            "optimization_time_s": time.monotonic() - started,
            "original_parameters": count_parameters(model),
            "optimized_parameters": count_parameters(optimized),
            "optimizations_applied": applied(result),
            "result": result,
            "note": result["sentence"] if result else "enable_hybrid_optimization is off: nothing was applied",
        }
        self.performance_metrics[model_name] = record
        self.optimization_history.append(record)
        return optimized

    def get_optimization_report(self) -> dict[str, Any]:
        """Every record and the hybrid core's own report, JSON-able."""
        if not self.optimization_history:
            return {"message": NOTHING_YET}
        return {
            "total_optimizations": len(self.optimization_history),
            "models": list(self.optimization_history),
            "hybrid_core": self.core.get_optimization_report(),
        }

    def save_optimization_report(self, path: str | Path) -> Path:
        """Write the report as JSON and return the path.

        Raises:
            InvalidInput: the file cannot be written.
        """
        target = Path(path)
        try:
            target.write_text(json.dumps(self.get_optimization_report(), indent=2, allow_nan=False), encoding="utf-8")
        except OSError as error:
            raise InvalidInput(
                f"report {str(target)!r:.200} cannot be written ({error}); choose another path"
            ) from error
        return target


def create_universal_optimizer(config: Mapping[str, Any] | None = None) -> UniversalModelOptimizer:
    """An optimizer with the documented keys; unknown keys are refused by name."""
    return UniversalModelOptimizer(UniversalOptimizationConfig.from_dict(config))


def applied(result: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The winning recipe: what it changed, its measured effect as a whole, and what each step did when alone."""
    if not result or not result["recipe"]:
        return []
    own = [t for t in result["trials"] if t["recipe"] == result["recipe"] and "changes" in t]
    return [
        {
            "recipe": dict(result["recipe"]),
            "changes": list(own[-1]["changes"]) if own else [],
            "measured": {name: dict(interval) for name, interval in result["intervals"].items()},
            "verdicts": dict(result["verdicts"]),
            "steps": [effect_alone(step, result) for step in Recipe.from_dict(result["recipe"]).steps],
        }
    ]


def effect_alone(step: Step, result: Mapping[str, Any]) -> dict[str, Any]:
    """What one step of the winning recipe did without the others, by its last measurement in this search.

    Effects of steps do not multiply, so nothing is derived: a step that was not measured alone says so, with the reason
    where there is one.
    """
    alone = {step.strategy: step.setting}
    facts: dict[str, Any] = {"strategy": step.strategy, "setting": step.setting}
    if alone == dict(result["recipe"]):
        return {**facts, "measured_alone": {name: dict(found) for name, found in result["intervals"].items()}}
    tried = [trial for trial in result["trials"] if trial["recipe"] == alone]
    measured = [trial for trial in tried if all(name in trial for name in RATIOS)]
    if measured:
        return {**facts, "measured_alone": {name: dict(measured[-1][name]) for name in RATIOS}}
    skipped = {item["key"]: item["reason"] for item in result.get("skipped", ())}
    key = Recipe((step,)).key
    reason = f"{tried[-1]['outcome']}: {tried[-1]['reason']}" if tried else skipped.get(key, "")
    return {**facts, "measured_alone": None, "note": "not measured alone" + (f" ({reason})" if reason else "")}


def count_parameters(model: nn.Module) -> int:
    """Numbers held as parameters; packed integer weights are no parameters and are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())
