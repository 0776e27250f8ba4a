"""Applying a recipe to somebody's module: the caller's module stays untouched, the copy that comes back is changed.

This is the one function that a handed-over recipe needs, so it accepts a recipe in every form in which a recipe
leaves the project: a mapping, a `Recipe`, its key, exported JSON as mapping or text, or the path of an exported file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hybrid_core.errors import InvalidInput
from hybrid_core.examples import checked_inputs, private_copy
from hybrid_core.handover import decisions_in, recipe_from_json
from hybrid_core.provenance import warn_of_differences
from hybrid_core.recipes import apply_steps, check_recipe
from hybrid_core.records import BASELINE_KEY, Recipe, Workload
from hybrid_core.strategies.base import Situation

Call = Callable[[nn.Module, tuple[Any, ...]], Any]


def apply_recipe(
    model: nn.Module,
    recipe: Recipe | Mapping[str, Any] | str | Path,
    example_inputs: Any = None,
    *,
    call: Call | None = None,
    workload: Workload | None = None,
    decisions: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A deep copy of `model` in eval mode with the recipe's steps applied in their declared order.

    `example_inputs` are the arguments of one call (inferred for some modules, see `hybrid_core.examples`). `call` and
    `workload` are needed only where one call is more than `model(*example_inputs)`, such as decoding with a cache.
    An empty recipe gives the plain copy. Exported JSON says what its figures were measured on; where this machine
    differs, a `MeasuredElsewhere` warning names how, and the recipe is applied all the same. `decisions` are what
    methods decided by measuring when the recipe was measured (exported JSON holds them); without they measure anew.

    Raises:
        InvalidInput: the recipe or the inputs are not allowed.
        StrategyUnsupported: a step cannot be applied to this module or machine; the message says why.
    """
    form = _read_form(recipe)
    steps = check_recipe(_recipe_in(form))
    situation = situation_of(model, example_inputs, call=call, workload=workload)
    if isinstance(form, Mapping):
        warn_of_differences(form, situation.device)
        decisions = decisions or decisions_in(form)
    situation = dataclasses.replace(situation, decided=decisions or {})
    return apply_steps(private_copy(model), steps, situation).model


def situation_of(
    model: nn.Module, example_inputs: Any, *, call: Call | None = None, workload: Workload | None = None
) -> Situation:
    """One call of the caller's module as strategies want to know it."""
    if call is None:
        inputs = checked_inputs(model, example_inputs)
    elif example_inputs is None:
        raise InvalidInput("call is given without example_inputs; pass the arguments that call(model, inputs) needs")
    else:
        inputs = tuple(example_inputs)
    return Situation(
        example_inputs=inputs,
        call=call or (lambda module, given: module(*given)),
        workload=workload or forward_workload(inputs),
        device=device_of(model, inputs),
    )


def forward_workload(inputs: tuple[Any, ...]) -> Workload:
    """The workload `forward` with the batch and length of the first tensor."""
    first = next((x for x in inputs if isinstance(x, torch.Tensor) and x.ndim > 0), torch.empty(1))
    is_sequence = first.ndim == 2 and not first.is_floating_point()
    return Workload("forward", "forward", batch=first.shape[0], length=first.shape[1] if is_sequence else 0)


def device_of(model: nn.Module, inputs: tuple[Any, ...]) -> torch.device:
    """Where the module lives: its first parameter or buffer, else its first input."""
    tensors = [*model.parameters(), *model.buffers(), *(x for x in inputs if isinstance(x, torch.Tensor))]
    return tensors[0].device if tensors else torch.device("cpu")


def read_recipe(source: Recipe | Mapping[str, Any] | str | Path) -> Recipe:
    """A recipe from a mapping, a `Recipe`, a key, exported JSON or the path of an exported file, unchecked.

    Raises:
        InvalidInput: it is none of them.
    """
    return _recipe_in(_read_form(source))


def _recipe_in(form: Recipe | Mapping[str, Any]) -> Recipe:
    return form if isinstance(form, Recipe) else recipe_from_json(form)


def _read_form(source: Recipe | Mapping[str, Any] | str | Path) -> Recipe | Mapping[str, Any]:
    """A recipe as it was given, texts and files read; a mapping may be exported JSON with figures."""
    if isinstance(source, Recipe | Mapping):
        return source
    if isinstance(source, Path):
        return _read_file(source)
    if not isinstance(source, str) or not source.strip():
        raise InvalidInput(
            f"recipe={source!r:.60} is not allowed; give {{strategy: setting}}, exported JSON, a key or a path"
        )
    text = source.strip()
    if text.startswith("{"):
        return _read_json(text, "the recipe text")
    is_key = text == BASELINE_KEY or ("=" in text and not Path(text).exists())
    return _read_key(text) if is_key else _read_file(Path(text))


def _read_key(text: str) -> Recipe:
    parts = [] if text == BASELINE_KEY else text.split("+")
    pairs = [tuple(part.split("=")) for part in parts]
    if any(len(pair) != 2 for pair in pairs) or len({pair[0] for pair in pairs}) != len(pairs):
        raise InvalidInput(
            f"recipe key {text!r:.80} is not allowed; write 'strategy=setting+strategy=setting' with each strategy once"
        )
    return Recipe.from_key(text)


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InvalidInput(
            f"recipe file {str(path)!r:.200} cannot be read ({error}); give an exported JSON file"
        ) from error
    return _read_json(text, f"recipe file {str(path)!r:.200}")


def _read_json(text: str, source: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{source} is not JSON ({error}); give what the export button wrote") from error
    if not isinstance(data, Mapping):
        raise InvalidInput(f"{source} holds a {type(data).__name__}; give a JSON object")
    return data
