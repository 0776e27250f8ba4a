"""Experts in stacked 3-D parameters: stored as int8 where the model's code can use them, told about where it cannot."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import linear as product

from hybrid_core.measurement.memory import weight_bytes
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.precision import torchao_library
from hybrid_core.strategies.precision.expert_stacks import find_stacks
from hybrid_core.strategies.precision.int8_experts import DynamicStack
from hybrid_core.strategies.precision.int8_stack import Int8Stack
from hybrid_core.strategies.registry import get_strategy

STRATEGY = get_strategy("quantization")
EXPERTS, INNER, OUTER = 4, 48, 32
STACK_BYTES = 4 * 2 * EXPERTS * INNER * OUTER


class Mixture(nn.Module):
    """Two stacks of matrices and a router; `one_by_one` indexes an expert, otherwise all are multiplied at once."""

    def __init__(self, one_by_one=True, switchable=False):
        super().__init__()
        torch.manual_seed(0)
        self.router, self.one_by_one = nn.Linear(OUTER, EXPERTS), one_by_one
        self.up = nn.Parameter(torch.randn(EXPERTS, INNER, OUTER) / OUTER**0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, OUTER, INNER) / INNER**0.5)
        if switchable:
            self.config = SimpleNamespace(_experts_implementation="batched")

    def forward(self, x):
        gates = self.router(x).softmax(-1)
        switched = hasattr(self, "config") and self.config._experts_implementation == "eager"
        if self.one_by_one or switched:
            made = [product(product(x, self.up[e]).relu(), self.down[e]) for e in range(EXPERTS)]
            return sum(gates[:, e : e + 1] * y for e, y in enumerate(made))
        inner = torch.einsum("bi,eoi->beo", x, self.up).relu()
        return (torch.einsum("beo,eio->bei", inner, self.down) * gates.unsqueeze(-1)).sum(1)


def inputs(seed=1):
    return torch.randn(8, OUTER, generator=torch.Generator().manual_seed(seed))


def apply(setting, model):
    situation = Situation((inputs(),), lambda m, i: m(*i), Workload("forward", "forward", 8))
    return STRATEGY.apply(setting, copy.deepcopy(model).eval(), situation)


def rounded(stack):
    """Symmetric int8 of each row of each expert, by the textbook formula."""
    scale = stack.abs().amax(-1, keepdim=True) / 127.5
    return (stack / scale).round().clamp(-128, 127) * scale


def test_stacks_are_int8_and_answer_with_their_rounded_weights():
    model = Mixture().eval()
    applied = apply("int8_weight_only", model)
    reference = copy.deepcopy(model)
    with torch.no_grad():
        reference.up.copy_(rounded(model.up))
        reference.down.copy_(rounded(model.down))
        expected, found, before = reference(inputs(5)), applied.model(inputs(5)), model(inputs(5))
    assert (found - expected).norm() < 0.005 * expected.norm()  # the router is int8 as well
    assert (found - before).norm() > 0
    scales = 4 * EXPERTS * (INNER + OUTER) + 4 * EXPERTS
    assert weight_bytes(applied.model) <= STACK_BYTES // 4 + EXPERTS * OUTER + scales + 4 * EXPERTS
    assert "stored 2 stacks of experts as int8" in applied.changes[1]


def rounded_product(x, weight):
    """Both sides symmetric int8 by row, multiplied in double precision: the arithmetic that is promised."""
    steps, scale = x.double().abs().amax(-1, keepdim=True) / 127, weight.double().abs().amax(-1, keepdim=True) / 127.5
    integers = (x.double() / steps).round(), (weight.double() / scale).round().clamp(-128, 127)
    return (integers[0] @ integers[1].mT) * steps * scale.mT


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_a_product_with_one_expert_rounds_both_sides_as_promised(rows):
    generator = torch.Generator().manual_seed(4)
    stack, x = torch.randn(3, 10, 24, generator=generator), torch.randn(2, rows, 24, generator=generator)
    bias = torch.randn(10, generator=generator)
    small = DynamicStack(*torchao_library.int8_rows(stack))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = product(x, small[torch.tensor(2)], bias)
    assert found.shape == (2, rows, 10)
    assert torch.allclose(found.double(), rounded_product(x, stack[2]) + bias, atol=1e-4)
    assert small.products == 2 and torch.equal(small[1] + 0, small.widened()[1])


def test_int8_dynamic_rounds_the_inputs_of_each_expert():
    model = Mixture().eval()
    applied = apply("int8_dynamic", model)
    assert type(applied.model.up) is DynamicStack
    assert applied.changes[1].startswith("stored 2 stacks of experts as int8, and round their inputs at each call")
    with torch.inference_mode():
        gates = applied.model.router(inputs(5)).softmax(-1).double()
        made = [
            rounded_product(rounded_product(inputs(5), u).relu(), d) for u, d in zip(model.up, model.down, strict=True)
        ]
        expected = sum(gates[:, e : e + 1] * y for e, y in enumerate(made))
        found, before = applied.model(inputs(5)).double(), model(inputs(5)).double()
        assert torch.equal(copy.deepcopy(applied.model)(inputs(5)).double(), found)
    # A value between two steps may fall to either side in the second product, no more.
    assert (found - expected).norm() < min(5e-3 * expected.norm(), 0.5 * (found - before).norm())
    assert weight_bytes(applied.model) < weight_bytes(model) / 3


def test_experts_that_are_multiplied_at_once_stay_float32_under_int8_dynamic_which_says_so():
    applied = apply("int8_dynamic", Mixture(one_by_one=False))
    assert type(applied.model.up) is nn.Parameter
    assert (
        f"left 2 stacks of experts ({EXPERTS}x{OUTER}x{INNER}, {EXPERTS}x{INNER}x{OUTER}) in float32"
        in (applied.changes[1])
    )
    assert "one expert at a time" in applied.changes[1]


def test_a_copy_of_a_model_with_int8_experts_answers_alike():
    changed = apply("int8_weight_only", Mixture()).model
    with torch.inference_mode():
        assert torch.equal(copy.deepcopy(changed)(inputs()), changed(inputs()))


def test_stacks_that_are_multiplied_at_once_answer_like_single_experts():
    single, together = (apply("int8_weight_only", Mixture(one)).model for one in (True, False))
    with torch.inference_mode():
        assert torch.allclose(single(inputs(5)), together(inputs(5)), atol=1e-5)


def test_a_stack_reads_as_its_rounded_weights_however_it_is_read():
    stack = nn.Parameter(torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(3)), requires_grad=False)
    small = Int8Stack(*torchao_library.int8_rows(stack))
    plain, many = small.widened(), torch.tensor([4, 0, 0])
    assert (plain - stack).abs().max() < stack.abs().max() / 127
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            for index in (2, torch.tensor(3), many, slice(1, 3), (1, slice(None), 2)):
                assert torch.equal(small[index], plain[index]), index
            assert torch.equal(small.transpose(-2, -1) @ torch.ones(6, 2), plain.transpose(-2, -1) @ torch.ones(6, 2))
            assert torch.equal(small.mT, plain.mT) and all(map(torch.equal, small.unbind(0), plain.unbind(0)))
            assert torch.equal(torch.einsum("eoi->ei", small), torch.einsum("eoi->ei", plain))
            assert type(small.clone()) is Int8Stack and torch.equal(copy.deepcopy(small).widened(), plain)


def test_stacks_that_the_code_cannot_read_are_left_and_the_share_is_told():
    class Peeking(Mixture):
        def forward(self, x):
            assert type(self.up) is nn.Parameter
            return super().forward(x)

    model = Peeking().eval()
    applied = apply("int8_weight_only", model)
    told = " ".join(applied.changes)
    assert (
        "left 2 stacks of experts (4x32x48, 4x48x32) in float32" in told
        and "stacks of experts (3-D parameters)" in told
    )
    share = STACK_BYTES / (STACK_BYTES + 4 * EXPERTS * OUTER)
    assert f"left {share:.0%} of the weight bytes in float32" in told
    with torch.no_grad():
        assert (applied.model(inputs(5)) - model(inputs(5))).norm() < 0.02 * model(inputs(5)).norm()


def test_a_model_that_can_multiply_one_expert_at_a_time_is_switched():
    model = Mixture(one_by_one=False, switchable=True).eval()
    applied = apply("int8_weight_only", model)
    assert applied.model.config._experts_implementation == "eager" and "one at a time" in applied.changes[1]
    assert model.config._experts_implementation == "batched"
    assert weight_bytes(applied.model) < weight_bytes(model) / 3


def test_a_switch_that_breaks_the_model_is_put_back():
    class Stubborn(Mixture):
        def forward(self, x):
            if self.config._experts_implementation == "eager":
                raise ValueError("no such implementation")
            return super().forward(x)

    applied = apply("int8_weight_only", Stubborn(one_by_one=False, switchable=True))
    assert applied.model.config._experts_implementation == "batched"
    assert "stored 2 stacks" in applied.changes[1] and "one at a time" not in applied.changes[1]


@pytest.mark.parametrize("setting", ["int8_weight_only", "int8_dynamic"])
def test_the_experts_of_a_transformers_mixture_are_stored(setting):
    transformers = pytest.importorskip("transformers", reason="transformers is in requirements-dev.txt")
    config = transformers.DeepseekV3Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, moe_intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, n_routed_experts=8, num_experts_per_tok=2, n_group=2,
        topk_group=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, v_head_dim=16, qk_nope_head_dim=16,
        first_k_dense_replace=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.DeepseekV3ForCausalLM(config).eval()
    ids = torch.arange(12).reshape(1, 12)
    situation = Situation((ids,), lambda m, i: m(*i, use_cache=False).logits, Workload("forward", "forward", 1))
    applied = STRATEGY.apply(setting, copy.deepcopy(model), situation)
    assert any(change.startswith("stored 2 stacks of experts as int8") for change in applied.changes)
    with torch.inference_mode():
        expected, found = situation.call(model, (ids,)), situation.call(applied.model, (ids,))
    assert (found - expected).norm() < 0.05 * expected.norm()
    assert weight_bytes(applied.model) < weight_bytes(model) / 2.7


@pytest.mark.parametrize("setting", ["float16", "int4_group32"])
def test_settings_that_only_see_layers_tell_what_share_they_left(setting):
    model = nn.Sequential(nn.Linear(OUTER, OUTER), Mixture(), nn.Linear(OUTER, 16))
    assert "2 of them stacks of experts" in apply(setting, model).changes[-1]


def test_kernels_of_convolutions_and_tables_of_positions_are_no_stacks():
    class Others(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.positions = nn.Conv1d(8, 8, 3), nn.Parameter(torch.zeros(1, 16, 8))

    assert find_stacks(Others()) == []
