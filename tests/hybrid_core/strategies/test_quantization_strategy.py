import copy

import pytest
import torch
from torch import nn
from torch.ao.nn.quantized import dynamic as quantized_dynamic

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.precision import int8_dynamic as module
from hybrid_core.strategies.registry import get_strategy

STRATEGY = get_strategy("quantization")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apply(setting, model, *example):
    situation = Situation(example, lambda m, i: m(*i), Workload("forward", "forward", 4))
    return STRATEGY.apply(setting, copy.deepcopy(model).eval(), situation)


def linear(inputs, outputs, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs)


def packed_bytes(model):
    """int8 weights as the kernel packs them, by what unpacking gives back."""
    return sum(m._weight_bias()[0].int_repr().numel() for m in model.modules() if type(m) is quantized_dynamic.Linear)


def test_all_ones_sum_to_the_right_number_and_do_not_saturate():
    layer = nn.Linear(512, 4, bias=False)
    nn.init.ones_(layer.weight)
    out = apply("int8_dynamic", nn.Sequential(layer), torch.ones(2, 512)).model(torch.ones(2, 512))
    assert (out - 512).abs().max() < 512 * 0.01


def test_the_probe_refuses_an_engine_that_saturates(monkeypatch):
    class Saturating(nn.Module):
        def forward(self, x):
            return x.sum(-1, keepdim=True).clamp(max=259.0)

    monkeypatch.setattr(module, "packed_by", lambda engine, layer: Saturating())
    assert module.correct_engine() is None
    assert "adds correctly" in STRATEGY.unavailable("int8_dynamic", "cpu")


def test_int8_error_is_within_what_seven_bits_of_input_and_eight_of_weight_allow():
    model = nn.Sequential(linear(64, 32)).eval()
    x = noise(16, 64)
    found = apply("int8_dynamic", model, x).model(x)
    weight, bias = model[0].weight, model[0].bias
    step_x, step_w = (x.max() - x.min()) / 127, weight.abs().amax(1) / 127.0
    bound = 64 * (step_x * weight.abs().amax(1) / 2 + step_w * x.abs().max() / 2) * 1.1
    assert ((found - (x @ weight.T + bias)).abs() <= bound).all()


def test_weights_take_a_quarter_of_the_bytes():
    model = nn.Sequential(linear(64, 32), nn.ReLU(), linear(32, 16)).eval()
    changed = apply("int8_dynamic", model, noise(2, 64)).model
    assert packed_bytes(changed) == 64 * 32 + 32 * 16
    assert not [p for p in changed.parameters()]


def test_each_output_channel_has_its_own_scale():
    layer = linear(16, 2)
    with torch.no_grad():
        layer.weight[0] *= 1000
    x = noise(8, 16)
    found, expected = apply("int8_dynamic", nn.Sequential(layer), x).model(x), layer(x)
    assert (found - expected)[:, 1].norm() < 0.05 * expected[:, 1].norm()


def test_a_layer_used_in_two_places_is_packed_once():
    shared = linear(8, 8)
    model = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared)).eval()
    applied = apply("int8_dynamic", model, noise(2, 8))
    assert applied.model[0] is applied.model[2][0]


def test_layers_inside_traced_graphs_are_found():
    traced = torch.fx.symbolic_trace(nn.Sequential(linear(8, 8), nn.ReLU(), linear(8, 4)).eval())
    assert "2 of 2" in apply("int8_dynamic", traced, noise(2, 8)).changes[0]


def test_no_linear_layer_is_refused():
    with pytest.raises(StrategyUnsupported, match="no float32 nn.Linear"):
        apply("int8_dynamic", nn.Conv2d(3, 4, 3), noise(1, 3, 8, 8))


def test_a_model_that_reads_its_weights_by_hand_is_refused_and_says_so():
    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear(4, 4)

        def forward(self, x):
            return x @ self.inner.weight.t()

    with pytest.raises(StrategyUnsupported, match="own code fails"):
        apply("int8_dynamic", ByHand(), noise(2, 4))


def test_int8_is_not_offered_on_a_gpu():
    assert "CPU only" in STRATEGY.unavailable("int8_dynamic", "cuda:0")


def test_the_engine_chosen_by_others_is_put_back():
    before = torch.backends.quantized.engine
    apply("int8_dynamic", nn.Sequential(linear(8, 4)), noise(2, 8))
    assert torch.backends.quantized.engine == before


def test_bfloat16_computes_what_casting_by_hand_computes():
    model = nn.Sequential(linear(16, 32), nn.GELU(), linear(32, 4)).eval()
    x = noise(8, 16)
    found = apply("bfloat16", model, x).model(x)
    by_hand = copy.deepcopy(model).to(torch.bfloat16)(x.to(torch.bfloat16)).float()
    assert found.dtype == torch.float32 and torch.equal(found, by_hand)


def test_bfloat16_leaves_integers_and_other_objects_alone():
    seen = []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 4)

        def forward(self, tokens, extra=None):
            seen.append((tokens.dtype, extra))
            return {"logits": self.table(tokens), "tokens": tokens}

    marker = object()
    changed = apply("bfloat16", Model(), torch.tensor([[1, 2]])).model
    out = changed(torch.tensor([[3]]), extra=marker)
    assert seen[-1] == (torch.int64, marker)
    assert out["logits"].dtype == torch.float32 and out["tokens"].dtype == torch.int64


def test_the_lowest_float32_in_a_mask_buffer_does_not_become_a_row_of_nan():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear(4, 4)
            self.register_buffer("mask", torch.full((4,), torch.finfo(torch.float32).min))

        def forward(self, x):
            return (self.inner(x) + self.mask).softmax(-1)

    assert apply("bfloat16", Masked(), noise(2, 4)).model(noise(2, 4)).isfinite().all()


def test_frequencies_that_are_multiplied_by_positions_stay_precise():
    class Rotary(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear(8, 8)
            self.register_buffer("frequency", 10_000.0 ** (-torch.arange(8) / 8))

        def forward(self, x):
            angle = torch.arange(x.shape[1])[:, None] * self.frequency.float()
            return self.inner(x) * angle.cos().to(x.dtype)

    applied = apply("bfloat16", Rotary(), noise(1, 600, 8))
    assert applied.model.frequency.dtype == torch.float32
    assert any("'frequency' stay float32" in change for change in applied.changes)
