"""The form of a call: how its arguments and answer are nested, and which leaves of them are tensors.

Exported graphs take and give flat lists of tensors. A form flattens a call, recognises another call of the same form,
and puts an answer together again. Forms are recorded from the example call, before any hook the model has.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Situation

PLAIN = (int, float, bool, str, type(None))
TENSORS_ONLY = "a session takes and gives tensors only"


@dataclass(frozen=True)
class CallForm:
    """How the model is called and answers: the nesting, and the leaves that are no tensors (None where one is)."""

    spec: Any
    leaves: tuple[Any, ...]
    out_spec: Any
    out_leaves: tuple[Any, ...]

    def tensors_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
        """The tensors of a call of this form, None where it is another form."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if spec != self.spec or any(
            not isinstance(leaf, Tensor) if known is Tensor else leaf != known
            for leaf, known in zip(leaves, self.leaves, strict=True)
        ):
            return None
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def call_of(self, tensors: list[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call of this form with these tensors."""
        args, kwargs = pytree.tree_unflatten(_filled(self.leaves, tensors), self.spec)
        return args, kwargs

    def answer_of(self, tensors: list[Tensor]) -> Any:
        """The nested answer that holds these tensors."""
        return pytree.tree_unflatten(_filled(self.out_leaves, tensors), self.out_spec)


def record_call(model: nn.Module, situation: Situation) -> tuple[CallForm, tuple[Tensor, ...], list[Tensor]]:
    """Make the example call; its form, the tensors given to the model (copies) and the tensors it answers.

    Raises:
        StrategyUnsupported: the workload uses the model otherwise than by calling it, or hands it other objects.
    """
    given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    answers: list[Any] = []

    def note_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not given:
            given.append((_copied(args), _copied(kwargs)))

    def note_answer(module: nn.Module, args: tuple[Any, ...], answer: Any) -> None:
        if not answers:
            answers.append(_copied(answer))

    # Before the hooks that the model has (a cast to bfloat16 is one): whoever calls it hands over what they are given.
    hooks = (
        model.register_forward_pre_hook(note_call, prepend=True, with_kwargs=True),
        model.register_forward_hook(note_answer),
    )
    try:
        with torch.inference_mode(False), torch.no_grad():
            situation.call(model, _copied(situation.example_inputs))
    finally:
        for hook in hooks:
            hook.remove()
    if not answers:
        raise StrategyUnsupported("the workload never calls the model itself, only parts of it: nothing to export")
    (args, kwargs), answer = given[0], answers[0]
    leaves, spec = pytree.tree_flatten((args, kwargs))
    out_leaves, out_spec = pytree.tree_flatten(answer)
    refuse_objects(leaves, "is called with", TENSORS_ONLY)
    refuse_objects(out_leaves, "answers with", TENSORS_ONLY)
    form = CallForm(spec, _constants(leaves), out_spec, _constants(out_leaves))
    tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
    return form, tensors, [leaf for leaf in out_leaves if isinstance(leaf, Tensor)]


def given_tensors(
    model: nn.Module, situation: Situation, inputs: tuple[Any, ...], form: CallForm
) -> list[list[Tensor]]:
    """The tensors of every call of this form that the workload makes of the model for these inputs (copies)."""
    calls: list[list[Tensor]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = form.tensors_of(args, kwargs)
        if tensors is not None:
            calls.append([tensor.detach().clone() for tensor in tensors])

    hook = model.register_forward_pre_hook(keep, prepend=True, with_kwargs=True)
    try:
        with torch.inference_mode(False), torch.no_grad():
            situation.call(model, _copied(inputs))
    finally:
        hook.remove()
    return calls


def sizes_of(tensors: list[Tensor] | tuple[Tensor, ...]) -> tuple[tuple[int, ...], ...]:
    """The shape of each."""
    return tuple(tuple(t.shape) for t in tensors)


def describe_tensors(tensors: list[Tensor] | tuple[Tensor, ...]) -> str:
    """'float32[8, 16], int64[8]'."""
    return ", ".join(f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in tensors) or "no tensor"


def _constants(leaves: list[Any]) -> tuple[Any, ...]:
    return tuple(Tensor if isinstance(leaf, Tensor) else leaf for leaf in leaves)


def _filled(leaves: tuple[Any, ...], tensors: list[Tensor]) -> list[Any]:
    rest = iter(tensors)
    return [next(rest) if leaf is Tensor else leaf for leaf in leaves]


def refuse_objects(leaves: list[Any], verb: str, why: str) -> None:
    """Refuse a call that takes or gives what is neither a tensor nor a constant: a cache object, say."""
    objects = sorted({type(leaf).__name__ for leaf in leaves if not isinstance(leaf, (Tensor, *PLAIN))})
    if objects:
        raise StrategyUnsupported(
            f"the model {verb} {', '.join(objects)}, and {why}; choose a workload without a cache object"
        )


def _copied(value: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else copy.copy(leaf), value)
