"""`flex`: causal attention on a kernel that the compiler generates, which leaves hidden blocks of scores out.

FlexAttention is compiled from a rule that says which scores exist; blocks without any are never visited. Calls whose
mask is exactly the causal one, and calls over all rows without a mask, run on it; other calls (one new row against a
cache, a mask of biases) stay on `scaled_dot_product_attention`. On processors it needs AVX2. Source: Dong et al. 2024,
Flex Attention (arXiv 2412.05496); `torch.nn.attention.flex_attention`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.causal_kernel import counted_skips, looks_at_masks, looks_causal, note_skip
from hybrid_core.strategies.attention.sdpa import fuse_attention_modules
from hybrid_core.strategies.base import Applied, Method, Setting, Situation, run_example
from hybrid_core.strategies.kernels.compilation import no_compiler_reason, refusing_endless_forms


def flex_kernel(query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None, scale: Any) -> Tensor:
    """Compiled FlexAttention where the mask is causal or absent, `scaled_dot_product_attention` elsewhere."""
    rows, columns = query.shape[-2], key.shape[-2]
    causal = attn_mask is not None and looks_causal(attn_mask, rows, columns)
    if rows < 2 or rows != columns or (attn_mask is not None and not causal):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, scale=scale)
    note_skip()
    blocks = _causal_blocks(rows, str(query.device)) if causal else None
    with refusing_endless_forms():
        out: Tensor = _compiled()(query, key, value, block_mask=blocks, scale=float(scale))
    return out


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention  # late: importing the compiler costs seconds

    return torch.compile(flex_attention, dynamic=False)


@lru_cache(maxsize=8)
def _causal_blocks(rows: int, device: str) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(lambda b, h, q, k: q >= k, None, None, rows, rows, device=device)


def _unavailable(device: str) -> str | None:
    if not device.startswith("cuda"):
        capability = torch.backends.cpu.get_cpu_capability()
        if not capability.startswith("AVX"):
            return f"FlexAttention on a processor needs AVX2 and this one offers '{capability}'; use sdpa_causal"
    return no_compiler_reason(device)


def _apply(model: nn.Module, situation: Situation) -> Applied:
    applied = fuse_attention_modules(model, situation, flex_kernel)
    with counted_skips() as calls:
        run_example(applied.model, situation)
    if not calls[0]:
        raise StrategyUnsupported(
            "no attention of the example is over all rows with the causal mask or none, so FlexAttention has nothing "
            "to leave out; use sdpa"
        )
    done, *rest = applied.changes
    return Applied(applied.model, (done, f"compiled FlexAttention ran {calls[0]} times in one example call", *rest))


FLEX = Method(
    Setting(
        name="flex",
        sentence="Causal attention runs on a compiled FlexAttention kernel that never visits hidden blocks.",
        stage=10,
        exact=True,
        expected_cost_s=20.0,
        references=("https://arxiv.org/abs/2412.05496",),
        compiles=True,
        on_request="it compiles for seconds per shape, and on a processor it ran at 0.6 of the speed of sdpa_causal",
    ),
    apply=_apply,
    unavailable=_unavailable,
    conflicts=looks_at_masks("flex"),
)
