"""`flash`: the attention runs in half precision on the flash kernel, and on no other.

Left to itself, PyTorch picks one of several fused kernels, and for float32 never the fastest one, which exists for half
precision only. Here queries, keys and values are cast to bfloat16 for this one kernel and the result back, and a shape
that the kernel cannot take is an error instead of a silent second choice. It knows no masks but the causal one, so a
call's mask must be exactly that, or absent. Sources: Dao 2023, FlashAttention-2 (arXiv 2307.08691);
`torch.nn.attention.sdpa_kernel`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.causal_kernel import looks_at_masks, looks_causal
from hybrid_core.strategies.attention.sdpa import fuse_attention_modules
from hybrid_core.strategies.base import Applied, Method, Setting, Situation, run_example

HALF = (torch.float16, torch.bfloat16)
WIDEST_HEAD = 256
OLDEST_CAPABILITY = (8, 0)


def flash_attention(query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None, scale: Any) -> Tensor:
    """The flash kernel in half precision, result in the type of `query`; raises where it cannot take the call."""
    causal = attn_mask is not None and looks_causal(attn_mask, query.shape[-2], key.shape[-2])
    why = why_not_flash(query, value)
    if why is None and attn_mask is not None and not causal and bool(attn_mask.count_nonzero()):
        why = "its mask hides or weighs other scores than the causal one does"
    if why is not None:
        raise StrategyUnsupported(f"the flash kernel cannot take this attention: {why}; use sdpa")
    kind = query.dtype if query.dtype in HALF else torch.bfloat16
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        out = functional.scaled_dot_product_attention(
            query.to(kind), key.to(kind), value.to(kind), is_causal=causal, scale=scale
        )
    return out.to(query.dtype)


def why_not_flash(query: Tensor, value: Tensor) -> str | None:
    """What the kernel cannot take about types and sizes, with the value; None when it can."""
    if query.dtype not in (*HALF, torch.float32):
        return f"it computes in half precision, which is too far from {query.dtype}"
    widths = (query.shape[-1], value.shape[-1])
    if widths[0] != widths[1]:
        return f"keys have {widths[0]} features and values {widths[1]}, which must be equal"
    if max(widths) > WIDEST_HEAD:
        return f"heads have {max(widths)} features, more than {WIDEST_HEAD}"
    return None


def _unavailable(device: str) -> str | None:
    if not device.startswith("cuda"):
        return f"the flash kernel needs an NVIDIA GPU, and this device is '{device}'; use sdpa or sdpa_causal"
    if not torch.cuda.is_available():
        return "the flash kernel needs an NVIDIA GPU, and PyTorch sees none"
    capability = torch.cuda.get_device_capability(torch.device(device))
    if capability < OLDEST_CAPABILITY:
        found, needed = (".".join(map(str, c)) for c in (capability, OLDEST_CAPABILITY))
        return f"the flash kernel needs compute capability {needed} (Ampere), and this GPU has {found}"
    return None


def _apply(model: nn.Module, situation: Situation) -> Applied:
    applied = fuse_attention_modules(model, situation, flash_attention, exact=False)
    run_example(applied.model, situation)
    done, *rest = applied.changes
    return Applied(applied.model, (f"{done}, always on the flash kernel in half precision", *rest))


FLASH = Method(
    Setting(
        name="flash",
        sentence="Written-out attention runs on the flash kernel in half precision, whatever the model's type.",
        stage=10,
        exact=False,
        expected_cost_s=4.0,
        references=("https://arxiv.org/abs/2307.08691",),
    ),
    apply=_apply,
    unavailable=_unavailable,
    conflicts=looks_at_masks("flash"),
)
