"""Runs a batch in four slices that write into one preallocated output, so that a quarter of it is alive at once.

Activations are the part of the peak that grows with the batch; slicing trades a little speed (smaller matrix
products) for memory. The model object stays the same one, with its attributes: only its class gets a `__call__` that
slices, so that a compiled model is sliced outside its compiled code. Source: micro-batches of GPipe, Huang et al. 2019
(arXiv 1811.06965).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import dynamic as quantized_dynamic
from torch.utils import _pytree as pytree

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Method, Setting, Situation, run_example, tensors_in
from hybrid_core.strategies.precision.proof import first_line

SLICES = 4


def refuse_micro_batch(model: nn.Module, situation: Situation) -> str | None:
    """The cheap reasons why this call cannot be sliced."""
    if situation.workload.kind == "decode":
        return "a decode keeps one cache for the whole batch, which cannot be sliced"
    sizes = {tuple(t.shape[:1]) for t in tensors_in(situation.example_inputs)}
    if not sizes:
        return "the call has no tensor input, so there is no batch to slice"
    if len(sizes) > 1 or sizes == {()}:
        shown = ", ".join(str(list(t.shape)) for t in tensors_in(situation.example_inputs))
        return f"the inputs do not share a first dimension (shapes {shown}), so there is no batch to slice"
    if sizes == {(1,)}:
        return "the batch is 1 and cannot be sliced; choose a workload with a larger batch"
    return None


def use_micro_batch(model: nn.Module, situation: Situation) -> Applied:
    """Slice from now on; proves on the example that the rows of a batch do not depend on each other."""
    whole = run_example(model, situation)
    batch = int(tensors_in(situation.example_inputs)[0].shape[0])
    if any(t.dim() == 0 or t.shape[0] != batch for t in tensors_in(whole)) or not tensors_in(whole):
        raise StrategyUnsupported(f"an output does not have the batch ({batch}) as its first dimension")
    model.__class__ = _sliced_class(type(model))
    rounds = any(type(m) is quantized_dynamic.Linear for m in model.modules()) or _has_bfloat16(model)
    rows = -(-batch // SLICES)
    try:
        sliced = run_example(model, situation)
    except Exception as error:  # whatever the model's own code raises: exported for one batch, say
        raise StrategyUnsupported(
            f"the model's code fails with slices of {rows} rows instead of the batch of {batch}: {first_line(error)}"
        ) from error
    _check_rows_are_independent(whole, sliced, 0.05 if rounds else 1e-4)
    change = f"a batch of {batch} runs as {-(-batch // rows)} slices of at most {rows} rows into one output buffer"
    return Applied(model, (change,))


def _has_bfloat16(model: nn.Module) -> bool:
    return any(p.dtype == torch.bfloat16 for p in model.parameters())


def _check_rows_are_independent(whole: Any, sliced: Any, share: float) -> None:
    """Compare up to `share` of the largest output; int8 layers choose one input scale per slice, so they round anew."""
    for one, other in zip(tensors_in(whole), tensors_in(sliced), strict=True):
        wide = one.double()
        worst = float((wide - other.double()).abs().max())
        if not worst <= share * max(1e-6, float(wide.abs().max())):
            raise StrategyUnsupported(
                f"slices give other results than the whole batch (difference {worst:.2e}): rows depend on each other"
            )


def _sliced_class(plain: type[nn.Module]) -> type[nn.Module]:
    """A subclass whose call runs slices."""

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        def run(*a: Any, **k: Any) -> Any:
            return plain.__call__(self, *a, **k)

        leaves, spec = pytree.tree_flatten((args, kwargs))
        batch = _batch_of(leaves)
        return run(*args, **kwargs) if batch < 2 else _run_slices(run, leaves, spec, batch)

    return type(f"MicroBatch{plain.__name__}", (plain,), {"__call__": call, "__module__": plain.__module__})


def _batch_of(leaves: list[Any]) -> int:
    """The shared first dimension; 0 where there is none or a cache is passed, and the call runs whole."""
    if any(not isinstance(v, Tensor | int | float | bool | str | None) for v in leaves):
        return 0
    sizes = {v.shape[0] if v.dim() else 0 for v in leaves if isinstance(v, Tensor)}
    return int(sizes.pop()) if len(sizes) == 1 else 0


def _run_slices(run: Any, leaves: list[Any], spec: Any, batch: int) -> Any:
    rows = -(-batch // SLICES)
    collected: list[Tensor] = []
    out_spec: Any = None
    for start in range(0, batch, rows):
        part = [v[start : start + rows] if isinstance(v, Tensor) else v for v in leaves]
        args, kwargs = pytree.tree_unflatten(part, spec)
        results, out_spec = pytree.tree_flatten(run(*args, **kwargs))
        if not collected:
            collected = [r.new_empty((batch, *r.shape[1:])) for r in results]
        for buffer, result in zip(collected, results, strict=True):
            buffer[start : start + rows] = result
        del results, part, args, kwargs
    return pytree.tree_unflatten(collected, out_spec)


MICRO_BATCH = Method(
    Setting(
        name="micro_batch",
        sentence="The batch runs in quarter slices into one preallocated output, so that less is alive at once.",
        stage=95,
        exact=True,
        expected_cost_s=1.5,
        references=("https://arxiv.org/abs/1811.06965",),
    ),
    apply=use_micro_batch,
    unsupported=refuse_micro_batch,
)
