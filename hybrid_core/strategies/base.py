"""What a strategy is: a named family of real transformations of a PyTorch model, each with declared facts.

A strategy is a list of methods; a method is one file that declares its setting (a sentence, an order stage, whether it
may change more than rounding, what it costs to apply), so that the search and the pages can plan without running
anything. `apply` gets a private copy of the model and either changes it for certain (and says what it changed) or
raises `StrategyUnsupported`; it never returns a model that is silently the same. The form is common to the
optimization tool kits; the kit in `tests/contracts/strategy_contract.py` holds every method to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.records import Workload

ANY_SETTING = "*"


@dataclass(frozen=True)
class Setting:
    """One concrete choice inside a strategy.

    `stage` orders the steps of a recipe: smaller is applied first. `exact` is True when only rounding may change the
    outputs. `expected_cost_s` is a prior for the seconds that `apply` and the first call take on a small model.
    `compiles`: torch.compile must have produced a graph after the first call, or the setting did nothing.
    `start_variables`: environment variables that are read once, at the start of the process that measures.
    `on_request`: why a search leaves it out unless somebody names it; empty where it is tried by itself.
    """

    name: str
    sentence: str
    stage: int
    exact: bool
    expected_cost_s: float
    references: tuple[str, ...] = ()
    compiles: bool = False
    start_variables: tuple[tuple[str, str], ...] = ()
    on_request: str = ""


@dataclass(frozen=True)
class Conflict:
    """`setting` of the strategy that declares this cannot stand in one recipe with the other strategy's setting."""

    setting: str
    other_strategy: str
    other_setting: str
    reason: str

    def forbids(self, setting: str, other_strategy: str, other_setting: str) -> bool:
        """True when the pair is the one declared here; `"*"` stands for any setting."""
        return (
            self.setting in (ANY_SETTING, setting)
            and self.other_strategy == other_strategy
            and self.other_setting in (ANY_SETTING, other_setting)
        )


@dataclass(frozen=True)
class Situation:
    """What a model is optimized for: one example call, how to make it, and where.

    `call(model, example_inputs)` performs one timed call of the workload; it is the only way a strategy runs the model.
    `scratch` is a private folder that the trials of one run share, for what is expensive to find out twice; it may be
    missing, and nothing in it may be trusted to be there. `decided` holds what methods decided when this recipe was
    measured, by setting; a method that finds itself in it does the same again, after checking it like any input.
    `fresh_inputs(turn)`, where it is known, makes other inputs of the same kind for calibration: the same ones for the
    same turn, and never those that are compared or timed later.
    """

    example_inputs: tuple[Any, ...]
    call: Callable[[nn.Module, tuple[Any, ...]], Any]
    workload: Workload
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    scratch: Path | None = None
    decided: Mapping[str, Any] = field(default_factory=dict)
    fresh_inputs: Callable[[int], tuple[Any, ...]] | None = None


@dataclass(frozen=True)
class Applied:
    """The changed model and, in plain sentences, what was changed in it. `changes` is never empty.

    `decisions` is for a method that measures before it decides: plain JSON under the setting's name, with which the
    same change can be made again (see `Situation.decided`).
    """

    model: nn.Module
    changes: tuple[str, ...]
    decisions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """One setting with what it does, and when it cannot: what a method's file declares.

    `unavailable(device)` speaks of the machine, `unsupported(model, situation)` of the model or workload and must be
    cheap; both give one sentence, or None. Training mode is refused for every method by `Family`.
    """

    setting: Setting
    apply: Callable[[nn.Module, Situation], Applied]
    unsupported: Callable[[nn.Module, Situation], str | None] = lambda model, situation: None
    unavailable: Callable[[str], str | None] = lambda device: None
    conflicts: tuple[Conflict, ...] = ()


@dataclass(frozen=True)
class Family:
    """A strategy made of methods; `claimed` holds the figures the original document promised, to be tested."""

    name: str
    title: str
    purpose: str
    claimed: dict[str, float]
    methods: tuple[Method, ...]

    @property
    def settings(self) -> tuple[Setting, ...]:
        """What can be chosen, in the order of the methods."""
        return tuple(method.setting for method in self.methods)

    @property
    def conflicts(self) -> tuple[Conflict, ...]:
        """Everything the methods exclude."""
        return tuple(conflict for method in self.methods for conflict in method.conflicts)

    def unavailable(self, setting: str, device: str) -> str | None:
        """Why this machine cannot do it."""
        return self.method(setting).unavailable(device)

    def unsupported(self, setting: str, model: nn.Module, situation: Situation) -> str | None:
        """Why this model or workload cannot have it, found cheaply."""
        if model.training:
            return "the model is in training mode and these changes are for inference; call eval() first"
        return self.method(setting).unsupported(model, situation)

    def apply(self, setting: str, model: nn.Module, situation: Situation) -> Applied:
        """Change the given private copy, or raise `StrategyUnsupported`."""
        refuse_when(self.unavailable(setting, str(situation.device)))
        refuse_when(self.unsupported(setting, model, situation))
        return self.method(setting).apply(model, situation)

    def method(self, setting: str) -> Method:
        """The method of that setting; `InvalidInput` lists the settings."""
        for method in self.methods:
            if method.setting.name == setting:
                return method
        known = ", ".join(method.setting.name for method in self.methods)
        raise InvalidInput(f"strategy '{self.name}' has no setting '{setting}'; choose one of: {known}")


@runtime_checkable
class Strategy(Protocol):
    """One family of transformations. `claimed` holds the figures the original document promised, to be tested."""

    @property
    def name(self) -> str:
        """The key in recipes and tables."""
        ...

    @property
    def title(self) -> str:
        """What a page shows."""
        ...

    @property
    def purpose(self) -> str:
        """One sentence."""
        ...

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The choices, in the order a page lists them."""
        ...

    @property
    def conflicts(self) -> tuple[Conflict, ...]:
        """Settings of other strategies that cannot stand in the same recipe, said here only."""
        ...

    @property
    def claimed(self) -> dict[str, float]:
        """The document's figures for speed, memory and accuracy."""
        ...

    def unavailable(self, setting: str, device: str) -> str | None:
        """Why this machine cannot do it, in one sentence; None when it can."""
        ...

    def unsupported(self, setting: str, model: nn.Module, situation: Situation) -> str | None:
        """Why this model or workload cannot have it, in one sentence, found cheaply; None when it may work."""
        ...

    def apply(self, setting: str, model: nn.Module, situation: Situation) -> Applied:
        """Change the given private copy; raises `StrategyUnsupported` with a reason instead of doing nothing."""
        ...


def run_example(model: nn.Module, situation: Situation) -> Any:
    """Make the example call once, without gradients."""
    with torch.no_grad():
        return situation.call(model, situation.example_inputs)


def refuse_when(reason: str | None) -> None:
    """Raise `StrategyUnsupported` when there is a reason to."""
    if reason is not None:
        raise StrategyUnsupported(reason)


def start_command(variables: Mapping[str, str]) -> str:
    """What to do for variables that a process reads once at its start: 'start Python with NAME=value ...'."""
    return "start Python with " + " ".join(f"{name}={value}" for name, value in sorted(variables.items()))


def refuse_unless_started_with(variables: Mapping[str, str]) -> None:
    """Refuse where this process has other values; that they were set later than its start cannot be seen here."""
    if any(os.environ.get(name) != value for name, value in variables.items()):
        names = " and ".join(sorted(variables))
        raise StrategyUnsupported(
            f"{names} must be in the environment before the process starts; {start_command(variables)}"
        )


def list_briefly(names: list[str], most: int = 4) -> str:
    """Join names for a sentence, the rest as a count: 'a, b and 3 more'."""
    shown = ", ".join(name or "the whole model" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def replace_submodule(model: nn.Module, name: str, replacement: nn.Module) -> nn.Module:
    """Put `replacement` at `name` in every place that holds the same module; returns the model (`""` replaces it)."""
    if name == "":
        return replacement
    old = model.get_submodule(name)
    for parent in list(model.modules()):
        for child_name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[child_name] = replacement
    return model
