"""Bytes of models whose peak and weights follow from arithmetic on when each result lives."""

import pytest
import torch
from torch import nn

from hybrid_core.evaluation import case_from_module
from hybrid_core.measurement import memory

FLOAT = 4
ROWS = 32


class Net(nn.Module):
    """A body that each test brings; square weights keep the arithmetic short."""

    def __init__(self, body, width=64):
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(width, width)), nn.Parameter(torch.randn(width, width))
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def peak_of(model, width=64) -> int:
    case = case_from_module(model.eval(), (torch.randn(ROWS, width),))
    built = case.build_model()
    return memory.live_peak_bytes(case, built, case.fresh_inputs(case.generator("memory")))[0]


@pytest.mark.parametrize("widths", [(64, 128, 32), (64, 16, 16, 256), (64, 256, 8, 8, 128), (64, 32)])
def test_a_chain_of_layers_holds_what_one_layer_reads_and_writes(widths):
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)))
    read = [0, *widths[1:-1]]  # the input of the call exists before it
    expected = max(before + after for before, after in zip(read, widths[1:], strict=True)) * ROWS * FLOAT
    assert peak_of(model) == expected


def branches(net, x):
    left, right = x @ net.one, x @ net.two
    return left + right  # both and their sum


def residual(net, x):
    inner = x @ net.one
    return inner + torch.relu(inner @ net.two)  # inner, the product and its relu; then inner, relu and the sum


def residual_in_place(net, x):
    inner = x @ net.one
    inner += x @ net.two
    return inner


def dropped_early(net, x):
    inner = x @ net.one
    inner = inner @ net.two
    return inner @ net.one


def kept_to_the_end(net, x):
    first = x @ net.one
    second = first @ net.two
    return second @ net.one + first  # the locals, the product and the sum


def views(net, x):
    whole = x @ net.one
    return whole.view(-1, 2).transpose(0, 1)[:1].unsqueeze(0)


def several_answers(net, x):
    first = x @ net.one
    return {"first": first, "again": first, "second": [x @ net.two], "third": (first.t(), None)}


def answers_with_its_input(net, x):
    return x


def concatenated(net, x):
    return torch.cat([x @ net.one, x @ net.two], dim=1)


@pytest.mark.parametrize(
    ("body", "results"),
    [
        (branches, 3),
        (residual, 3),
        (residual_in_place, 2),
        (dropped_early, 2),
        (kept_to_the_end, 4),
        (views, 1),
        (several_answers, 2),
        (answers_with_its_input, 0),
        (concatenated, 4),
    ],
)
def test_the_peak_is_what_liveness_says(body, results):
    assert peak_of(Net(body)) == results * ROWS * 64 * FLOAT


def held_by(model) -> int:
    return memory.held_bytes(model, {}, {})


def test_weights_of_torchao_are_their_whole_numbers_and_scales():
    torchao = pytest.importorskip("torchao.quantization")
    model = nn.Sequential(nn.Linear(64, 32, bias=False)).eval()
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    assert held_by(model) == 64 * 32 + 32 * (FLOAT + 1)  # a byte each; for each row a scale and a zero point


def test_a_parameter_its_view_and_its_tied_copy_are_one():
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(10, 10))
    model.tied = model.weight
    model.register_buffer("part", model.weight.detach()[2:4])
    model.plain = model.weight.detach().t()
    assert held_by(model) == 100 * FLOAT


def test_buffers_that_are_not_saved_count_too():
    model = nn.Module()
    model.register_buffer("saved", torch.zeros(10))
    model.register_buffer("passing", torch.zeros(20, dtype=torch.float64), persistent=False)
    assert held_by(model) == 10 * FLOAT + 20 * 8


@pytest.mark.parametrize("place", ["closure", "list", "dictionary of a helper", "default argument"])
def test_what_a_candidate_hides_in_python_is_found(place):
    before = memory.live_storages()
    model, hidden = nn.Linear(8, 8, bias=False), torch.zeros(1000)
    if place == "closure":
        model.forward = lambda x: x + hidden[0]
    elif place == "list":
        model.kept = [[hidden]]
    elif place == "dictionary of a helper":
        model.helper = type("Helper", (), {"table": {"k": hidden}})()
    else:
        model.forward = lambda x, kept=hidden: x
    assert memory.held_bytes(model, before, memory.live_storages()) == (64 + 1000) * FLOAT
