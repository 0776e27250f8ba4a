"""Fused attention that skips what a causal mask hides instead of computing it and adding minus infinity.

With `is_causal` the kernel never touches the upper half of the scores and needs no mask in memory, but it is only right
when the mask really is the causal one. So every call looks: rows equal columns, zero up to the diagonal, minus infinity
(or the type's lowest number, which no finite score outweighs) beyond it. Any other mask is used as it is. The look
costs passes over the mask, so layers that share one mask share one look; it is a decision in Python, where a compiled
graph breaks.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hybrid_core.strategies.base import Conflict

# Settings that record a graph of the model, in which a decision about values cannot stand.
RECORDED = {
    "kernel_fusion": (
        "compile", "compile_freezing", "compile_max_autotune", "compile_regional", "aot", "cudagraphs", "onnxruntime",
        "openvino",
    ),
    "quantization": ("onnx_int8_dynamic", "openvino_int8", "openvino_bf16"),
}  # fmt: skip
_skips: ContextVar[list[int] | None] = ContextVar("_skips", default=None)
_last = threading.local()


def causal_attention(query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None, scale: Any) -> Tensor:
    """`scaled_dot_product_attention`, with the causal kernel exactly when `attn_mask` is the causal mask."""
    if attn_mask is not None and looks_causal(attn_mask, query.shape[-2], key.shape[-2]):
        note_skip()
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, scale=scale)


def note_skip() -> None:
    """Count one use of the causal kernel, where somebody counts."""
    skips = _skips.get()
    if skips is not None:
        skips[0] += 1


def looks_causal(mask: Tensor, rows: int, columns: int) -> bool:
    """`is_causal_mask`, remembered for the mask looked at last, as long as it lives and nobody writes to it."""
    if rows != columns or rows < 2 or mask.is_inference():  # inference tensors do not count their writes
        return is_causal_mask(mask, rows, columns)
    # A layer may cut its own view out of the mask they share; views count writes together with their base.
    base = mask if mask._base is None else mask._base
    state = (mask._version, mask.data_ptr(), mask.shape, mask.stride(), mask.dtype, rows)
    seen, old_state, verdict = getattr(_last, "look", (lambda: None, None, False))
    if seen() is not base or old_state != state:
        verdict = is_causal_mask(mask, rows, columns)
        _last.look = (weakref.ref(base), state, verdict)
    return bool(verdict)


def is_causal_mask(mask: Tensor, rows: int, columns: int) -> bool:
    """Whether an additive mask (..., rows, columns) lets each row see itself and what came before, and nothing else.

    >>> hidden = torch.full((3, 3), float("-inf"))
    >>> is_causal_mask(hidden.triu(1), 3, 3), is_causal_mask(hidden.triu(2), 3, 3)
    (True, False)
    """
    if rows != columns or rows < 2 or mask.dim() < 2 or mask.shape[-2:] != (rows, columns):
        return False
    if not mask.is_floating_point():
        return False
    later = torch.ones(rows, columns, dtype=torch.bool, device=mask.device).triu(1)
    hidden = mask <= torch.finfo(mask.dtype).min
    # Where exactly the later ones are hidden and nothing else differs from zero, all the others are zero.
    return bool((hidden == later).all()) and int(mask.count_nonzero()) == int(hidden.count_nonzero())


def looks_at_masks(setting: str) -> tuple[Conflict, ...]:
    """The conflicts of a setting whose kernel decides by its mask: nothing that records a graph can follow it."""
    reason = "it looks at its mask in every call, which breaks a compiled graph at every attention"
    return tuple(Conflict(setting, other, name, reason) for other, names in RECORDED.items() for name in names)


@contextmanager
def counted_skips() -> Iterator[list[int]]:
    """A list whose only number is how often the causal kernel was used inside the block."""
    count = [0]
    token = _skips.set(count)
    try:
        yield count
    finally:
        _skips.reset(token)
