"""From a folder's recipe to a model: which untouched model it belongs to, and building the optimized one again.

Nothing in a folder names a program. The model is one of the registry, one that was brought in (its own files are
needed, and compared with their digest), or the caller's own module. The steps that turn the model into a program
(compiling, another runtime) come last, so the stored weights are compared, and put in place, right before them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hybrid_core.application import situation_of
from hybrid_core.errors import InvalidInput
from hybrid_core.evaluation import case_from_module, case_from_registry
from hybrid_core.examples import private_copy
from hybrid_core.handover import decisions_in, recipe_from_json
from hybrid_core.measurement.case import Case
from hybrid_core.models.registry import ENTRIES, find_entry
from hybrid_core.recipes import apply_steps, check_recipe
from hybrid_core.records import Recipe, Subject
from hybrid_core.strategies.base import Applied, Situation
from hybrid_core.strategies.registry import get_setting

PROGRAM_STAGE = 90
OWN_SIZE = "own"
CODE_KIND = "factory"
Between = Callable[[nn.Module], None]


@dataclass(frozen=True)
class Source:
    """What an exported recipe belongs to: the case it was measured on and the recipe, checked."""

    case: Case
    recipe: Recipe
    data: Mapping[str, Any]


def source_of(
    data: Mapping[str, Any],
    model: nn.Module | None = None,
    example_inputs: Any = None,
    *,
    allow_code: bool = False,
) -> Source:
    """The untouched model of an exported recipe, ready to be built.

    `model` is the caller's untouched module, for recipes that were found on one. `allow_code` lets a model be what a
    function of an installed package returns, which imports that package.

    Raises:
        InvalidInput: the recipe, the model or the device is not here.
    """
    recipe = check_recipe(recipe_from_json(data))
    if model is not None:
        own = private_copy(model)
        situation = situation_of(own, example_inputs)
        case = case_from_module(own, situation.example_inputs, device=situation.device, threads=_threads(data))
        return Source(case, recipe, data)
    return Source(case_from_registry(_subject(data, allow_code)), recipe, data)


def optimize(model: nn.Module, recipe: Recipe, situation: Situation, between: Between = lambda model: None) -> Applied:
    """Apply a recipe to a private copy; `between` sees it before it becomes a program."""
    steps = check_recipe(recipe).steps
    early = Recipe(tuple(step for step in steps if get_setting(step.strategy, step.setting).stage < PROGRAM_STAGE))
    late = Recipe(tuple(step for step in steps if step not in early.steps))
    first = apply_steps(model, early, situation)
    between(first.model)
    last = apply_steps(first.model, late, situation)
    return Applied(last.model, (*first.changes, *last.changes), {**first.decisions, **last.decisions})


def situation_in(source: Source, scratch: Path | None = None) -> Situation:
    """The example call that a measurement of the case makes, with what was decided in that measurement."""
    case = source.case
    example = case.fresh_inputs(case.generator("example"))
    return Situation(example, case.call, case.workload, case.device, scratch, decisions_in(source.data))


def _subject(data: Mapping[str, Any], allow_code: bool) -> Subject:
    run = data.get("run")
    try:
        facts = dict(run) if isinstance(run, Mapping) else {}
        subject = Subject.from_json({name: facts[name] for name in Subject.__dataclass_fields__ if name in facts})
        named = all(isinstance(x, str) for x in (subject.model, subject.size, subject.device, subject.source))
        whole = type(subject.threads) is int and type(subject.seed) is int and 0 <= subject.seed < 2**63
    except (KeyError, TypeError, ValueError):
        named = whole = False
    if not named or not whole:
        raise InvalidInput("the recipe does not say which model, size and workload it was measured on; export it again")
    if subject.size == OWN_SIZE and not subject.source and subject.model not in {entry.name for entry in ENTRIES}:
        raise InvalidInput(f"the recipe was found on a module of one's own ({subject.model!r:.60}); pass it as model=")
    _refuse_code(subject.source, allow_code)
    return _known(subject)


def _known(subject: Subject) -> Subject:
    """The subject with a workload that its model has and threads that this machine has."""
    known = find_entry(subject.model, subject.source).workloads(subject.size)
    if subject.workload not in known:
        labels = "; ".join(workload.label for workload in known)
        raise InvalidInput(f"{subject.model} has no workload {subject.workload!r:.120}; it has: {labels}")
    values = {**{name: getattr(subject, name) for name in subject.__dataclass_fields__}}
    return Subject(**{**values, "threads": _within(subject.threads)})


def _refuse_code(source: str, allow_code: bool) -> None:
    if source and not allow_code:
        try:
            kind = json.loads(source)["kind"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InvalidInput("the recipe's registration of a brought model cannot be read; export it again") from None
        if kind == CODE_KIND:
            raise InvalidInput(
                "the model is what a Python function of a package returns, and importing that runs it; allow it with "
                "allow_code=True (--allow-code) if you trust the package"
            )


def _threads(data: Mapping[str, Any]) -> int:
    run = data.get("run")
    threads = run.get("threads") if isinstance(run, Mapping) else None
    return _within(threads) if type(threads) is int else torch.get_num_threads()


def _within(threads: int) -> int:
    return max(1, min(threads, os.cpu_count() or 1))
