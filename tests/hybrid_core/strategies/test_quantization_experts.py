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
from hybrid_core.strategies.precision.expert_stacks import find_stacks
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
    zeros = EXPERTS * (INNER + OUTER)
    assert weight_bytes(applied.model) <= STACK_BYTES // 4 + EXPERTS * OUTER + scales + zeros + 4 * EXPERTS
    assert "stored 2 stacks of experts as int8" in applied.changes[1]


def test_a_copy_of_a_model_with_int8_experts_answers_alike():
    changed = apply("int8_weight_only", Mixture()).model
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(changed)(inputs()), changed(inputs()))


def test_stacks_that_are_multiplied_at_once_are_left_and_the_share_is_told():
    model = Mixture(one_by_one=False).eval()
    applied = apply("int8_weight_only", model)
    told = " ".join(applied.changes)
    assert "left 2 stacks of experts in float32" in told and "stacks of experts (3-D parameters)" in told
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


def test_a_switch_that_does_not_help_is_put_back():
    class Stubborn(Mixture):
        def forward(self, x):
            return torch.einsum("bi,eoi->bo", x, self.up) + self.router(x).sum() + 0 * self.down.sum()

    applied = apply("int8_weight_only", Stubborn(switchable=True))
    assert applied.model.config._experts_implementation == "batched"


@pytest.mark.parametrize("setting", ["int8_dynamic", "float16", "int8_keep_ends"])
def test_settings_that_only_see_layers_tell_what_share_they_left(setting):
    model = nn.Sequential(nn.Linear(OUTER, OUTER), Mixture(), nn.Linear(OUTER, 16))
    assert "2 of them stacks of experts" in apply(setting, model).changes[-1]


def test_kernels_of_convolutions_and_tables_of_positions_are_no_stacks():
    class Others(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.positions = nn.Conv1d(8, 8, 3), nn.Parameter(torch.zeros(1, 16, 8))

    assert find_stacks(Others()) == []
