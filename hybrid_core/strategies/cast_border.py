"""The border between a model computing in bfloat16 and callers who pass and receive float32.

The cast itself is one line; what breaks models is its edge. A hook at the root turns floating inputs into bfloat16 and
floating outputs back, leaving integers and caches alone, so every call the model answered before it still answers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def cast_to_bfloat16(model: nn.Module) -> tuple[str, ...]:
    """Cast float32 parameters and buffers in place and convert at the root; returns the changes as sentences."""
    counted = [t for t in (*model.parameters(), *model.buffers()) if t.dtype == torch.float32]
    saved_mb = sum(t.numel() for t in counted) * 2 / 1e6
    model.to(torch.bfloat16)
    model.register_forward_pre_hook(_inputs_to_bfloat16, with_kwargs=True)
    model.register_forward_hook(_outputs_to_float32)
    return (
        f"cast {len(counted)} parameters and buffers from float32 to bfloat16, {saved_mb:.2f} MB less; "
        "inputs are converted on entry and outputs back on return",
    )


def _inputs_to_bfloat16(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return _converted(args, torch.float32, torch.bfloat16), _converted(kwargs, torch.float32, torch.bfloat16)


def _outputs_to_float32(module: nn.Module, args: Any, output: Any) -> Any:
    return _converted(output, torch.bfloat16, torch.float32)


def _converted(value: Any, source: torch.dtype, target: torch.dtype) -> Any:
    """Tensors of `source` inside plain tuples, lists and dicts become `target`; everything else is the same object."""
    if isinstance(value, torch.Tensor):
        return value.to(target) if value.dtype == source else value
    if type(value) in (tuple, list):
        return type(value)(_converted(item, source, target) for item in value)
    if type(value) is dict:
        return {key: _converted(item, source, target) for key, item in value.items()}
    return value
