"""DeepSeek as an entry: counts, cache, pieces, rotary positions, and the shipped checkpoint."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.deepseek import SHAPES, DeepSeek, DeepSeekEntry, DeepSeekShape
from hybrid_core.models.parts.experts import MixtureOfExperts, Routing
from hybrid_core.models.parts.latent_attention import LatentAttention, LatentWidths, rotate_neighbours
from hybrid_core.models.parts.rotary import rotary_table
from hybrid_core.models.parts.rotary_yarn import YarnScaling, yarn_table
from hybrid_core.models.quality import task_quality
from hybrid_core.models.tasks.next_byte import NextByteTask

SMALLEST = DeepSeekShape(
    dim=24,
    layers=3,
    dense_layers=1,
    hidden=40,
    attention=LatentWidths(heads=4, latent=12, plain=6, rope=4, value=5, query_rank=16),
    routing=Routing(experts=8, groups=4, groups_per_token=2, experts_per_token=2, hidden=16),
    max_length=64,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = DeepSeek(SMALLEST).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():  # larger than at the start of a training, so that mistakes show
        parameter.normal_(1.0 if "norm" in name else 0.0, 0.3)
    return model


@pytest.fixture(scope="module")
def trained():
    return DeepSeekEntry().build("tiny", 0)


def tokens_of(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cuts", [(40,), (1,) * 40, (17, 1, 1, 21), (1, 39)])
def test_reading_in_pieces_with_a_cache_equals_one_pass(model, cuts):
    tokens = tokens_of(3, 40)
    cache = model.cache_factory(3, 40)
    pieces = [model(part, cache=cache) for part in tokens.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), atol=5e-5, rtol=1e-5)
    assert cache.length == 40


class WatchedCache:
    """Counts what a model stores."""

    def __init__(self, model: DeepSeek) -> None:
        self.inner, self.values = model.cache_factory(1, 64), 0
        self.shapes: set[tuple[int, ...]] = set()

    @property
    def length(self) -> int:
        return self.inner.length

    def append(self, layer, k, v):
        self.values += k.numel() + v.numel()
        self.shapes |= {tuple(k.shape), tuple(v.shape)}
        return self.inner.append(layer, k, v)


def test_cache_holds_one_latent_and_one_shared_key_per_token_and_layer(model):
    cache = WatchedCache(model)
    model(tokens_of(2, 7), cache=cache)
    assert cache.shapes == {(2, 1, 7, 12), (2, 1, 7, 4)}
    assert cache.values == 2 * 7 * SMALLEST.cache_values_per_token == 2 * 7 * 3 * (12 + 4)


def test_full_size_caches_576_values_per_token_and_layer_instead_of_32768():
    shape = SHAPES["full"]
    assert shape.attention.cache_values_per_token == 576
    assert shape.uncompressed_cache_values_per_token == 61 * 32_768
    facts = DeepSeekEntry().facts("full")
    assert facts["kv_cache_bytes_per_token"] == {"float32": 61 * 576 * 4, "bfloat16": 61 * 576 * 2}
    assert facts["cache_values_per_token_and_layer"] == 576


def test_a_later_token_changes_no_earlier_logit(model):
    tokens = tokens_of(1, 20)
    changed = tokens.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 256
    before, after = model(tokens), model(changed)
    # Not bit for bit: an expert that gets one token more may sum in another order.
    torch.testing.assert_close(before[:, :12], after[:, :12], atol=2e-5, rtol=1e-5)
    assert (before[:, 12:] - after[:, 12:]).abs().max() > 0.1


@pytest.mark.parametrize("size", ["smallest", "tiny", "small"])
@pytest.mark.parametrize("query_rank", [None, 16])
def test_parameter_count_equals_the_closed_form(size, query_rank):
    shape = {**SHAPES, "smallest": SMALLEST}[size]
    attention = LatentWidths(**{**vars(shape.attention), "query_rank": query_rank})
    shape = DeepSeekShape(**{**vars(shape), "attention": attention})
    with torch.device("meta"):
        assert sum(p.numel() for p in DeepSeek(shape).parameters()) == shape.parameters


def test_full_size_on_the_meta_device_has_exactly_the_published_parameters():
    entry = DeepSeekEntry()
    model = entry.skeleton("full")
    assert all(p.is_meta for p in (*model.parameters(), *model.buffers()))
    counted = sum(p.numel() for p in model.parameters())
    assert counted == entry.parameters("full") == entry.published_parameters == 671_026_419_200
    biases = sum(m.router.selection_bias.numel() for m in model.modules() if isinstance(m, MixtureOfExperts))
    assert biases == entry.card("full")["selection_biases"] == 14_848
    expert = sum(p.numel() for p in model.layers[3].feed_forward.experts[0].parameters())
    idle = 58 * (256 - 8) * expert
    assert counted - idle == SHAPES["full"].activated_parameters
    # The paper says 37 B; without the embedding, of which a token reads one row, it is 36.6 B.
    assert SHAPES["full"].activated_parameters == 37_552_297_472


def test_first_layers_are_dense_and_the_others_mixtures(model):
    kinds = [type(layer.feed_forward).__name__ for layer in model.layers]
    assert kinds == ["SwiGLU", "MixtureOfExperts", "MixtureOfExperts"]


def test_full_size_is_refused_before_anything_is_allocated():
    with pytest.raises(InvalidInput, match="671,026,419,200 parameters need 2,499.8 GiB"):
        DeepSeekEntry().build("full", 0)


def test_neighbours_are_turned_as_complex_numbers():
    cos, sin = rotary_table(8, 20, 100.0)
    x = torch.randn(2, 3, 20, 8, generator=torch.Generator().manual_seed(2))
    turned = torch.view_as_complex(x.view(2, 3, 20, 4, 2)) * torch.complex(cos, sin)
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    torch.testing.assert_close(rotate_neighbours(x, cos, sin), expected)


def test_attention_scores_depend_on_the_distance_and_not_on_the_position():
    torch.manual_seed(0)
    attention = LatentAttention(24, SMALLEST.attention).requires_grad_(False)
    cos, sin = rotary_table(4, 64, 100.0)
    x = torch.randn(1, 10, 24)
    mask = torch.zeros(10, 10)
    here, there = (attention(x, cos[s : s + 10], sin[s : s + 10], mask) for s in (0, 41))
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)


def test_yarn_keeps_fast_pairs_slows_slow_ones_by_the_factor_and_ramps_between():
    yarn = YarnScaling(factor=40.0, original_length=4096)
    plain = 10_000.0 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    ratio = plain / yarn.apply(plain, 10_000.0)
    turns = 4096 * plain / (2 * math.pi)
    assert (ratio[turns > 32] == 1).all()
    torch.testing.assert_close(ratio[turns < 0.7], torch.full_like(ratio[turns < 0.7], 40.0))
    between = ratio[(turns < 30) & (turns > 1)]
    assert len(between) >= 8 and ((between > 1) & (between < 40)).all() and (between.diff() > 0).all()


def test_yarn_of_factor_one_is_the_plain_table():
    yarn = YarnScaling(factor=1.0, original_length=16)
    assert yarn.score_scale == yarn.table_scale == 1.0
    for ours, plain in zip(yarn_table(16, 50, 500.0, yarn), rotary_table(16, 50, 500.0), strict=True):
        torch.testing.assert_close(ours, plain)


def test_score_scale_of_yarn_sharpens_attention_as_a_scaled_core_would():
    torch.manual_seed(0)
    plain = LatentAttention(24, SMALLEST.attention).requires_grad_(False)
    sharp = copy.deepcopy(plain)
    sharp.score_scale = 1.9

    class Scaled(nn.Module):
        def forward(self, q, k, v, mask):
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * (1.9 * 10**-0.5)
            return (scores + mask).softmax(-1) @ v

    twin = copy.deepcopy(plain)
    twin.core = Scaled()
    x, (cos, sin), mask = torch.randn(2, 9, 24) * 5, rotary_table(4, 9, 100.0), torch.full((9, 9), -math.inf).triu(1)
    torch.testing.assert_close(sharp(x, cos, sin, mask), twin(x, cos, sin, mask), atol=1e-5, rtol=1e-5)
    assert (sharp(x, cos, sin, mask) - plain(x, cos, sin, mask)).abs().max() > 1e-4


def test_too_many_tokens_are_refused_with_the_numbers(model):
    with pytest.raises(InvalidInput, match="0 cached \\+ 65 new tokens = 65 exceed max_length=64"):
        model(tokens_of(1, 65))


def test_bfloat16_model_answers_in_bfloat16(model):
    answer = copy.deepcopy(model).to(torch.bfloat16)(tokens_of(1, 30))
    assert answer.dtype is torch.bfloat16 and answer.isfinite().all()


def test_checkpoint_predicts_far_more_than_the_most_frequent_byte(trained):
    quality = task_quality(trained, NextByteTask(), rows=64)
    assert quality["trivial"] < 0.27
    assert quality["low"] > 0.55
    facts = DeepSeekEntry().facts("tiny")["quality"]
    assert facts["low"] - 0.05 < quality["value"] < facts["high"] + 0.05
    assert facts["value"] > 0.62 and facts["samples"] == 512


def test_every_expert_of_the_checkpoint_works(trained):
    text = torch.cat([inputs[0] for inputs, _ in NextByteTask().batches(16)])
    mixtures = [m for m in trained.modules() if isinstance(m, MixtureOfExperts)]
    counts = []
    handles = [
        m.router.register_forward_hook(lambda _, __, out: counts.append(out[1].flatten().bincount(minlength=8)))
        for m in mixtures
    ]
    trained(text)
    for handle in handles:
        handle.remove()
    assert len(counts) == 3
    for count in counts:
        share = count / count.sum()
        assert share.min() > 0.02 and share.max() < 0.4, f"unevenly loaded: {share.tolist()}"


def test_teacher_forced_decode_equals_the_end_of_one_pass(trained):
    entry = DeepSeekEntry()
    workload = entry.workloads("tiny")[1]
    context, following = entry.make_inputs("tiny", workload, torch.Generator().manual_seed(3))
    full = trained(torch.cat((context, following), dim=1))[:, workload.length :]
    torch.testing.assert_close(entry.call(trained, workload, (context, following)), full, atol=5e-4, rtol=1e-4)
