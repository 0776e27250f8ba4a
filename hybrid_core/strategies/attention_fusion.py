"""Attention fusion: an attention written as matmul, softmax, matmul becomes one fused kernel.

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

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention_search import Call, Findings, find_attention
from hybrid_core.strategies.base import (
    Applied,
    Conflict,
    Setting,
    Situation,
    list_briefly,
    refuse_when,
    replace_submodule,
    run_example,
)
from hybrid_core.strategies.causal_kernel import causal_attention, counted_skips
from hybrid_core.strategies.fused_attention import Forms, FusedAttention

# A module that returns its probabilities may stand in one that drops them; further out the export only grows.
MOST_OUTWARD = 3
# setting -> what stands in the place of the written-out form; None is scaled_dot_product_attention itself
KERNELS: dict[str, Callable[..., Any] | None] = {"sdpa": None, "sdpa_causal": causal_attention}


class AttentionFusion:
    """Written-out attention becomes PyTorch's fused kernel, in any user module."""

    name = "attention_fusion"
    title = "Attention fusion"
    purpose = "Replaces written-out attention by one fused kernel that never stores the square score matrix."
    claimed = {"speed": 1.3, "memory": 1.4, "accuracy": 0.98}
    conflicts = tuple(
        Conflict(
            setting="sdpa_causal",
            other_strategy="kernel_fusion",
            other_setting=compiled,
            reason="it looks at its mask in every call, which breaks a compiled graph at every attention",
        )
        for compiled in ("compile", "compile_freezing")
    )
    settings = (
        Setting(
            name="sdpa",
            sentence="Attention written as matmul, softmax, matmul becomes one scaled_dot_product_attention call.",
            stage=10,
            exact=True,
            expected_cost_s=4.0,
            references=("https://arxiv.org/abs/2205.14135", "https://arxiv.org/abs/2112.05682"),
        ),
        Setting(
            name="sdpa_causal",
            sentence="Like sdpa; where a call's mask is exactly the causal one, what it hides is never computed.",
            stage=10,
            exact=True,
            expected_cost_s=4.0,
            references=("https://arxiv.org/abs/2205.14135",),
        ),
    )

    def unavailable(self, setting: str, device: str) -> str | None:
        """The fused kernel exists on every device PyTorch runs on."""
        return None

    def unsupported(self, setting: str, model: nn.Module, situation: Situation) -> str | None:
        """Training is refused; whether there is attention is only known by running the example, which `apply` does."""
        return "the model is in training mode; call eval() first" if model.training else None

    def apply(self, setting: str, model: nn.Module, situation: Situation) -> Applied:
        """Find, rewrite and replace every written-out attention of the model."""
        refuse_when(self.unsupported(setting, model, situation))
        findings = find_attention(model, situation)
        if not findings.sites:
            raise StrategyUnsupported(_why_none(findings))
        replaced: list[str] = []
        reasons: list[str] = []
        shared: dict[Any, Forms] = {}
        for outwards in findings.sites.values():
            try:
                model, name = _fuse(model, outwards, shared, KERNELS[setting])
                replaced.append(name)
            except StrategyUnsupported as refusal:
                reasons.append(f"{outwards[0].name or 'the model'}: {refusal}")
        if not replaced:
            raise StrategyUnsupported(f"no attention could be fused; {list_briefly(list(dict.fromkeys(reasons)), 2)}")
        with counted_skips() as skips:
            run_example(model, situation)
        if setting == "sdpa_causal" and not skips[0]:
            raise StrategyUnsupported(
                "no attention of the example has the causal mask, so there is nothing to skip; use sdpa"
            )
        done = (
            f"replaced {len(replaced)} of {len(findings.sites)} written-out attentions by scaled_dot_product_attention"
        )
        causal = (f"the causal kernel ran {skips[0]} times in one example call",) if skips[0] else ()
        refused = (f"left as it was: {list_briefly(reasons, 3)}",) if reasons else ()
        return Applied(model, (f"{done} ({list_briefly(replaced)})", *causal, *refused))


def _why_none(findings: Findings) -> str:
    if findings.fused:
        where = list_briefly(findings.fused)
        return (
            "attention already calls the fused kernel, by nn.MultiheadAttention or scaled_dot_product_attention "
            f"(in {where})"
        )
    return "no softmax runs in the example, so there is no written-out attention to fuse"


def _fuse(
    model: nn.Module, outwards: tuple[Call, ...], shared: dict[Any, Forms], kernel: Callable[..., Any] | None
) -> tuple[nn.Module, str]:
    """Replace the module that computes the attention, or the next one outwards that does not return probabilities."""
    first: StrategyUnsupported | None = None
    for call in outwards[:MOST_OUTWARD]:
        key = fingerprint(call.module)
        fused = FusedAttention(call.module, shared.get(key) if key is not None else None, kernel)
        try:
            if not fused.forms.known:
                fused.learn(call.args, call.kwargs)
        except StrategyUnsupported as refusal:
            first = first or refusal
            if "returned" not in str(refusal):
                break
            continue
        if key is not None:
            shared[key] = fused.forms
        return replace_submodule(model, call.name, fused), call.name
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
