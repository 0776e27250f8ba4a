"""PyTorch's own attention layer calls the fused kernel afterwards, unless somebody reads its weights."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.attention.causal_kernel import counted_skips
from hybrid_core.strategies.attention.multihead import DROPPED, FusedMultihead
from hybrid_core.strategies.attention_fusion import ATTENTION_FUSION
from hybrid_core.strategies.base import Situation
from tests.hybrid_core.strategies.multihead_spellings import (
    DIM,
    HEADS,
    KEPT,
    STORING,
    Reads,
    Uses,
    causal_bool,
    causal_float,
)

FUSION = ATTENTION_FUSION


def inputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fused(model, *example, setting="sdpa"):
    situation = Situation(example, lambda m, i: m(*i), Workload("forward", "forward", example[0].shape[0]))
    return FUSION.apply(setting, copy.deepcopy(model), situation)


class Kernels(TorchDispatchMode):
    """The operators that really ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def kernels(model, *given):
    with torch.no_grad(), Kernels() as ran:
        model(*given)
    return ran.names


def check(model, changed, *given):
    """Equal outputs; the square matrix was stored before and is not any more."""
    with torch.no_grad():
        torch.testing.assert_close(changed(*given), model(*given), rtol=1e-5, atol=1e-5)
    square = ("aten::_softmax", "aten::_native_multi_head_attention", "aten::_transformer_encoder_layer_fwd")
    assert any(name in square for name in kernels(model, *given))
    after = kernels(changed, *given)
    assert not any(name in square for name in after)
    assert any("scaled_dot_product" in name for name in after)


@pytest.mark.parametrize("name", STORING)
def test_each_way_of_calling_it_becomes_fused_with_equal_outputs(name):
    model = STORING[name]().eval()
    applied = fused(model, inputs(2, 10, DIM))
    assert "nn.MultiheadAttention" in applied.changes[0]
    for shape in ((2, 10, DIM), (3, 7, DIM)):
        check(model, applied.model, inputs(*shape, seed=3))


def test_without_weights_and_off_the_fast_path_it_is_fused_already_and_refused():
    model = KEPT["fused already (no weights, length first)"]().eval()
    with pytest.raises(StrategyUnsupported, match="already calls the fused kernel"):
        fused(model, inputs(2, 10, DIM))


@pytest.mark.parametrize(
    "read",
    [
        lambda out, w: (out, w),
        lambda out, w: out * w.mean(),
        lambda out, w: out + torch.sum(w),
        lambda out, w: w @ out,
        lambda out, w: out + (w + 1).sum(),
        lambda out, w: {"out": out, "maps": [w]},
    ],
)
def test_weights_that_are_used_or_returned_are_a_refusal(read):
    with pytest.raises(StrategyUnsupported, match="weights are (used|returned)"):
        fused(Reads(read).eval(), inputs(2, 10, DIM))


def test_only_the_layer_whose_weights_are_read_stays_as_it_was():
    model = nn.Sequential(Uses(batch_first=True), Reads(lambda out, w: out * w.mean()), Uses(batch_first=True)).eval()
    x = inputs(2, 10, DIM)
    applied = fused(model, x)
    assert [isinstance(m.attention, FusedMultihead) for m in applied.model] == [True, False, True]
    assert any("left as it was: 1.attention" in change for change in applied.changes)
    torch.testing.assert_close(applied.model(x), model(x), rtol=1e-5, atol=1e-5)


def test_weights_read_later_than_in_the_example_are_a_loud_error():
    model = Reads(lambda out, w: out if out.shape[0] == 2 else out * w.mean()).eval()
    changed = fused(model, inputs(2, 10, DIM)).model
    with pytest.raises(StrategyUnsupported, match="weights are used"):
        changed(inputs(3, 10, DIM))
    assert copy.deepcopy(DROPPED) is not None


def test_the_encoder_layer_of_the_library_loses_its_own_kernel_and_stays_equal():
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(DIM, HEADS, 48, batch_first=True), 2).eval()
    applied = fused(model, inputs(2, 10, DIM))
    assert "made 2 nn.MultiheadAttention" in applied.changes[0]
    check(model, applied.model, inputs(3, 8, DIM))


def test_nested_tensors_of_the_library_s_encoder_are_refused_with_what_to_do():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(DIM, HEADS, 48, batch_first=True), 2).eval()
    example = (inputs(2, 10, DIM),)
    situation = Situation(
        example,
        lambda m, i: m(i[0], src_key_padding_mask=torch.arange(10).expand(2, -1) >= torch.tensor([[10], [7]])),
        Workload("forward", "forward", 2),
    )
    try:
        applied = FUSION.apply("sdpa", copy.deepcopy(model), situation)
    except StrategyUnsupported as refusal:
        assert "enable_nested_tensor=False" in str(refusal)  # noqa: PT017
    else:
        torch.testing.assert_close(
            situation.call(applied.model, example), situation.call(model, example), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("mask", [causal_bool, causal_float])
def test_the_causal_setting_skips_what_a_causal_mask_hides(mask):
    model = Uses({"attn_mask": mask}, batch_first=True).eval()
    changed = fused(model, inputs(2, 10, DIM), setting="sdpa_causal").model
    x = inputs(3, 7, DIM, seed=2)
    with torch.no_grad(), counted_skips() as skips:
        torch.testing.assert_close(changed(x), model(x), rtol=1e-5, atol=1e-5)
    assert skips == [1]


def test_parameters_are_the_same_objects():
    model = Uses(batch_first=True).eval()
    before = {id(p) for p in model.parameters()}
    situation = Situation((inputs(2, 10, DIM),), lambda m, i: m(*i), Workload("forward", "forward", 2))
    assert {id(p) for p in FUSION.apply("sdpa", model, situation).model.parameters()} == before
