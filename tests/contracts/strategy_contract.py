"""What every strategy must keep, whatever it does; imported by the tests of the strategies and of new ones.

`check_strategy(strategy, cases)` runs every available setting on every case and returns how each ended. It fails when a
setting changes the model it was given a copy of, answers wrongly, does nothing while claiming to, or refuses without a
sentence.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Situation, Strategy, tensors_in

# Largest relative error (of the norm) of the outputs: rounding only, or the error that fewer bits make.
EXACT, LOSSY = 1e-3, 0.35


@dataclass(frozen=True)
class ContractCase:
    """A model, its situation, and fresh inputs that the strategy has not seen."""

    name: str
    model: nn.Module
    situation: Situation
    fresh_inputs: tuple[Any, ...]
    # The setting may be judged by its agreement only, for models whose outputs amplify rounding.
    lossy: float = LOSSY


@dataclass
class Outcomes:
    """`applied` and `refused` hold 'setting on case', with the changes or the reason."""

    applied: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def check_declarations(strategy: Strategy) -> None:
    """Names, sentences, claims and conflicts are there and make sense."""
    assert strategy.name.isidentifier() and strategy.title and strategy.purpose.endswith(".")
    assert strategy.settings, f"{strategy.name} has no setting"
    names = [setting.name for setting in strategy.settings]
    assert len(set(names)) == len(names), f"{strategy.name} declares a setting twice"
    for setting in strategy.settings:
        assert setting.name.isidentifier() and setting.sentence.endswith("."), setting.name
        assert 0 <= setting.stage < 100 and setting.expected_cost_s > 0, setting.name
        assert setting.references, f"{setting.name} names no source"
    assert set(strategy.claimed) == {"speed", "memory", "accuracy"}
    for conflict in strategy.conflicts:
        assert conflict.setting in (*names, "*") and conflict.reason.strip(), conflict


def check_strategy(
    strategy: Strategy, cases: Sequence[ContractCase], *, skip: Callable[[str, ContractCase], bool] = lambda s, c: False
) -> Outcomes:
    """Run every setting on every case; raises AssertionError on the first broken promise."""
    check_declarations(strategy)
    outcomes = Outcomes()
    for setting in strategy.settings:
        for case in cases:
            if skip(setting.name, case):
                continue
            key = f"{setting.name} on {case.name}"
            try:
                outcomes.applied[key] = _check_one(strategy, setting.name, setting.exact, case)
            except StrategyUnsupported as refusal:
                assert len(str(refusal).split()) >= 4, f"{key} is refused without a sentence: '{refusal}'"
                outcomes.refused[key] = str(refusal)
    return outcomes


def _check_one(strategy: Strategy, setting: str, exact: bool, case: ContractCase) -> tuple[str, ...]:
    for reason in (
        strategy.unavailable(setting, str(case.situation.device)),
        strategy.unsupported(setting, case.model, case.situation),
    ):
        if reason is not None:
            raise StrategyUnsupported(reason)
    before_state, before = _state(case.model), _call(case.model, case, case.fresh_inputs)
    private = copy.deepcopy(case.model)
    applied = strategy.apply(setting, private, case.situation)
    key = f"{strategy.name}={setting} on {case.name}"
    assert isinstance(applied, Applied) and applied.changes and all(applied.changes), f"{key} says nothing it changed"
    _check_untouched(case, before_state, before, key)
    assert structure(applied.model) != structure(case.model), f"{key} claims a change and made none"
    _check_outputs(applied.model, case, before, EXACT if exact else case.lossy, key)
    return applied.changes


def _check_untouched(case: ContractCase, state: dict[str, torch.Tensor], before: Any, key: str) -> None:
    now = _state(case.model)
    assert now.keys() == state.keys() and all(torch.equal(now[k], state[k]) for k in now), f"{key} changed the original"
    for one, other in zip(tensors_in(before), tensors_in(_call(case.model, case, case.fresh_inputs)), strict=True):
        assert torch.equal(one, other), f"{key} changed what the original answers"


def _check_outputs(model: nn.Module, case: ContractCase, before: Any, bound: float, key: str) -> None:
    kept = copy.deepcopy(case.fresh_inputs)
    after = _call(model, case, case.fresh_inputs)
    for one, other in zip(tensors_in(case.fresh_inputs), tensors_in(kept), strict=True):
        assert torch.equal(one, other), f"{key} overwrites the inputs of the caller"
    expected, found = tensors_in(before), tensors_in(after)
    assert type(before) is type(after) and len(expected) == len(found), f"{key} changes the structure of the outputs"
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype, f"{key} changes shape or type of an output"
        assert other.isfinite().all() or not one.isfinite().all(), f"{key} gives NaN or infinity"
        error = float(torch.linalg.vector_norm(other - one) / torch.linalg.vector_norm(one))
        assert error <= bound, f"{key} has relative error {error:.2e}, more than {bound:g}"


def _call(model: nn.Module, case: ContractCase, inputs: tuple[Any, ...]) -> Any:
    with torch.no_grad():
        return copy.deepcopy(case.situation.call(model, inputs))


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}


def structure(model: nn.Module) -> list[Any]:
    """What a transformation can leave its mark on: classes, types, parameters, own attributes of each module."""
    marks: list[Any] = []
    for name, module in model.named_modules():
        own = sorted(k for k in vars(module) if not k.startswith("_"))
        owner = getattr(vars(module).get("cache_factory"), "func", None)
        tensors = [(k, t.dtype, t.shape) for k, t in (module._parameters | module._buffers).items() if t is not None]
        compiled = vars(module).get("_compiled_call_impl") is not None
        marks.append((name, type(module).__name__, own, str(owner), tensors, compiled))
    return marks
