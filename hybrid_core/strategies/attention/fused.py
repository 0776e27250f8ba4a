"""A module that computes what another one computed, with fused attention, and keeps that other one's parameters.

The original is exported with symbolic sizes and rewritten; the result is plain Python text that runs on the original's
own layers and parameters, so nothing is copied and later steps (quantization, casting) still find every layer where it
was. An export is valid for calls of one form: types, ranks and the sizes that were fixed. A call of another form
exports again, at most eight times; there is no falling back to the unfused forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.export import Form, export_form
from hybrid_core.strategies.attention.held_object import (
    Answered,
    Asked,
    OtherSizes,
    is_held_object,
    recorder,
    refuse_what_cannot_be_cut,
)
from hybrid_core.strategies.attention.validity import Example

MOST_FORMS = 8


@dataclass
class Forms:
    """The forms exported so far; shared between modules with the same text and settings."""

    known: list[Form] = field(default_factory=list)

    def __reduce__(self) -> Any:
        # Generated functions cannot be stored; a loaded model exports again at its first call.
        return (Forms, ())

    def __deepcopy__(self, memo: dict[int, Any]) -> Forms:
        copied = Forms(list(self.known))
        memo[id(self)] = copied
        return copied


class FusedAttention(nn.Module):
    """Stands where `original` stood; attributes that are not its own are the original's."""

    def __init__(
        self,
        original: nn.Module,
        forms: Forms | None = None,
        kernel: Callable[..., Any] | None = None,
        exact: bool = True,
    ) -> None:
        super().__init__()
        self.original = original
        self.kernel, self.exact = kernel, exact
        self.forms = Forms() if forms is None else forms
        self.linear_names = tuple(n for n, m in original.named_modules() if type(m) is nn.Linear)
        self.train(original.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the original's forward returns."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        for form in self.forms.known:
            if form.spec == spec and form.fits(*leaves):
                try:
                    return pytree.tree_unflatten(form.compute(self.original, leaves), form.out_spec)
                except OtherSizes as other:  # the object was called; go on from its answer with another form
                    assert form.held is not None, "only a form with a held object can meet its answer"
                    leaves[form.held] = other.answered
        form = self.learn(leaves, spec)
        return pytree.tree_unflatten(form.compute(self.original, leaves), form.out_spec)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def learn(self, leaves: list[Any], spec: Any) -> Form:
        """Export and rewrite for calls of this form, check it against the original, and remember it."""
        if len(self.forms.known) >= MOST_FORMS:
            raise StrategyUnsupported(
                f"{type(self.original).__name__} was called in more than {MOST_FORMS} forms of types and fixed sizes; "
                "use fewer different shapes or leave attention_fusion out"
            )
        example, expected = self._watch_original(leaves, spec)
        form = export_form(self.original, self.linear_names, example, self.kernel)
        replayed = list(leaves)
        if form.held is not None:
            name, _, answer = example.asked.calls[0]
            replayed[form.held] = Answered(leaves[form.held], name, answer)
        with torch.no_grad():
            found = form.compute(self.original, replayed)
        for one, other in zip(pytree.tree_leaves(expected), found, strict=True):
            if isinstance(one, Tensor) and not _close(one, other, self.exact):
                raise StrategyUnsupported(
                    f"the fused form of {type(self.original).__name__} gives other results than its own forward"
                )
        self.forms.known.append(form)
        return form

    def _watch_original(self, leaves: list[Any], spec: Any) -> tuple[Example, Any]:
        """Run the original once, a held object being copied first, and keep what it asked that object."""
        held = [i for i, leaf in enumerate(leaves) if is_held_object(leaf)]
        if len(held) > 1:
            kinds = ", ".join(type(leaves[i]).__name__ for i in held)
            raise StrategyUnsupported(f"the module takes {len(held)} objects that no exporter knows ({kinds})")
        given, asked = list(leaves), Asked()
        for i in held:
            given[i], asked = recorder(leaves[i])
        args, kwargs = pytree.tree_unflatten(given, spec)
        try:
            with torch.no_grad():
                expected = self.original(*args, **kwargs)
        except TypeError as error:  # indexing, iterating and the like cannot be stood in for
            raise StrategyUnsupported(f"{type(self.original).__name__} cannot be watched ({error})") from error
        after, spec_after = pytree.tree_flatten((args, kwargs))
        if spec_after != spec or any(one is not other for one, other in zip(given, after, strict=True)):
            raise StrategyUnsupported(
                f"{type(self.original).__name__} changes a list or dict that it is given, which a rewrite would lose"
            )
        for i in held:
            refuse_what_cannot_be_cut(asked, leaves[i])
        out_spec = pytree.tree_structure(expected)
        return Example(leaves, spec, out_spec, held[0] if held else None, asked), expected

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> nn.Module:
        # Types or device change: what was exported for the old ones no longer holds.
        self.forms.known.clear()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("original"), name)


def _close(one: Tensor, other: Any, exact: bool) -> bool:
    """A check of meaning, not of rounding: a wrong mask or scale moves results by far more than this."""
    if not isinstance(other, Tensor) or one.shape != other.shape or one.dtype != other.dtype:
        return False
    if exact and one.dtype in (torch.float32, torch.float64):
        return torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max().nan_to_num(1)), equal_nan=True)
    kept = ~one.isnan()
    difference = torch.linalg.vector_norm((one - other)[kept].double())
    return bool(
        torch.equal(one.isnan(), other.isnan()) and difference <= 0.15 * torch.linalg.vector_norm(one[kept].double())
    )
