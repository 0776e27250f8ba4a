"""Weight-only formats, float16 and float8 against plain arithmetic: values, bytes, what is kept and what is refused."""

import copy
import importlib.util

import pytest
import torch
from torch import nn
from torch.nn.functional import linear as product

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.export.state import put_in_place, tensors_of
from hybrid_core.measurement.memory import weight_bytes
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.precision import float8, int8_weight_only, torchao_library
from hybrid_core.strategies.precision.saturation import adds_correctly
from hybrid_core.strategies.registry import get_strategy

STRATEGY = get_strategy("quantization")
WEIGHT_ONLY = ("int8_weight_only", "int4_group32", "int4_group128", "float16")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def situation_of(*example):
    return Situation(example, lambda m, i: m(*i), Workload("forward", "forward", 4))


def apply(setting, model, *example):
    return STRATEGY.apply(setting, copy.deepcopy(model).eval(), situation_of(*example))


def linear(inputs, outputs, seed=0, bias=True):
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias)


def relative(found, expected):
    return float((found - expected).detach().norm() / expected.detach().norm())


def symmetric_int8(weight):
    """Round to 255 steps, one scale per row: the textbook formula."""
    scale = weight.abs().amax(1, keepdim=True) / 127.5
    return (weight / scale).round().clamp(-128, 127) * scale


def test_int8_weights_are_the_textbook_rounding():
    layer, x = linear(64, 32), noise(8, 64)
    found = apply("int8_weight_only", nn.Sequential(layer), x).model(x)
    assert relative(found, product(x, symmetric_int8(layer.weight), layer.bias)) < 1e-3  # halves may go either way


def test_each_row_of_int8_has_its_own_scale():
    layer, x = linear(16, 2), noise(8, 16)
    with torch.no_grad():
        layer.weight[0] *= 1000
    found = apply("int8_weight_only", nn.Sequential(layer), x).model(x)
    assert relative(found[:, 1], layer(x)[:, 1]) < 0.02


@pytest.mark.parametrize("group", [32, 128])
def test_int4_answers_with_the_weights_that_it_packed(group):
    layer, x = linear(256, 48), noise(8, 256)
    values, scale, zero = torchao_library.int4_groups(layer.weight, group)
    assert int(values.min()) >= 0 and int(values.max()) <= 15
    blocks = (values.float().reshape(48, -1, group) - 8) * scale.unsqueeze(-1) + zero.unsqueeze(-1)
    found = apply(f"int4_group{group}", nn.Sequential(layer), x).model(x)
    assert relative(found, product(x, blocks.reshape(48, 256), layer.bias)) < 0.01  # bfloat16 holds 8 bits


def test_int4_is_no_worse_than_rounding_between_the_ends_of_each_group():
    layer, x = linear(256, 64), noise(16, 256)
    blocks = layer.weight.detach().reshape(64, -1, 32)
    low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
    step = (high - low) / 15
    plain = (((blocks - low) / step).round() * step + low).reshape(64, 256)
    expected = layer(x)
    error_of_plain = relative(product(x, plain, layer.bias), expected)
    assert relative(apply("int4_group32", nn.Sequential(layer), x).model(x), expected) < 1.1 * error_of_plain


def test_small_groups_are_closer_than_large_ones():
    layer, x = linear(512, 64), noise(16, 512)
    fine, coarse = (apply(f"int4_group{g}", nn.Sequential(layer), x).model(x) for g in (32, 128))
    assert relative(fine, layer(x)) < relative(coarse, layer(x))


def test_float16_rounds_the_weights_and_nothing_else():
    layer, x = linear(64, 32), noise(8, 64)
    found = apply("float16", nn.Sequential(layer), x).model(x)
    assert relative(found, product(x, layer.weight.half().float(), layer.bias)) < 1e-6


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("int8_weight_only", 64 * 128 + 64 * 4),
        ("int4_group32", 64 * 128 // 2 + 64 * (128 // 32) * 2 * 2),
        ("int4_group128", 64 * 128 // 2 + 64 * 1 * 2 * 2),
        ("float16", 64 * 128 * 2),
    ],
)
def test_the_bytes_held_are_what_the_format_needs(setting, expected):
    model = nn.Sequential(linear(128, 64, bias=False))
    assert weight_bytes(model) == 64 * 128 * 4
    assert weight_bytes(apply(setting, model, noise(2, 128)).model) == expected


@pytest.mark.parametrize("setting", [*WEIGHT_ONLY, "int8_keep_ends"])
def test_the_original_is_untouched_and_a_copy_answers_alike(setting):
    model = nn.Sequential(linear(128, 128), nn.ReLU(), linear(128, 128), nn.ReLU(), linear(128, 16)).eval()
    before, x = copy.deepcopy(model.state_dict()), noise(4, 128)
    applied = apply(setting, model, x)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    kept = x.clone()
    assert torch.equal(copy.deepcopy(applied.model)(x), applied.model(x)) and torch.equal(x, kept)
    assert applied.model(noise(9, 128)).shape == (9, 16) and applied.model(noise(2, 3, 128)).shape == (2, 3, 16)


@pytest.mark.parametrize("setting", [*WEIGHT_ONLY, "int8_keep_ends", "int8_dynamic", "mixed_5"])
def test_nothing_global_changes(setting):
    model = nn.Sequential(linear(128, 128), nn.ReLU(), linear(128, 128), nn.ReLU(), linear(128, 16)).eval()
    torch.manual_seed(7)
    before = torch.get_rng_state(), torch.backends.quantized.engine, torch.get_num_threads(), torch.is_grad_enabled()
    apply(setting, model, noise(4, 128))
    after = torch.get_rng_state(), torch.backends.quantized.engine, torch.get_num_threads(), torch.is_grad_enabled()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


@pytest.mark.parametrize("setting", [*WEIGHT_ONLY, "int8_dynamic"])
def test_stored_weights_can_be_taken_apart_and_put_back(setting):
    """An exported folder writes them and a fresh interpreter reads them into a model built the same way."""
    chain = nn.Sequential(linear(128, 128), nn.ReLU(), linear(128, 16)).eval()
    other, x = copy.deepcopy(chain), noise(4, 128)
    with torch.no_grad():
        other[0].weight *= 0.5
    one, two = (apply(setting, model, x).model for model in (chain, other))
    assert not torch.equal(one(x), two(x))
    assert put_in_place(two, {name: tensor.clone() for name, tensor in tensors_of(one).items()}) == []
    assert torch.equal(one(x), two(x))


def test_a_layer_that_groups_do_not_divide_is_skipped_and_named():
    model = nn.ModuleDict({"odd": linear(48, 128), "even": linear(128, 16), "narrow": linear(16, 3)})
    model.forward = lambda x: model["narrow"](model["even"](model["odd"](x)))
    chain = nn.Sequential(*model.values())
    applied = apply("int4_group128", chain, noise(2, 48))
    assert type(applied.model[0]) is nn.Linear and type(applied.model[2]) is nn.Linear
    assert "packed 1 of 3" in applied.changes[0] and "skipped 0, 2" in applied.changes[1]


def test_no_layer_that_fits_is_a_refusal_with_the_sizes():
    with pytest.raises(StrategyUnsupported, match=r"divisible by 128.*in_features here: 48.*smaller group"):
        apply("int4_group128", nn.Sequential(linear(48, 16)), noise(2, 48))


@pytest.mark.parametrize("setting", [*WEIGHT_ONLY, "int8_keep_ends", "float8"])
def test_a_model_without_layers_is_refused(setting):
    with pytest.raises(StrategyUnsupported):
        apply(setting, nn.Sequential(nn.Conv2d(3, 4, 3)), noise(1, 3, 8, 8))


@pytest.mark.parametrize("setting", [*WEIGHT_ONLY, "int8_dynamic"])
def test_a_model_that_is_one_layer_is_replaced_as_well(setting):
    layer, x = linear(128, 16), noise(4, 128)
    applied = apply(setting, layer, x)
    assert type(applied.model) is not nn.Linear
    assert 0 < relative(applied.model(x), layer(x)) < 0.2


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(64, 32), linear(32, 32), nn.Linear(32, 64, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.mix(self.embed(ids)))


@pytest.mark.parametrize("setting", ["int8_weight_only", "int4_group32", "float16"])
def test_a_head_tied_to_its_embedding_is_kept_because_a_copy_would_add_bytes(setting):
    model, ids = Tied().eval(), torch.arange(8).reshape(1, 8)
    applied = apply(setting, model, ids)
    assert type(applied.model.head) is nn.Linear and applied.model.head.weight is applied.model.embed.weight
    assert weight_bytes(applied.model) < weight_bytes(model)


def test_the_ends_are_found_by_what_runs_first_and_last():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.middle, self.first = linear(16, 4), linear(16, 16), linear(8, 16)

        def forward(self, x):
            return self.last(self.middle(self.first(x)))

    changed = apply("int8_keep_ends", Backwards(), noise(2, 8)).model
    assert type(changed.first) is nn.Linear and type(changed.last) is nn.Linear
    assert type(changed.middle) is not nn.Linear


def test_what_stays_in_float32_is_told_as_a_share_of_the_weight_bytes():
    class WithTable(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.mix = nn.Embedding(96, 32), linear(32, 32)

        def forward(self, ids):
            return self.mix(self.table(ids))

    changes = apply("int8_weight_only", WithTable(), torch.arange(4)).changes
    assert changes[-1] == "left 75% of the weight bytes in float32: table.weight"  # 96 of 128 rows of 32


def test_weights_beyond_the_range_of_float16_are_refused():
    layer = linear(8, 8)
    with torch.no_grad():
        layer.weight[0, 0] = 70000.0
    with pytest.raises(StrategyUnsupported, match=r"70000.*65504.*bfloat16"):
        apply("float16", nn.Sequential(layer), noise(2, 8))


def test_without_torchao_the_reason_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for setting in ("int8_weight_only", "int4_group32"):
        assert "pip install torchao" in STRATEGY.unavailable(setting, "cpu")


def test_float8_is_refused_where_there_is_no_such_arithmetic(monkeypatch):
    assert "compute capability 8.9" in STRATEGY.unavailable("float8", "cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 6))
    assert "has 8.6" in STRATEGY.unavailable("float8", "cuda:0")
    assert not float8.too_old((9, 0))


def test_a_kernel_that_saturates_is_found_whatever_the_format():
    class Saturating(nn.Module):
        """Sums of pairs end at 32,767, as in the 16-bit lanes of AVX2."""

        def __init__(self, layer):
            super().__init__()
            self.weight = layer.weight.detach().clone()

        def forward(self, x):
            a = (x / x.abs().max() * 255).round()
            w = (self.weight / self.weight.abs().max() * 127).round()
            pairs = (a.unsqueeze(1) * w).unflatten(-1, (-1, 2)).sum(-1).clamp(-32768, 32767)
            return pairs.sum(-1) * x.abs().max() * self.weight.abs().max() / (255 * 127)

    assert not adds_correctly(Saturating)
    assert adds_correctly(int8_weight_only.Int8WeightLinear) and adds_correctly(lambda layer: layer)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("setting", ["float16", "float8", "int4_group32", "int8_weight_only"])
def test_formats_run_on_a_gpu_close_to_float32(setting):
    if (reason := STRATEGY.unavailable(setting, "cuda:0")) is not None:
        pytest.skip(reason)
    model, x = nn.Sequential(linear(128, 128), nn.ReLU(), linear(128, 64)).eval().cuda(), noise(16, 128).cuda()
    situation = Situation((x,), lambda m, i: m(*i), Workload("forward", "forward", 16), torch.device("cuda:0"))
    found = STRATEGY.apply(setting, copy.deepcopy(model), situation).model(x)
    assert found.dtype == torch.float32 and relative(found, model(x)) < 0.2
