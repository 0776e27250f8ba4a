"""Casts a model to bfloat16 or float16 and keeps its border: callers still pass and receive float32.

The cast itself is one line; what breaks models is its edge. A hook at the root converts floating inputs and outputs
and leaves integers and caches alone. Buffers need care: the lowest float32 would become -inf, and tables that are
multiplied by positions (rotary frequencies) lose their meaning in 8 bits of mantissa, so a kind of buffer stays float32
where the model runs with it and its outputs come closer to the original.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.strategies.base import Situation, run_example, tensors_in

# A kind of buffer stays float32 when that leaves less than this share of the error.
WORTH_KEEPING = 0.8
MOST_KINDS = 8


def cast_to_bfloat16(model: nn.Module, situation: Situation) -> tuple[str, ...]:
    """`cast_model` to bfloat16."""
    return cast_model(model, situation, torch.bfloat16)


def cast_model(model: nn.Module, situation: Situation, narrow: torch.dtype) -> tuple[str, ...]:
    """Cast float32 parameters and buffers in place and convert at the root; returns the changes as sentences."""
    expected = run_example(model, situation)
    counted = [t for t in (*model.parameters(), *model.buffers()) if t.dtype == torch.float32]
    precise = {kind: _of_kind(model, kind) for kind in _kinds(model)[:MOST_KINDS]}
    for buffer in model.buffers():
        _clamp(buffer, narrow)
    model.to(narrow)
    model.register_forward_pre_hook(partial(_narrow_inputs, narrow), with_kwargs=True)
    model.register_forward_hook(partial(_widen_outputs, narrow))
    kept = _keep_what_matters(model, situation, expected, precise) if precise else []
    saved_mb = sum(t.numel() for t in counted) * 2 / 1e6
    to = str(narrow).removeprefix("torch.")
    change = f"cast {len(counted)} parameters and buffers from float32 to {to}, {saved_mb:.2f} MB less; "
    border = "inputs are converted on entry and outputs back on return"
    return (change + border, *(f"buffers named '{kind}' stay float32: without them the error grows" for kind in kept))


def _kinds(model: nn.Module) -> list[str]:
    names = {n.rpartition(".")[2] for n, b in model.named_buffers() if b.dtype == torch.float32}
    return sorted(names)


def _of_kind(model: nn.Module, kind: str) -> list[tuple[nn.Module, Tensor]]:
    held = [(m, m._buffers.get(kind)) for m in model.modules()]
    return [(m, b.clone()) for m, b in held if b is not None and b.dtype == torch.float32]


def _clamp(buffer: Tensor, narrow: torch.dtype) -> None:
    """The lowest float32, used as a mask, rounds to -inf; a row of those is NaN. Infinities stay what they are."""
    if buffer.dtype == torch.float32:
        limit = torch.finfo(narrow).max
        buffer.copy_(torch.where(buffer.isfinite(), buffer.clamp(-limit, limit), buffer))


def _keep_what_matters(
    model: nn.Module, situation: Situation, expected: Any, precise: dict[str, list[tuple[nn.Module, Tensor]]]
) -> list[str]:
    kept: list[str] = []
    error = _error(model, situation, expected)
    for kind, holders in precise.items():
        rounded = [module._buffers[kind] for module, _ in holders]
        _put(model, kind, [(m, b) for m, b in holders])
        smaller = _error(model, situation, expected)
        if smaller < WORTH_KEEPING * error:
            error = smaller
            kept.append(kind)
        else:
            _put(model, kind, [(m, b) for (m, _), b in zip(holders, rounded, strict=True)])
    return kept


def _put(
    model: nn.Module, kind: str, holders: list[tuple[nn.Module, Tensor | None]] | list[tuple[nn.Module, Tensor]]
) -> None:
    for module, buffer in holders:
        module._buffers[kind] = buffer
    model._apply(lambda t: t)  # type: ignore[no-untyped-call]  # modules that remember types forget them


def _error(model: nn.Module, situation: Situation, expected: Any) -> float:
    """Relative error of the outputs; infinite when the model does not run like this."""
    try:
        found = run_example(model, situation)
    except Exception:  # mixed types are refused by kernels in as many ways as there are kernels
        return float("inf")
    pairs = list(zip(tensors_in(expected), tensors_in(found), strict=True))
    if any(not b.isfinite().all() and a.isfinite().all() for a, b in pairs):
        return float("inf")
    wide = [(a.double(), b.double()) for a, b in pairs if a.is_floating_point()]
    return sum(float((a - b).norm() / (a.norm() + 1e-30)) for a, b in wide)


def _narrow_inputs(narrow: torch.dtype, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return _converted(args, torch.float32, narrow), _converted(kwargs, torch.float32, narrow)


def _widen_outputs(narrow: torch.dtype, module: nn.Module, args: Any, output: Any) -> Any:
    return _converted(output, narrow, torch.float32)


def _converted(value: Any, source: torch.dtype, target: torch.dtype) -> Any:
    """Tensors of `source` inside plain tuples, lists and dicts become `target`; everything else is the same object."""
    if isinstance(value, Tensor):
        return value.to(target) if value.dtype == source else value
    if type(value) in (tuple, list):
        return type(value)(_converted(item, source, target) for item in value)
    if type(value) is dict:
        return {key: _converted(item, source, target) for key, item in value.items()}
    return value
