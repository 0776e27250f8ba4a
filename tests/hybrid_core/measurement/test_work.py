"""Counted work is compared with arithmetic, and with PyTorch's own counter on real models."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hybrid_core.evaluation import case_from_module, case_from_registry
from hybrid_core.measurement.work import Work, count_work
from hybrid_core.models.registry import get_entry
from hybrid_core.records import Subject

ROWS, WIDTH, HIDDEN = 8, 16, 32
PRODUCT = 2 * ROWS * WIDTH * HIDDEN


class Net(nn.Module):
    """Two weights, and a body that each test brings."""

    def __init__(self, body):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(WIDTH, HIDDEN)), nn.Parameter(torch.randn(HIDDEN, WIDTH))
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def work_of(body, shape=(ROWS, WIDTH)) -> Work:
    case = case_from_module(Net(body).eval(), (torch.randn(shape),))
    return count_work(case, case.build_model(), case.fresh_inputs(case.generator("test")))


def test_two_products_are_what_arithmetic_gives():
    work = work_of(lambda net, x: torch.relu(x @ net.first) @ net.second)
    assert (work.flops, work.needed_flops) == (2 * PRODUCT, 2 * PRODUCT)
    assert work.weight_values == 2 * WIDTH * HIDDEN
    assert work.answer_bytes == ROWS * WIDTH * 4
    assert (work.uncounted, work.problem) == ((), "")


def dead_product(net, x):
    _ = x @ net.first
    return x @ net.first


def product_of_weights(net, x):
    return x @ (net.first @ net.second)


def written_in_place(net, x):
    kept = torch.zeros(ROWS, HIDDEN)
    kept.copy_(x @ net.first)
    return kept


def through_a_view(net, x):
    return (x @ net.first).view(-1)[:10].clone()


@pytest.mark.parametrize(
    ("body", "all_flops", "needed"),
    [
        (dead_product, 2 * PRODUCT, PRODUCT),
        (product_of_weights, 2 * WIDTH * HIDDEN * WIDTH + 2 * ROWS * WIDTH * WIDTH, 2 * ROWS * WIDTH * WIDTH),
        (written_in_place, PRODUCT, PRODUCT),
        (through_a_view, PRODUCT, PRODUCT),
    ],
)
def test_dead_work_and_work_on_weights_alone_is_not_needed(body, all_flops, needed):
    work = work_of(body)
    assert (work.flops, work.needed_flops) == (all_flops, needed)


def test_an_answer_that_is_a_weight_needs_nothing():
    work = work_of(lambda net, x: net.first)
    assert (work.flops, work.needed_flops, work.weight_values, work.answer_bytes) == (0, 0, 0, 0)


def test_a_weight_used_twice_is_read_once():
    assert work_of(lambda net, x: x @ net.first + 2 * (x @ net.first)).weight_values == WIDTH * HIDDEN


def test_fused_attention_on_the_cpu_is_counted():
    work = work_of(lambda net, x: F.scaled_dot_product_attention(x, x, x), shape=(2, 4, 10, 16))
    assert work.flops == 2 * 4 * (2 * 10 * 10 * 16) * 2


def test_packed_weights_are_said_to_be_uncounted():
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(WIDTH, HIDDEN)), {nn.Linear})
    case = case_from_module(model.eval(), (torch.randn(ROWS, WIDTH),))
    work = count_work(case, model, case.fresh_inputs(case.generator("test")))
    assert work.flops == 0 and any("quantized" in name for name in work.uncounted)


def test_what_cannot_be_watched_is_a_problem_and_no_error():
    def body(net, x):
        raise RuntimeError("not under a watch")

    work = work_of(body)
    assert work.needed_flops == 0 and "not under a watch" in work.problem


@pytest.mark.parametrize("name", ["llama", "convnet", "sequential"])
def test_models_of_the_registry_count_as_pytorch_counts_them(name):
    workload = get_entry(name).workloads("tiny")[-1 if name == "convnet" else 0]
    case = case_from_registry(Subject(name, "tiny", workload))
    model, generator = case.build_model(), case.generator("test")
    work = count_work(case, model, case.fresh_inputs(generator))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        case.call(model, case.fresh_inputs(generator))
    assert work.needed_flops == work.flops == counter.get_total_flops() > 0


def test_work_survives_json_and_refuses_what_is_none():
    work = Work(4, 3, 2, 1, ("quantized.linear",))
    assert Work.from_json(work.to_json()) == work
    with pytest.raises(ValueError, match="negative"):
        Work.from_json({**work.to_json(), "flops": -1})
    with pytest.raises(KeyError):
        Work.from_json({})
