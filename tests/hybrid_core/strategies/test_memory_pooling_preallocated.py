import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.evaluation import Toolbox, case_from_module, evaluate
from hybrid_core.records import MeasureLimits, MeasureRequest, Purpose, Recipe, Subject, Workload
from hybrid_core.strategies.base import Applied, Situation
from hybrid_core.strategies.pooling.buffer_pool import BufferPool
from hybrid_core.strategies.pooling.own_body import Seen
from hybrid_core.strategies.pooling.preallocated import use_buffers
from hybrid_core.strategies.registry import get_strategy


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def situation(*example):
    return Situation(example, lambda m, i: m(*i), Workload("forward", "forward", example[0].shape[0]))


def apply(model, *example, least_bytes=1):
    """With a threshold of one byte, so that small tensors show what large ones would do."""
    return use_buffers(copy.deepcopy(model).eval(), situation(*example), least_bytes)


class Chain(nn.Module):
    def forward(self, x, y):
        a = 2 * (x * y + x)
        return torch.sigmoid(F.gelu(torch.relu(a), approximate="tanh") / 3) - y


class Tail(nn.Module):
    """Its one elementwise result is what it returns."""

    def forward(self, x):
        return x * 2


class HandsOn(nn.Module):
    """Identity returns its input, so the product would reach the caller."""

    def __init__(self, child):
        super().__init__()
        self.child = child

    def forward(self, x):
        return self.child(x * 2)


class Branches(nn.Module):
    """Two results live at the same moment, and one is read again at the end."""

    def forward(self, x):
        a = x + 1
        b = a * 2
        c = torch.exp(b * 0.1)
        return c + a


@torch.no_grad()
def test_a_chain_runs_in_one_buffer_and_changes_no_bit():
    model, x, y = Chain(), noise(33, 7), noise(33, 7, seed=1)
    applied = apply(model, x, y)
    assert "7 large elementwise results" in applied.changes[0]
    assert "1 buffers" in applied.changes[0]
    for seed in range(3):
        x, y = noise(33, 7, seed=seed + 5), noise(33, 7, seed=seed + 9)
        kept = x.clone(), y.clone()
        assert torch.equal(applied.model(x, y), model(x, y))
        assert torch.equal(x, kept[0]) and torch.equal(y, kept[1])


@torch.no_grad()
def test_an_answer_that_was_kept_does_not_change_at_the_next_call():
    model = apply(Chain(), noise(8, 4), noise(8, 4, seed=1)).model
    first = model(noise(8, 4, seed=2), noise(8, 4, seed=3))
    kept = first.clone()
    second = model(noise(8, 4, seed=4), noise(8, 4, seed=5))
    assert torch.equal(first, kept) and not torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


@torch.no_grad()
def test_results_that_live_at_the_same_moment_have_buffers_of_their_own():
    model, x = Branches(), noise(16, 4)
    applied = apply(model, x)
    assert "2 buffers" in applied.changes[0]
    assert torch.equal(applied.model(x + 1), model(x + 1))


@torch.no_grad()
@pytest.mark.parametrize("child", [nn.Identity(), nn.Flatten(0), nn.ReLU(inplace=True), nn.Dropout()])
def test_what_a_child_may_hand_on_is_no_buffer(child):
    with pytest.raises(StrategyUnsupported, match="must be a new tensor"):
        apply(HandsOn(child), noise(4, 4))


def test_what_is_returned_is_no_buffer():
    with pytest.raises(StrategyUnsupported, match="leave their module"):
        apply(Tail(), noise(4, 4))


@torch.no_grad()
def test_a_hook_on_the_reader_keeps_the_result_out_of_the_buffer():
    model, seen = HandsOn(nn.Linear(4, 4)), []
    model.child.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    with pytest.raises(StrategyUnsupported, match="must be a new tensor"):
        apply(model, noise(4, 4))


def test_small_results_are_refused_with_the_largest_one_seen():
    with pytest.raises(StrategyUnsupported, match="largest elementwise result is 1.0 MiB, below the 16 MiB"):
        get_strategy("memory_pooling").apply(
            "preallocated", Chain().eval(), situation(noise(512, 512), noise(512, 512))
        )


def test_other_shapes_and_calls_with_gradients_run_the_original_forward():
    plain, model = Chain(), apply(Chain(), noise(8, 4), noise(8, 4, seed=1)).model
    for rows in (8, 3, 9):
        x, y = noise(rows, 4, seed=2), noise(rows, 4, seed=3)
        with torch.no_grad():
            assert torch.equal(model(x, y), plain(x, y))
    x, y = noise(8, 4, seed=2).requires_grad_(), noise(8, 4, seed=3)
    (gradient,) = torch.autograd.grad(model(x, y).sum(), x)
    (expected,) = torch.autograd.grad(plain(x, y).sum(), x)
    assert torch.equal(gradient, expected)


def test_buffers_made_in_inference_mode_serve_calls_outside_of_it():
    model = copy.deepcopy(Chain()).eval()
    with torch.inference_mode():
        changed = use_buffers(model, situation(noise(8, 4), noise(8, 4, seed=1)), 1).model
    x, y = noise(8, 4, seed=2), noise(8, 4, seed=3)
    with torch.no_grad():
        assert torch.equal(changed(x, y), Chain()(x, y))


def test_nobody_else_gets_a_borrowed_buffer():
    pool, form = BufferPool(), Seen(torch.Size([4]), torch.float32, (1,), torch.device("cpu"))
    with pool.lend([form, form]) as (a, b), pool.lend([form]) as (c,):
        assert len({t.data_ptr() for t in (a, b, c)}) == 3
    with pool.lend([form, form, form]):
        assert pool.count == 3 and pool.held_bytes == 48
    with pytest.raises(ZeroDivisionError), pool.lend([form]):
        raise ZeroDivisionError
    with pool.lend([form, form, form]):
        assert pool.count == 3


def test_two_threads_do_not_write_into_each_others_buffers():
    model, plain, wrong = apply(Chain(), noise(64, 64), noise(64, 64)).model, Chain(), []

    def work(seed):
        x, y = noise(64, 64, seed=seed), noise(64, 64, seed=seed + 50)
        with torch.no_grad():
            expected = plain(x, y)
            wrong.extend(seed for _ in range(50) if not torch.equal(model(x, y), expected))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def with_small_threshold(model, recipe, where) -> Applied:
    return use_buffers(model, where, 1)


def test_buffers_count_as_bytes_that_are_held_between_calls():
    case = case_from_module(Chain().eval(), (noise(256, 64), noise(256, 64, seed=1)))
    recipe = Recipe.from_dict({"memory_pooling": "preallocated"})
    limits = MeasureLimits(min_pairs=4, max_pairs=4, max_timed_s=1.0)
    request = MeasureRequest("t", "r", Subject("chain", "tiny", case.workload), recipe, Purpose.SEARCH, limits)
    measured = evaluate(case, request, toolbox=Toolbox(with_small_threshold, is_exact=lambda step: True)).measurement
    assert measured.weight_bytes - measured.baseline_weight_bytes == 256 * 64 * 4
    assert measured.max_abs_error == 0.0


class TransposedInput(nn.Module):
    """With one operand, einsum returns a view of the caller's tensor."""

    def forward(self, x):
        return torch.relu(torch.einsum("ij->ji", x))


class OverwritesItself(nn.Module):
    """What an in-place function returns is its input, here the caller's."""

    def forward(self, x):
        return F.relu(x, inplace=True) + 1


@torch.no_grad()
@pytest.mark.parametrize("kind", [TransposedInput, OverwritesItself])
def test_in_place_sees_that_these_results_are_the_callers_own(kind):
    with pytest.raises(StrategyUnsupported, match="provably private"):
        get_strategy("memory_pooling").apply("in_place", kind().eval(), situation(noise(4, 4)))
