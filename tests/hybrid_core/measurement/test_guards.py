"""The single rules behind the refusals, each against cases whose answer is plain."""

import threading
import time

import pytest
import torch
from torch import nn

from hybrid_core.measurement import guards, sampling
from hybrid_core.measurement.case import Case
from hybrid_core.measurement.nested import snapshot
from hybrid_core.measurement.process_state import left_thread, process_state, restored_state, state_fault
from hybrid_core.records import Workload


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()


def test_scrambled_weights_are_nonsense_meanwhile_and_the_same_bits_afterwards():
    model, x = small_model(), torch.randn(3, 4)
    before, right = {name: t.clone() for name, t in model.state_dict().items()}, model(x)
    with guards.scrambled(guards.own_storages(model).values(), torch.device("cpu")):
        assert not torch.allclose(model(x), right)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert torch.equal(model(x), right)


def test_weights_come_back_also_after_an_exception():
    model = small_model()
    weight = model[0].weight.detach().clone()
    with pytest.raises(IndexError), guards.scrambled(guards.own_storages(model).values(), torch.device("cpu")):
        raise IndexError
    assert torch.equal(model[0].weight, weight)


def test_memory_that_both_models_have_and_whole_numbers_are_left_alone():
    model, other = small_model(), small_model()
    other[0].weight.data = model[0].weight.data
    addresses = set(guards.own_storages(model, shared_with=other))
    assert model[0].weight.data_ptr() not in addresses and model[0].bias.data_ptr() in addresses
    assert model[1].num_batches_tracked.data_ptr() not in addresses


def test_a_fingerprint_sees_one_changed_weight_a_swap_that_keeps_the_sum_and_other_code():
    model = small_model()
    before = guards.fingerprint(model)
    assert guards.differing(before, guards.fingerprint(model)) == []
    with torch.no_grad():
        model[0].weight[0, :2] = model[0].weight[0, :2].flip(0) + torch.tensor([1e-6, -1e-6])
    assert guards.differing(before, guards.fingerprint(model)) == ["0.weight"]
    model[1].forward = lambda x: x
    assert guards.differing(before, guards.fingerprint(model)) == ["0.weight", "code of 1"]


def test_a_mixed_question_has_only_its_last_item_from_the_other():
    first, second = (torch.zeros(3, 2), torch.zeros(3)), (torch.ones(3, 2), torch.ones(3))
    mixed = guards.mixed_question(first, second, 3)
    assert mixed[0].sum(1).tolist() == [0, 0, 2] and mixed[1].tolist() == [0, 0, 1]
    assert first[0].sum() == 0
    assert guards.mixed_question(first, second, 1) is None
    assert guards.mixed_question((torch.zeros(3, 2), torch.zeros(())), (torch.ones(3, 2), torch.ones(())), 3) is None


def test_a_thread_that_goes_on_is_named_and_one_that_ended_is_not():
    before, go_on = set(threading.enumerate()), threading.Event()
    assert left_thread(before) == ""
    thread = threading.Thread(target=go_on.wait, name="worker 7")
    thread.start()
    assert "'worker 7'" in left_thread(before)
    go_on.set()
    thread.join()
    assert left_thread(before) == ""


def test_replaced_functions_are_named_and_put_back():
    real = time.perf_counter
    with restored_state(0):
        before = process_state()
        time.perf_counter = lambda: 0.0
        assert state_fault(before, process_state()) == "it replaced time.perf_counter, on which the measurement rests"
        assert state_fault(before, process_state(), frozenset({"function time.perf_counter"})) == ""
    assert time.perf_counter is real


def test_every_call_of_a_sample_may_be_the_checked_one_and_no_seed_says_which():
    chosen = set()
    for _ in range(400):  # the chance that one of eight never comes is 5e-23
        torch.manual_seed(0)
        chosen.add(sampling.choose_call(8))
    assert chosen == set(range(8))
    assert {sampling.choose_call(8, only_last=True) for _ in range(9)} == {7}


@pytest.mark.parametrize("chosen", range(4))
def test_a_sample_gives_the_chosen_answer_and_the_last_and_reads_the_clock_twice(chosen):
    readings = iter([0, 8_000_000])
    call = lambda model, inputs: inputs[0] * 2  # noqa: E731
    case = Case(nn.Identity, lambda g: (), call, None, Workload("forward", "forward", 1), torch.device("cpu"), 1, 0)
    inputs = [(torch.tensor([float(i)]),) for i in range(4)]
    ms, answers = sampling.take_sample(case, nn.Identity(), inputs, lambda: next(readings), chosen)
    assert ms == 2.0 and next(readings, None) is None
    assert [float(answer) / 2 for answer in answers] == list(sampling.checked_calls(4, chosen))


def test_a_snapshot_leaves_a_subclass_unread_and_takes_plain_tensors_at_once():
    class Lazy(torch.Tensor):
        pass

    plain, lazy = torch.zeros(2), torch.zeros(2).as_subclass(Lazy)
    taken = snapshot((plain, [lazy], nn.Parameter(torch.ones(1))))
    plain.add_(1)
    assert taken[0].sum() == 0 and taken[1][0] is lazy and type(taken[2]) is torch.Tensor
