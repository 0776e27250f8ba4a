"""What a person may ask for, validated in one place; standard library only.

`HybridOptimizationConfig` holds the documented keys of the search itself. `RunConfig` adds what is optimized and
where, and is what the page, the command line and the schedule submit. Both refuse unknown keys and impossible values
with one sentence that names the field, the value seen and what is allowed; nothing is ignored.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hybrid_core.errors import InvalidInput
from hybrid_core.records import SEARCH_METHODS, SELECTION_METHODS, STRATEGY_NAMES, Workload

OBJECTIVES = ("speed", "memory", "accuracy")
ROULETTE_SCALINGS = ("window", "sigma", "boltzmann")
DEFAULT_WEIGHTS = {"speed": 0.4, "memory": 0.3, "accuracy": 0.3}
# Declared by the original code and read nowhere; accepting them would promise something that does not happen.
NEVER_HONOURED = (
    "strategy_weights",
    "enable_enhanced_parameter_optimization",
    "adaptive_learning_rate_scaling",
    "dynamic_threshold_adjustment",
    "temperature_annealing_rate",
    "quantization_sensitivity_threshold",
    "memory_pressure_threshold",
    "performance_improvement_threshold",
    "parameter_adaptation_momentum",
    "convergence_detection_window",
)


@dataclass(frozen=True)
class HybridOptimizationConfig:
    """The documented configuration. Each field says what it does; `from_dict` and the constructor validate alike."""

    # False: measure every proposed candidate once and take the best; no selection, no recombination.
    enable_candidate_selection: bool = True
    # False: where the method would be a tournament, take the fittest instead.
    enable_tournament_selection: bool = True
    # True: first proposals come from earlier results on the same model family.
    enable_adaptive_hybrid: bool = True
    # False: fitness counts speed alone (accuracy stays a constraint).
    enable_multi_objective_optimization: bool = True
    # False: only recipes of one strategy.
    enable_ensemble_optimization: bool = True
    # True: `rl_enhanced_selection` chooses; False: `selection_strategy` does.
    enable_rl_optimization: bool = True
    # Only groups of episodes in which some but not all succeed train the policy; decoupled clip.
    enable_dapo: bool = True
    # A pretrained critic and length-adaptive GAE; False: a group's mean instead, or ORZ's plain critic.
    enable_vapo: bool = True
    # Potential-based reward shaping over zones of measured fitness, which needs a critic and brings a plain one.
    enable_orz: bool = True
    num_candidates: int = 5
    tournament_size: int = 3
    # True: the candidates of a tournament are drawn one by one from all of them, so one may meet itself.
    tournament_replacement: bool = False
    # How fitness becomes a share of the wheel, for "roulette" and "sus".
    roulette_scaling: str = "window"
    # Copies that the best candidate expects in N draws, for "rank".
    rank_pressure: float = 1.8
    # Each place's share of the chance of the place above it, for "exponential_rank".
    rank_decay: float = 0.9
    selection_strategy: str = "tournament"
    # How recipes are proposed: "adaptive", or one searcher alone ("selection" recombines what the method above chose).
    search_method: str = "adaptive"
    optimization_strategies: tuple[str, ...] = STRATEGY_NAMES
    # strategy -> the settings to try; a strategy that is missing or has none: those that a search tries by itself.
    strategy_settings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    objective_weights: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    # A candidate below this share of the baseline's fitness is neither parent nor winner.
    performance_threshold: float = 0.8
    # The search stops when the best fitness grew by less than this share in an iteration.
    convergence_threshold: float = 0.01
    max_iterations: int = 10
    # The pessimistic end of a winner's accuracy interval must reach this share of the baseline's quality.
    min_accuracy_preservation: float = 0.98
    # A winner whose whole speed interval lies below this is refused; lower it to trade speed for memory.
    min_speed_improvement: float = 1.0
    rl_hidden_dim: int = 128
    rl_learning_rate: float = 3e-4
    rl_value_learning_rate: float = 1e-3
    rl_gamma: float = 0.99
    rl_lambda: float = 0.95
    rl_epsilon_low: float = 0.1
    rl_epsilon_high: float = 0.3
    rl_max_episodes: int = 100
    rl_max_steps_per_episode: int = 50

    # field -> (low, high, low is allowed, high is allowed)
    _ranges: ClassVar[dict[str, tuple[float, float, bool, bool]]] = {
        "num_candidates": (1, 200, True, True),
        "tournament_size": (1, 200, True, True),
        "rank_pressure": (1, 2, True, True),
        "rank_decay": (0, 1, False, False),
        "max_iterations": (1, 1000, True, True),
        "performance_threshold": (0, 10, True, True),
        "convergence_threshold": (0, 1, True, True),
        "min_accuracy_preservation": (0, 1, True, True),
        "min_speed_improvement": (0, 10, True, True),
        "rl_hidden_dim": (1, 4096, True, True),
        "rl_learning_rate": (0, 1, False, True),
        "rl_value_learning_rate": (0, 1, False, True),
        "rl_gamma": (0, 1, False, True),
        "rl_lambda": (0, 1, True, True),
        "rl_epsilon_low": (0, 1, False, False),
        "rl_epsilon_high": (0, 10, False, True),
        "rl_max_episodes": (1, 100_000, True, True),
        "rl_max_steps_per_episode": (1, 10_000, True, True),
    }

    def __post_init__(self) -> None:
        """Refuse impossible values by name."""
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if spec.type == "bool" and not isinstance(value, bool):
                raise InvalidInput(f"{spec.name}={value!r} is not allowed; use True or False")
            if spec.name in self._ranges:
                _check_number(spec.name, value, self._ranges[spec.name], whole=spec.type == "int")
        if self.selection_strategy not in SELECTION_METHODS:
            raise InvalidInput(_not_one_of("selection_strategy", self.selection_strategy, SELECTION_METHODS))
        if self.roulette_scaling not in ROULETTE_SCALINGS:
            raise InvalidInput(_not_one_of("roulette_scaling", self.roulette_scaling, ROULETTE_SCALINGS))
        if self.search_method not in SEARCH_METHODS:
            raise InvalidInput(_not_one_of("search_method", self.search_method, SEARCH_METHODS))
        if self.selection_strategy == "rl" and not self.enable_rl_optimization:
            raise InvalidInput(
                "selection_strategy='rl' with enable_rl_optimization=False contradicts itself; enable it or choose one "
                f"of {', '.join(method for method in SELECTION_METHODS if method != 'rl')}"
            )
        if self.search_method == "rl" and not self.enable_rl_optimization:
            raise InvalidInput(
                "search_method='rl' with enable_rl_optimization=False contradicts itself; enable it or choose one of "
                f"{', '.join(method for method in SEARCH_METHODS if method != 'rl')}"
            )
        object.__setattr__(self, "optimization_strategies", _checked_strategies(self.optimization_strategies))
        settings = _checked_settings(self.strategy_settings, self.optimization_strategies)
        object.__setattr__(self, "strategy_settings", settings)
        object.__setattr__(self, "objective_weights", _checked_weights(self.objective_weights))

    @property
    def selection_method(self) -> str:
        """The method that really chooses: `enable_rl_optimization` wins over `selection_strategy`, as documented."""
        return "rl" if self.enable_rl_optimization else self.selection_strategy

    @classmethod
    def from_dict(cls, config: Mapping[str, Any] | None) -> HybridOptimizationConfig:
        """Build from the documented dictionary; unknown keys are refused by name."""
        known = {f.name for f in dataclasses.fields(cls)}
        for key in config or {}:
            if key in NEVER_HONOURED:
                raise InvalidInput(f"'{key}' was declared by the original code but never did anything; remove it")
            if key not in known:
                raise InvalidInput(_not_one_of("configuration key", key, sorted(known)))
        return cls(**dict(config or {}))


@dataclass(frozen=True)
class RunConfig:
    """One run as a person asks for it. `workload` is the name of one of the model's workloads.

    `budget_s` is the wall time of the whole search in seconds, final race included. `threads` 0 means the device's
    default. `options` are the keys of `HybridOptimizationConfig`. With `repeats`, the id of a stored trial, nothing is
    searched: that trial is measured again as it was ordered then.
    """

    model: str
    size: str = "tiny"
    workload: str = ""
    device: str = "cpu"
    threads: int = 0
    budget_s: float = 300.0
    seed: int = 0
    note: str = ""
    repeats: str = ""
    options: HybridOptimizationConfig = field(default_factory=HybridOptimizationConfig)

    def __post_init__(self) -> None:
        """Refuse impossible values by name."""
        for name in ("model", "size", "workload", "device", "note", "repeats"):
            value, most = getattr(self, name), 500 if name == "repeats" else 200
            if not isinstance(value, str) or len(value) > most or "\x00" in value:
                raise InvalidInput(f"{name}={value!r:.60} is not allowed; use text of at most {most} characters")
        if not self.model:
            raise InvalidInput("model is empty; name one of the registry's models")
        _check_number("threads", self.threads, (0, 1024, True, True), whole=True)
        _check_number("seed", self.seed, (0, 2**31 - 1, True, True), whole=True)
        _check_number("budget_s", self.budget_s, (10, 7 * 86_400, True, True), whole=False)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunConfig:
        """Read a submitted form or a stored row; unknown keys are refused by name."""
        known = {f.name for f in dataclasses.fields(cls)}
        for key in data:
            if key not in known:
                raise InvalidInput(_not_one_of("run key", key, sorted(known)))
        if "model" not in data:
            raise InvalidInput("model is missing; name one of the registry's models")
        options = data.get("options", {})
        if not isinstance(options, Mapping | HybridOptimizationConfig):
            raise InvalidInput(f"options={options!r:.60} is not allowed; give a mapping of configuration keys")
        if not isinstance(options, HybridOptimizationConfig):
            options = HybridOptimizationConfig.from_dict(options)
        return cls(**{**data, "options": options})


def choose_workload(workloads: tuple[Workload, ...], name: str) -> Workload:
    """The workload of that name, the first one for an empty name.

    Raises:
        InvalidInput: the model has no workload of that name.
    """
    if not name:
        return workloads[0]
    for workload in workloads:
        if workload.name == name:
            return workload
    raise InvalidInput(_not_one_of("workload", name, [w.name for w in workloads]))


def _check_number(name: str, value: Any, bounds: tuple[float, float, bool, bool], *, whole: bool) -> None:
    low, high, low_allowed, high_allowed = bounds
    kind = "a whole number" if whole else "a number"
    span = f"{kind} {'from' if low_allowed else 'above'} {low:g} {'to' if high_allowed else 'to below'} {high:g}"
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise InvalidInput(f"{name}={value!r:.60} is not allowed; give {span}")
    if value < low or value > high or (value == low and not low_allowed) or (value == high and not high_allowed):
        raise InvalidInput(f"{name}={value!r} is not allowed; give {span}")


def _checked_strategies(names: Any) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, list | tuple) or not names:
        raise InvalidInput(
            f"optimization_strategies={names!r:.60} is not allowed; list one or more of {STRATEGY_NAMES}"
        )
    for name in names:
        if name not in STRATEGY_NAMES:
            raise InvalidInput(_not_one_of("optimization_strategies", name, STRATEGY_NAMES))
    if len(set(names)) != len(names):
        raise InvalidInput(f"optimization_strategies={list(names)!r} names a strategy twice; list each once")
    return tuple(names)


def _checked_settings(settings: Any, strategies: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Names of settings per chosen strategy; whether a strategy has them is asked where the strategies are known."""
    if not isinstance(settings, Mapping):
        raise InvalidInput(f"strategy_settings={settings!r:.60} is not allowed; map strategies to lists of settings")
    for strategy, names in settings.items():
        if strategy not in strategies:
            raise InvalidInput(_not_one_of("strategy_settings", strategy, strategies))
        is_list = isinstance(names, list | tuple) and len(names) <= 100
        if not is_list or not all(isinstance(name, str) and 0 < len(name) <= 100 for name in names):
            raise InvalidInput(f"strategy_settings[{strategy!r}]={names!r:.60} is not allowed; list names of settings")
        if len(set(names)) != len(names):
            raise InvalidInput(f"strategy_settings[{strategy!r}]={list(names)!r:.120} repeats a name; list each once")
    return {strategy: tuple(names) for strategy, names in settings.items() if names}


def _checked_weights(weights: Any) -> dict[str, float]:
    if not isinstance(weights, Mapping):
        raise InvalidInput(f"objective_weights={weights!r:.60} is not allowed; give a mapping of {OBJECTIVES}")
    for name, value in weights.items():
        if name not in OBJECTIVES:
            raise InvalidInput(_not_one_of("objective_weights", name, OBJECTIVES))
        _check_number(f"objective_weights[{name!r}]", value, (0, 1e6, True, True), whole=False)
    full = {name: float(weights.get(name, 0.0)) for name in OBJECTIVES}
    if sum(full.values()) <= 0:
        raise InvalidInput(f"objective_weights={full} are all zero; give at least one a positive value")
    return full


def _not_one_of(what: str, value: Any, allowed: Any) -> str:
    return f"{what} {value!r:.60} is unknown; choose one of {', '.join(map(str, allowed))}"
