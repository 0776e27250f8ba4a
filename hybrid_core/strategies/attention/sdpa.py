"""`sdpa` and `sdpa_causal`: an attention written as matmul, softmax, matmul becomes one fused kernel.

The written-out form stores a score for every pair of positions; `scaled_dot_product_attention` walks over them in
tiles and never stores them, which saves memory that grows with the square of the length, and time. Works on any
module: the attention is found by running the example, its meaning is read from `torch.export`, and only a form that is
proven equal is replaced. Sources: FlashAttention, Dao et al. 2022 (arXiv 2205.14135); Rabe and Staats 2021
(arXiv 2112.05682).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.causal_kernel import causal_attention, counted_skips, looks_at_masks
from hybrid_core.strategies.attention.export import Form
from hybrid_core.strategies.attention.fused import Forms, FusedAttention
from hybrid_core.strategies.attention.multihead import fuse_multihead
from hybrid_core.strategies.attention.search import Call, Findings, find_attention
from hybrid_core.strategies.base import (
    Applied,
    Method,
    Setting,
    Situation,
    list_briefly,
    replace_submodule,
    run_example,
)

# A module that returns its probabilities may stand in one that drops them; further out the export only grows.
MOST_OUTWARD = 3


def fuse_attention_modules(
    model: nn.Module, situation: Situation, kernel: Callable[..., Any] | None, exact: bool = True
) -> Applied:
    """Find, rewrite and replace every written-out attention; `kernel` None is `scaled_dot_product_attention` itself.

    `exact` False: the kernel computes with fewer digits than the types say, and is compared accordingly.
    """
    findings = find_attention(model, situation)
    replaced: list[str] = []
    reasons: list[str] = []
    shared: dict[Any, Forms] = {}
    fused = 0
    for outwards in findings.sites.values():
        try:
            model, name, form = _fuse(model, outwards, shared, (kernel, exact))
            replaced.append(name)
            fused += form.fused
            reasons += [f"{name or 'the model'}: {reason}" for reason in form.reasons]
        except StrategyUnsupported as refusal:
            reasons.append(f"{outwards[0].name or 'the model'}: {refusal}")
    written = fused + len(reasons)
    layers: list[str] = []
    if kernel in (None, causal_attention):  # the library's own layer offers no other kernels
        model, layers, refusals = fuse_multihead(model, situation, causal=kernel is causal_attention)
        reasons += refusals
    if not replaced and not layers:
        raise StrategyUnsupported(_why_none(findings, reasons))
    changes = []
    if replaced:
        done = f"replaced {fused} of {written} written-out attentions by scaled_dot_product_attention"
        changes.append(f"{done} ({list_briefly(replaced)})")
    if layers:
        done = f"made {len(layers)} nn.MultiheadAttention call scaled_dot_product_attention and drop unread weights"
        changes.append(f"{done} ({list_briefly(layers)})")
    if reasons:
        changes.append(f"left as it was: {list_briefly(reasons, 3)}")
    return Applied(model, tuple(changes))


def _apply_sdpa(model: nn.Module, situation: Situation) -> Applied:
    applied = fuse_attention_modules(model, situation, None)
    run_example(applied.model, situation)
    return applied


def _apply_causal(model: nn.Module, situation: Situation) -> Applied:
    applied = fuse_attention_modules(model, situation, causal_attention)
    with counted_skips() as skips:
        run_example(applied.model, situation)
    if not skips[0]:
        raise StrategyUnsupported(
            "no attention of the example has the causal mask, so there is nothing to skip; use sdpa"
        )
    done, *rest = applied.changes
    return Applied(applied.model, (done, f"the causal kernel ran {skips[0]} times in one example call", *rest))


SDPA = Method(
    Setting(
        name="sdpa",
        sentence="Attention written as matmul, softmax, matmul becomes one scaled_dot_product_attention call.",
        stage=10,
        exact=True,
        expected_cost_s=4.0,
        references=("https://arxiv.org/abs/2205.14135", "https://arxiv.org/abs/2112.05682"),
    ),
    apply=_apply_sdpa,
)
SDPA_CAUSAL = Method(
    Setting(
        name="sdpa_causal",
        sentence="Like sdpa; where a call's mask is exactly the causal one, what it hides is never computed.",
        stage=10,
        exact=True,
        expected_cost_s=4.0,
        references=("https://arxiv.org/abs/2205.14135",),
    ),
    apply=_apply_causal,
    conflicts=looks_at_masks("sdpa_causal"),
)


def _why_none(findings: Findings, reasons: list[str]) -> str:
    if reasons:
        return f"no attention could be fused; {list_briefly(list(dict.fromkeys(reasons)), 2)}"
    if findings.fused:
        where = list_briefly(findings.fused)
        return (
            "attention already calls the fused kernel, by nn.MultiheadAttention or scaled_dot_product_attention "
            f"(in {where})"
        )
    return "no softmax runs in the example, so there is no written-out attention to fuse"


def _fuse(
    model: nn.Module,
    outwards: tuple[Call, ...],
    shared: dict[Any, Forms],
    kernel: tuple[Callable[..., Any] | None, bool],
) -> tuple[nn.Module, str, Form]:
    """Replace the module that computes the attention, or the next one outwards that does not return probabilities."""
    first: StrategyUnsupported | None = None
    for call in outwards[:MOST_OUTWARD]:
        key = fingerprint(call.module)
        fused = FusedAttention(call.module, shared.get(key) if key is not None else None, *kernel)
        try:
            if not fused.forms.known:
                fused.learn(*pytree.tree_flatten((call.args, call.kwargs)))
        except StrategyUnsupported as refusal:
            first = first or refusal
            if "returned" not in str(refusal):
                break
            continue
        if key is not None:
            shared[key] = fused.forms
        return replace_submodule(model, call.name, fused), call.name, fused.forms.known[0]
    assert first is not None, "every site has at least the module that ran the softmax"
    raise first


def fingerprint(module: nn.Module) -> tuple[Any, ...] | None:
    """Equal for modules whose exported text is certainly the same; None where an attribute cannot be compared."""
    parts: list[Any] = []
    for name, part in module.named_modules():
        parts.append((name, type(part)))
        for key, value in sorted(vars(part).items()):
            if key in ("_parameters", "_buffers"):
                parts += [(k, None if t is None else (t.shape, t.dtype)) for k, t in value.items()]
            elif not key.startswith(("_", "training")) and not isinstance(value, torch.nn.Module):
                if not isinstance(value, int | float | str | bool | tuple | None):
                    return None
                parts.append((key, value))
    return tuple(parts)
