"""Recordings with a stand-in that replays on the CPU by calling again and writing the same buffers, as a GPU does."""

import copy

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.kernels import cuda_graphs
from hybrid_core.strategies.kernels.cuda_graphs import CUDAGRAPHS, MOST_RECORDINGS, record_in_place


class Again:
    """Like a CUDA graph: an answer stays where the first one was, and each replay overwrites it."""

    def __init__(self, work, answer):
        self.work, self.answer = work, answer

    def replay(self):
        for buffer, fresh in zip(pytree.tree_leaves(self.answer), pytree.tree_leaves(self.work()), strict=True):
            if isinstance(buffer, torch.Tensor):
                buffer.copy_(fresh)


def record(work):
    answer = work()
    return Again(work, answer), answer


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, scale=1):
        return {"out": self.layer(x) * scale}


def situation(x, kind="forward", device="cpu"):
    return Situation((x,), lambda m, i: m(*i), Workload("forward", kind, len(x)), torch.device(device))


def recorded(model, x):
    return record_in_place(copy.deepcopy(model), situation(x), record).model


def test_a_replay_answers_fresh_inputs_and_never_overwrites_what_it_gave_before():
    torch.manual_seed(0)
    model, x = Scaled().eval(), torch.randn(3, 4)
    fast = recorded(model, x)
    given, other = x.clone(), torch.randn(3, 4)
    first = fast(x)["out"]
    kept = first.clone()
    with torch.no_grad():
        torch.testing.assert_close(fast(other), model(other))
    assert torch.equal(first, kept) and torch.equal(x, given)


def test_each_form_has_its_recording_and_constants_of_another_type_are_another_form():
    model, x = Scaled().eval(), torch.randn(3, 4)
    fast = recorded(model, x)
    forms = [((x,), {}), ((x[:2],), {}), ((x, 2), {}), ((x, 2.0), {}), ((x,), {"scale": 2})]
    for args, kwargs in (*forms, *forms):
        with torch.no_grad():
            torch.testing.assert_close(fast(*args, **kwargs), model(*args, **kwargs))
    assert len(fast._compiled_call_impl._recorded) == len(forms)


def test_a_form_that_is_first_met_in_inference_mode_replays_outside_of_it():
    model, x = Scaled().eval(), torch.randn(3, 4)
    fast = recorded(model, x)
    with torch.inference_mode():
        fast(x[:2])
    with torch.no_grad():
        torch.testing.assert_close(fast(x[1:]), model(x[1:]))


def test_too_many_forms_are_an_error_that_says_what_to_do():
    fast = recorded(Scaled().eval(), torch.randn(1, 4))
    for batch in range(2, MOST_RECORDINGS + 1):
        fast(torch.randn(batch, 4))
    with pytest.raises(StrategyUnsupported, match="another one came, float32.50, 4.; .*leave CUDA graphs off"):
        fast(torch.randn(50, 4))


def test_objects_and_calls_that_cannot_be_recorded_are_refused():
    fast = recorded(Scaled().eval(), torch.randn(1, 4))
    with pytest.raises(StrategyUnsupported, match="is called with object"):
        fast(torch.randn(1, 4), object())

    def fails(work):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    with pytest.raises(StrategyUnsupported, match="cannot be recorded as a CUDA graph .operation not permitted"):
        record_in_place(Scaled().eval(), situation(torch.randn(1, 4)), fails)


def test_a_call_that_differs_from_time_to_time_is_refused():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            return x + self.calls.add_(1)

    with pytest.raises(StrategyUnsupported, match="changes from call to call"):
        record_in_place(Counting().eval(), situation(torch.zeros(1, 4)), record)


def test_a_copy_has_no_recording_of_other_weights():
    model, x = Scaled().eval(), torch.randn(2, 4)
    fast = recorded(model, x)
    twin = copy.deepcopy(fast)
    with torch.no_grad():
        twin.layer.weight.zero_()
        assert not torch.equal(fast(x)["out"], twin(x)["out"])
        torch.testing.assert_close(fast(x), model(x))


def test_a_decode_a_compiled_model_and_a_cpu_are_refused():
    assert "grows" in CUDAGRAPHS.unsupported(Scaled(), situation(torch.zeros(1, 4), "decode"))
    compiled = Scaled()
    compiled.compile()
    assert "already compiled" in CUDAGRAPHS.unsupported(compiled, situation(torch.zeros(1, 4)))
    assert "'cpu'" in CUDAGRAPHS.unavailable("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_replays_equal_the_model_on_fresh_inputs():
    torch.manual_seed(0)
    model, x = Scaled().cuda().eval(), torch.randn(3, 4, device="cuda")
    fast = cuda_graphs.record_in_place(copy.deepcopy(model), situation(x, device="cuda")).model
    first = fast(x)["out"]
    kept = first.clone()
    for batch in (3, 5, 3):
        fresh = torch.randn(batch, 4, device="cuda")
        with torch.no_grad():
            torch.testing.assert_close(fast(fresh), model(fresh))
    assert torch.equal(first, kept)
    with pytest.raises(StrategyUnsupported):
        record_in_place(Waiting().cuda().eval(), situation(x, device="cuda"))


class Waiting(nn.Module):
    def forward(self, x):
        return x * float(x.sum())
