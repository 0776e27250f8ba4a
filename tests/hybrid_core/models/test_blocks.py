"""The plain parts against PyTorch's own and against definitions written another way."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from hybrid_core.models.parts.blocks import (
    Attention,
    EagerAttention,
    GrowingCache,
    RMSNorm,
    SwiGLU,
    repeat_heads,
)
from hybrid_core.models.parts.decoder import causal_mask
from hybrid_core.models.parts.rotary import rotary_table, rotate


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("shape", [(3, 48), (2, 5, 7), (1, 1, 1)])
def test_rms_norm_equals_torch(shape):
    norm = RMSNorm(shape[-1], eps=1e-5)
    norm.weight.data.normal_()
    x = torch.randn(shape) * 30
    torch.testing.assert_close(norm(x), F.rms_norm(x, shape[-1:], norm.weight, 1e-5))


def test_rms_norm_of_large_bfloat16_does_not_overflow():
    norm = RMSNorm(64).to(torch.bfloat16)
    x = torch.full((2, 64), 1e20, dtype=torch.bfloat16)
    y = norm(x.clone())
    assert y.dtype is torch.bfloat16
    assert not y.isnan().any()


def test_rotation_is_multiplication_by_a_unit_complex_number():
    head_dim, theta = 8, 10_000.0
    x = torch.randn(1, 2, 5, head_dim, dtype=torch.float64)
    cos, sin = rotary_table(head_dim, 5, theta)
    expected = torch.empty_like(x)
    for position in range(5):
        for i in range(head_dim // 2):
            turn = complex(math.cos(a := position * theta ** (-2 * i / head_dim)), math.sin(a))
            for head in range(2):
                pair = complex(x[0, head, position, i], x[0, head, position, i + head_dim // 2]) * turn
                expected[0, head, position, i], expected[0, head, position, i + head_dim // 2] = pair.real, pair.imag
    torch.testing.assert_close(rotate(x, cos.double(), sin.double()), expected, atol=1e-6, rtol=0)


def test_rotated_scores_depend_on_the_distance_alone():
    cos, sin = rotary_table(16, 64, 10_000.0)
    q, k = torch.randn(16), torch.randn(16)

    def score(at_query: int, at_key: int) -> float:
        turned = [rotate(x.view(1, 1, 1, 16), cos[p : p + 1], sin[p : p + 1]) for x, p in ((q, at_query), (k, at_key))]
        return float((turned[0] * turned[1]).sum())

    assert score(9, 4) == pytest.approx(score(60, 55), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)


@pytest.mark.parametrize("tokens", [1, 2, 33])
def test_eager_attention_equals_the_fused_kernel(tokens):
    q, k, v = torch.randn(3, 2, 4, tokens, 16)
    mask = causal_mask(0, tokens, q)
    torch.testing.assert_close(
        EagerAttention()(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, is_causal=True), atol=2e-6, rtol=1e-5
    )


def test_causal_mask_with_a_past_lets_row_i_see_start_plus_i():
    mask = causal_mask(3, 8, torch.zeros(1))
    visible = [[int(column) for column in row.isfinite().nonzero()] for row in mask]
    assert visible == [list(range(3 + row + 1)) for row in range(5)]
    assert set(mask[mask.isfinite()].tolist()) == {0.0}


def test_grouped_attention_equals_an_explicit_loop_over_heads():
    dim, heads, kv_heads, width, tokens = 24, 6, 2, 4, 7
    attention = Attention(dim, heads, kv_heads, width)
    x = torch.randn(2, tokens, dim)
    cos, sin = rotary_table(width, tokens, 10_000.0)
    mask = causal_mask(0, tokens, x)
    columns = []
    for head in range(heads):
        group = head // (heads // kv_heads)
        q, k, v = (
            x @ layer.weight[index * width : (index + 1) * width].T
            for layer, index in ((attention.query, head), (attention.key, group), (attention.value, group))
        )
        q, k = (rotate(y[:, None], cos, sin)[:, 0] for y in (q, k))
        weights = torch.softmax(q @ k.transpose(1, 2) / width**0.5 + mask, -1)
        columns.append(weights @ v)
    expected = torch.cat(columns, dim=-1) @ attention.output.weight.T
    torch.testing.assert_close(attention(x, cos, sin, mask), expected, atol=1e-6, rtol=1e-5)


def test_repeat_heads_equals_repeat_interleave():
    x = torch.randn(2, 3, 5, 4)
    assert torch.equal(repeat_heads(x, 4), x.repeat_interleave(4, dim=1))


def test_swiglu_equals_its_formula():
    layer = SwiGLU(6, 10)
    x = torch.randn(3, 6)
    gate, up = x @ layer.gate.weight.T, x @ layer.up.weight.T
    torch.testing.assert_close(layer(x), (gate * torch.sigmoid(gate) * up) @ layer.down.weight.T)


def test_growing_cache_returns_everything_in_order_per_layer():
    cache = GrowingCache(layers=2)
    assert cache.length == 0
    parts = torch.randn(3, 1, 2, 4, 8)
    for part in parts:
        for layer in range(2):
            k, v = cache.append(layer, part + layer, -part)
    assert cache.length == 12
    assert torch.equal(k, torch.cat(list(parts + 1), dim=2))
    assert torch.equal(v, torch.cat(list(-parts), dim=2))


def test_cache_length_stands_still_until_the_last_layer_is_filled():
    cache = GrowingCache(layers=2)
    cache.append(0, torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4))
    assert cache.length == 0
    cache.append(1, torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4))
    assert cache.length == 3
