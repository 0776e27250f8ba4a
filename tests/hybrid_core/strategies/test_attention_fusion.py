import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.models.parts.blocks import EagerAttention
from hybrid_core.records import Workload
from hybrid_core.strategies.attention import export as export_module
from hybrid_core.strategies.attention.fused import MOST_FORMS, FusedAttention
from hybrid_core.strategies.attention.search import count_fused_calls
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.registry import get_strategy


def _spellings():
    spec = importlib.util.spec_from_file_location(
        "attention_spellings", Path(__file__).with_name("attention_spellings.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["attention_spellings"] = module
    spec.loader.exec_module(module)
    return module


spellings = _spellings()
DIM = spellings.DIM
SDPA = get_strategy("attention_fusion")


def inputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(kind):
    torch.manual_seed(1)
    return kind().eval()


def situation(*example):
    return Situation(example, lambda m, i: m(*i), Workload("forward", "forward", example[0].shape[0]))


def fused(model, *example):
    return SDPA.apply("sdpa", copy.deepcopy(model), situation(*example)).model


@pytest.mark.parametrize("kind", spellings.FUSED, ids=lambda k: k.__name__)
def test_each_spelling_runs_as_one_fused_call_with_equal_outputs(kind):
    model = made(kind)
    changed = fused(model, inputs(2, 10, DIM))
    for shape in ((2, 10, DIM), (5, 12, DIM)):
        x = inputs(*shape, seed=5)
        with torch.no_grad():
            torch.testing.assert_close(changed(x), model(x), rtol=1e-5, atol=1e-5)
            assert count_fused_calls(lambda: changed(x)) == 1  # noqa: B023
            assert count_fused_calls(lambda: model(x)) == 0  # noqa: B023


@pytest.mark.parametrize("kind", [spellings.FusedQkv, spellings.GroupedExpand, spellings.BmmWithViews], ids=str)
def test_a_batch_of_one_is_exported_anew_and_right(kind):
    model = made(kind)
    changed = fused(model, inputs(2, 10, DIM))
    x = inputs(1, 6, DIM)
    with torch.no_grad():
        torch.testing.assert_close(changed(x), model(x), rtol=1e-5, atol=1e-5)
    assert sum(len(m.forms.known) for m in changed.modules() if isinstance(m, FusedAttention)) == 2


@pytest.mark.parametrize("kind", spellings.REFUSED, ids=lambda k: k.__name__)
def test_what_is_not_plain_attention_is_refused_with_its_reason(kind):
    with pytest.raises(StrategyUnsupported, match=kind.reason):
        fused(made(kind), inputs(2, 10, DIM))


class Core(nn.Module):
    """Attention with everything passed in, as in a decode: the key grows, the mask may be absent."""

    def forward(self, q, k, v, mask=None):
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        return (scores if mask is None else scores + mask).softmax(-1) @ v


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.core = Core()

    def forward(self, q, k, v, mask=None):
        return self.core(q, k, v, mask)


def qkv(new, held, batch=2, seed=0):
    return tuple(inputs(batch, 4, n, 8, seed=seed + i) for i, n in enumerate((new, held, held)))


def test_a_growing_key_length_needs_one_export():
    changed = fused(Holder().eval(), *qkv(1, 6))
    for held in range(2, 40):
        q, k, v = qkv(1, held, seed=held)
        expected = F.scaled_dot_product_attention(q, k, v)
        torch.testing.assert_close(changed(q, k, v), expected, rtol=1e-5, atol=1e-5)
    assert len(changed.core.forms.known) == 1


def test_an_absent_mask_and_a_given_mask_are_two_forms():
    model = Holder().eval()
    changed = fused(model, *qkv(5, 5))
    mask = torch.full((5, 5), float("-inf")).triu(1)
    torch.testing.assert_close(changed(*qkv(5, 5), mask), model(*qkv(5, 5), mask), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(changed(*qkv(5, 5), mask=mask), model(*qkv(5, 5), mask), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(changed(*qkv(5, 5)), model(*qkv(5, 5)), rtol=1e-5, atol=1e-5)


def test_too_many_forms_are_an_error_and_not_a_silent_return_to_the_slow_form():
    changed = fused(Holder().eval(), *qkv(3, 3))
    core = changed.core
    core.forms.known.extend([core.forms.known[0]] * (MOST_FORMS - 1))
    with pytest.raises(StrategyUnsupported, match="more than 8 forms"):
        changed(*(t.double() for t in qkv(3, 3)))


def test_a_wrong_rewrite_would_be_caught_before_it_is_used(monkeypatch):
    wrong = F.scaled_dot_product_attention
    monkeypatch.setattr(
        "hybrid_core.strategies.attention.rewrite.functional.scaled_dot_product_attention",
        lambda *a, **k: wrong(*a, **{**k, "scale": 1.0}),
    )
    with pytest.raises(StrategyUnsupported, match="other results"):
        fused(Holder().eval(), *qkv(5, 5))


def test_parameters_are_the_same_objects_and_not_copied():
    model = made(spellings.FusedQkv)
    private = copy.deepcopy(model)
    before = {id(p) for p in private.parameters()}
    after = SDPA.apply("sdpa", private, situation(inputs(2, 10, DIM))).model
    assert {id(p) for p in after.parameters()} == before


def test_the_original_is_untouched_and_a_copy_of_the_fused_model_is_independent():
    model = nn.Sequential(made(spellings.FillInfinity), nn.LayerNorm(DIM)).eval()
    x = inputs(2, 10, DIM)
    expected = model(x)
    changed = fused(model, x)
    twin = copy.deepcopy(changed)
    with torch.no_grad():
        for p in changed.parameters():
            p.zero_()
    torch.testing.assert_close(twin(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_linear_layers_inside_are_still_quantized_once_and_new_forms_still_export():
    model = nn.Sequential(made(spellings.FillInfinity)).eval()
    x = inputs(2, 10, DIM)
    changed = fused(model, x)
    quantization = get_strategy("quantization")
    applied = quantization.apply("int8_dynamic", changed, situation(x))
    plain = quantization.apply("int8_dynamic", copy.deepcopy(model), situation(x)).model
    assert "4 of 4" in applied.changes[0]
    for shape in ((2, 10, DIM), (1, 4, DIM)):
        y = inputs(*shape, seed=4)
        with torch.no_grad():
            torch.testing.assert_close(applied.model(y), plain(y), rtol=1e-2, atol=1e-2)
            assert count_fused_calls(lambda: applied.model(y)) == 1  # noqa: B023


def test_casting_the_fused_model_exports_again_for_the_new_type():
    model = nn.Sequential(made(spellings.DivideAfter)).eval()
    x = inputs(2, 10, DIM)
    cast = get_strategy("quantization").apply("bfloat16", fused(model, x), situation(x)).model
    out = cast(x)
    assert out.dtype == torch.float32
    assert torch.linalg.vector_norm(out - model(x)) < 0.03 * torch.linalg.vector_norm(model(x))
    assert count_fused_calls(lambda: cast(x)) == 1


def test_attributes_of_the_original_stay_readable():
    assert fused(made(spellings.GroupedRepeat), inputs(2, 10, DIM)).kv_heads == 2


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(DIM, 4)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def test_the_library_attention_is_refused_because_it_is_fused_already():
    with pytest.raises(StrategyUnsupported, match="already calls the fused kernel"):
        fused(Block().eval(), inputs(2, 10, DIM))


def test_a_model_without_attention_is_refused():
    with pytest.raises(StrategyUnsupported, match="no softmax runs"):
        fused(nn.Linear(DIM, 4).eval(), inputs(2, DIM))


def test_training_mode_is_refused():
    with pytest.raises(StrategyUnsupported, match="training mode"):
        fused(made(spellings.NoScale).train(), inputs(2, 10, DIM))


def test_equal_modules_share_one_export():
    model = nn.Sequential(*(made(spellings.NoScale) for _ in range(3))).eval()
    changed = fused(model, inputs(2, 10, DIM))
    assert len({id(m.forms) for m in changed.modules() if isinstance(m, FusedAttention)}) == 1
    different = nn.Sequential(made(spellings.NoScale), made(spellings.ScaleTwice)).eval()
    changed = fused(different, inputs(2, 10, DIM))
    assert len({id(m.forms) for m in changed.modules() if isinstance(m, FusedAttention)}) == 2


class TwoInOne(spellings.Projected):
    """One module that attends twice, the second time with a soft cap."""

    def core(self, q, k, v):
        first = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return torch.tanh(first @ k.transpose(-2, -1)).softmax(-1) @ v


def test_what_one_module_fuses_and_leaves_is_counted_and_said():
    model, x = made(TwoInOne), inputs(2, 10, DIM)
    applied = SDPA.apply("sdpa", copy.deepcopy(model), situation(x))
    assert applied.changes[0].startswith("replaced 1 of 2 written-out attentions")
    assert "tanh" in applied.changes[1]
    torch.testing.assert_close(applied.model(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_exporter_never_sees_a_view_because_it_may_guard_what_it_is_a_view_of(monkeypatch):
    """DeepSeek's values are a slice of a projection. Whether the guard named the base or a stride was chance."""
    given, real = [], export_module.export
    monkeypatch.setattr(export_module, "export", lambda m, args, **more: given.extend(args) or real(m, args, **more))
    core, project = FusedAttention(EagerAttention()), nn.Linear(128, 8 * 128, bias=False)
    x, rotary, queries, mask = inputs(1, 12, 128), inputs(1, 1, 12, 32), inputs(1, 8, 12, 96), torch.zeros(12, 12)

    def mixed():
        plain, values = torch.split(project(x).view(1, 12, 8, -1).transpose(1, 2), [64, 64], dim=-1)
        return core(queries, torch.cat((plain, rotary.expand(-1, 8, -1, -1)), dim=-1), values, mask), values

    with torch.no_grad():
        first, values = mixed()
    assert values._base is not None and len(given) == 4
    assert [tensor._base for tensor in given] == [None] * 4
    assert given[2].stride() == values.stride()
    with torch.inference_mode():  # where a slice knows no base
        again, _ = mixed()
    torch.testing.assert_close(again.clone(), first)
    assert len(core.forms.known) == 1
