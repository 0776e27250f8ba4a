"""Kernels other than the default: right where they run, refused with the reason where they cannot."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.attention.causal_kernel import counted_skips
from hybrid_core.strategies.attention.flash import flash_attention, why_not_flash
from hybrid_core.strategies.attention.flex import flex_kernel
from hybrid_core.strategies.attention_fusion import ATTENTION_FUSION as FUSION
from hybrid_core.strategies.base import Situation

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def operands(rows=16, columns=16, width=8, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 4, n, width, generator=generator).to(device) for n in (rows, columns, columns)]


def written_out(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return (scores if mask is None else scores + mask).softmax(-1) @ v


def causal(rows, device="cpu"):
    return torch.full((rows, rows), float("-inf"), device=device).triu(1)


class Block(nn.Module):
    def forward(self, q, k, v, mask):
        return written_out(q, k, v, mask)


def apply(setting, mask, device="cpu", rows=16):
    situation = Situation(
        (*operands(rows, rows, device=device), mask), lambda m, i: m(*i), Workload("forward", "forward", 2),
        torch.device(device),
    )  # fmt: skip
    return FUSION.apply(setting, Block().eval(), situation)


@pytest.mark.parametrize("mask", [None, causal(16), torch.zeros(16, 16)], ids=["none", "causal", "zeros"])
def test_the_flash_form_computes_attention_in_half_precision(mask):
    q, k, v = operands()
    out = flash_attention(q, k, v, attn_mask=mask, scale=8**-0.5)
    expected = written_out(q, k, v, mask)
    error = torch.linalg.vector_norm(out - expected) / torch.linalg.vector_norm(expected)
    assert out.dtype == torch.float32 and 1e-4 < error < 1e-2  # half precision, and nothing worse


def test_the_flash_form_refuses_a_mask_that_it_would_ignore():
    with pytest.raises(StrategyUnsupported, match="mask hides or weighs"):
        flash_attention(*operands(), attn_mask=torch.rand(16, 16), scale=1.0)


def test_what_flash_cannot_take_is_named_with_its_value():
    q, _, v = operands()
    assert why_not_flash(q, v) is None
    assert "float64" in why_not_flash(q.double(), v.double())
    assert "8 features and values 4" in why_not_flash(q, v[..., :4])
    wide = torch.zeros(1, 1, 2, 320)
    assert "320 features" in why_not_flash(wide, wide)


def test_flash_is_unavailable_on_a_processor():
    with pytest.raises(StrategyUnsupported, match="needs an NVIDIA GPU"):
        apply("flash", causal(16))


@pytest.mark.gpu
@gpu
def test_flash_runs_on_a_gpu_for_a_float32_model():
    applied = apply("flash", causal(16, "cuda"), "cuda")
    given = (*operands(seed=3, device="cuda"), causal(16, "cuda"))
    expected = written_out(*given)
    assert torch.linalg.vector_norm(applied.model(*given) - expected) < 0.02 * torch.linalg.vector_norm(expected)


def test_flex_leaves_calls_that_it_has_no_rule_for_to_the_other_kernel():
    bias = torch.rand(16, 16)
    with counted_skips() as calls:
        for rows, mask in ((16, bias), (1, torch.zeros(1, 16)), (1, None)):
            q, k, v = operands(rows)
            out = flex_kernel(q, k, v, attn_mask=mask, scale=8**-0.5)
            torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    assert calls == [0]


def test_flex_is_refused_where_nothing_could_be_left_out():
    if FUSION.unavailable("flex", "cpu"):
        pytest.skip(FUSION.unavailable("flex", "cpu"))
    with pytest.raises(StrategyUnsupported, match="has nothing to leave out"):
        apply("flex", torch.rand(16, 16))


@pytest.mark.slow
def test_compiled_flex_computes_causal_attention():
    if FUSION.unavailable("flex", "cpu"):
        pytest.skip(FUSION.unavailable("flex", "cpu"))
    applied = apply("flex", causal(32), rows=32)
    assert "compiled FlexAttention ran 1 times" in applied.changes[1]
    given = (*operands(32, 32, seed=3), causal(32))
    before = copy.deepcopy(given)
    with torch.no_grad():
        torch.testing.assert_close(applied.model(*given), written_out(*given), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.gpu
@gpu
def test_compiled_flex_computes_causal_attention_on_a_gpu():
    applied = apply("flex", causal(256, "cuda"), "cuda", rows=256)
    given = (*operands(256, 256, seed=3, device="cuda"), causal(256, "cuda"))
    with torch.no_grad():
        torch.testing.assert_close(applied.model(*given), written_out(*given), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("setting", ["sdpa_causal", "flash", "flex"])
def test_kernels_that_look_at_their_mask_exclude_recorded_graphs(setting):
    excluded = {c.other_setting for c in FUSION.conflicts if c.setting == setting}
    assert {"compile", "compile_freezing", "cudagraphs"} <= excluded
