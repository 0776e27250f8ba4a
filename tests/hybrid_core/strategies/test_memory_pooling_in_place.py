import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybrid_core.errors import StrategyUnsupported
from tests.hybrid_core.strategies.pooling_pieces import apply, noise, peak_bytes


class Scores(nn.Module):
    """Written-out attention: scale, mask and softmax each make a square matrix."""

    def forward(self, q, k, v, mask):
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        return torch.softmax(scores + mask, dim=-1) @ v


def test_in_place_lowers_the_peak_and_changes_no_bit():
    model, t = Scores().eval(), 64
    inputs = (noise(1, 2, t, 8), noise(1, 2, t, 8, seed=1), noise(1, 2, t, 8, seed=2), torch.zeros(t, t))
    changed = apply("in_place", model, *inputs).model
    assert torch.equal(changed(*inputs), model(*inputs))
    square = 2 * t * t * 4
    assert peak_bytes(model, *inputs) >= 3 * square  # scores, their sum with the mask, probabilities
    assert 2 * square <= peak_bytes(changed, *inputs) < 2.5 * square


def test_activation_modules_share_the_buffer_of_the_layer_before():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU()).eval(), noise(4, 3, 32, 32)
    changed = apply("in_place", model, x).model
    assert torch.equal(changed(x), model(x))
    assert 2 * peak_bytes(changed, x) == peak_bytes(model, x)


class ReadTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        y = self.layer(x)
        return torch.relu(y) + y


class OfAnInput(nn.Module):
    def forward(self, x):
        return torch.relu(x)


class OfAView(nn.Module):
    def forward(self, x):
        return torch.relu(x.view(-1))


class OfAMaybeView(nn.Module):
    def forward(self, x):
        return torch.relu(x.float().contiguous().reshape(-1, 2))


class OfAParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(noise(4))

    def forward(self, x):
        return torch.relu(self.weight)[: x.shape[0]]


class Growing(nn.Module):
    """The result is larger than its first operand."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x):
        return self.layer(x) + x


class WritesItself(nn.Module):
    """torch.fx would lose the write that the caller sees."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        y = self.layer(x)
        y += 1
        return torch.relu(y)


@pytest.mark.parametrize(
    "kind", [OfAnInput, OfAView, OfAMaybeView, OfAParameter, Growing, WritesItself], ids=lambda k: k.__name__
)
def test_what_somebody_else_may_see_is_not_overwritten(kind):
    torch.manual_seed(0)
    with pytest.raises(StrategyUnsupported, match="provably private"):
        apply("in_place", kind().eval(), noise(4, 4))


def test_a_result_with_two_readers_is_left_alone_but_the_sum_of_them_is_not():
    torch.manual_seed(0)
    model, x = ReadTwice().eval(), noise(4, 4)
    applied = apply("in_place", model, x)
    assert "1 elementwise" in applied.changes[0]
    assert torch.equal(applied.model(x), model(x))


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, bias=None, double=False):
        y = torch.relu(self.layer(x))
        if bias is not None:
            y = y + bias
        return y * 2 if double else y


def test_calls_of_another_form_run_the_original_forward():
    torch.manual_seed(0)
    model, x = Optional().eval(), noise(4, 4)
    changed = apply("in_place", model, x).model
    for call in (
        lambda m: m(x), lambda m: m(x, noise(4)), lambda m: m(x, double=True), lambda m: m(x=x, bias=noise(4)),
        lambda m: copy.deepcopy(m)(x),
    ):  # fmt: skip
        assert torch.equal(call(changed), call(model))


def test_a_copy_of_the_rewritten_model_uses_its_own_weights():
    torch.manual_seed(0)
    model, x = Optional().eval(), noise(4, 4)
    changed = apply("in_place", model, x).model
    twin = copy.deepcopy(changed)
    with torch.no_grad():
        changed.layer.weight.zero_()
    assert torch.equal(twin(x), model(x))


def test_functions_with_an_in_place_flag_and_products_share_one_buffer():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return F.silu(self.layer(x)) * x

    torch.manual_seed(0)
    model, x = Chain().eval(), noise(256, 4)
    changed = apply("in_place", model, x).model
    assert torch.equal(changed(x), model(x))
    assert peak_bytes(changed, x) == 256 * 4 * 4 < peak_bytes(model, x)
