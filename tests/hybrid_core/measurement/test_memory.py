"""Bytes are compared with arithmetic and with a count of storages that shares no code with the profiler."""

import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from hybrid_core.measurement import memory
from hybrid_core.measurement.case import Case
from hybrid_core.measurement.makers import MakersTensors
from hybrid_core.records import Workload

FLOAT = 4


class StorageCensus(TorchDispatchMode):
    """Adds a storage's bytes when an operator first returns it and takes them off when it is freed."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        inputs = {t.untyped_storage().data_ptr() for t in tree_flatten((args, kwargs or {}))[0] if torch.is_tensor(t)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if torch.is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in inputs:
                self._add(tensor)
        return result

    def _add(self, tensor):
        size = tensor.untyped_storage().nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(tensor, self._remove, size)

    def _remove(self, size):
        self.now -= size


def case_of(model: nn.Module, shape: tuple[int, ...]) -> Case:
    return Case(
        build=lambda: model,
        make_inputs=lambda generator: (torch.randn(shape, generator=generator),),
        call=lambda module, inputs: module(*inputs),
        task=None,
        workload=Workload("forward", "forward", shape[0]),
        device=torch.device("cpu"),
        threads=1,
        seed=0,
    )


class TwoProducts(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(256, 512))
        self.second = nn.Parameter(torch.randn(512, 128))

    def forward(self, x):
        return torch.relu(x @ self.first) @ self.second


def test_the_peak_of_two_products_is_the_sum_that_arithmetic_gives():
    case = case_of(TwoProducts(), (64, 256))
    inputs = case.fresh_inputs(case.generator("memory"))
    # product and its relu are alive together (64 x 512 each); the last product (64 x 128) is smaller
    assert memory.live_peak_bytes(case, case.build(), inputs) == (2 * 64 * 512 * FLOAT, 0)


def test_the_peak_agrees_with_a_count_of_storages():
    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 96), nn.Tanh(), nn.Linear(96, 8)).eval()
    case = case_of(model, (32, 64))
    inputs = case.fresh_inputs(case.generator("memory"))
    with torch.no_grad(), StorageCensus() as census:
        model(*inputs)
    assert memory.live_peak_bytes(case, model, inputs)[0] == census.peak


def test_inputs_do_not_count():
    case = case_of(nn.Identity(), (1000, 1000))
    inputs = case.fresh_inputs(case.generator("memory"))
    assert memory.live_peak_bytes(case, case.build(), inputs)[0] == 0


def test_working_in_place_halves_the_peak():
    case = case_of(nn.ReLU(), (512, 512))
    inputs = case.fresh_inputs(case.generator("memory"))

    class Twice(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.inplace = inplace

        def forward(self, x):
            y = x * x
            return torch.relu_(y) if self.inplace else torch.relu(y)

    plain, in_place = (memory.live_peak_bytes(case, Twice(flag), inputs)[0] for flag in (False, True))
    assert (plain, in_place) == (2 * 512 * 512 * FLOAT, 512 * 512 * FLOAT)


def test_weights_are_parameters_and_buffers():
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32))
    expected = (64 * 32 + 32) * FLOAT + 4 * 32 * FLOAT + 8  # the counter of batches is one int64
    assert memory.weight_bytes(model) == expected


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    model[1].weight = model[0].weight
    assert memory.weight_bytes(model) == 64 * 64 * FLOAT


def test_a_view_counts_its_whole_storage_once():
    model = nn.Module()
    model.register_buffer("whole", torch.zeros(100))
    model.register_buffer("part", model.whole[10:20])
    assert memory.weight_bytes(model) == 100 * FLOAT


@pytest.mark.parametrize(("dtype", "item"), [(torch.qint8, 1), (torch.float16, 2)])
def test_packed_quantized_weights_count_as_many_bytes_as_they_hold(dtype, item):
    model = nn.Sequential(nn.Linear(64, 32)).eval()
    packed = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=dtype)
    per_tensor_scale = 16 if dtype == torch.qint8 else 0
    assert memory.weight_bytes(packed) == 64 * 32 * item + 32 * FLOAT + per_tensor_scale


def test_per_channel_scales_count():
    model = nn.Sequential(nn.Linear(64, 32)).eval()
    recipe = {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
    packed = torch.ao.quantization.quantize_dynamic(model, recipe)
    assert memory.weight_bytes(packed) == 64 * 32 + 32 * FLOAT + 32 * (8 + 8)


class Halves(torch.Tensor):
    """A tensor subclass that keeps its values in two parts."""

    @staticmethod
    def __new__(cls, left, right):
        return torch.Tensor._make_wrapper_subclass(cls, (left.numel() + right.numel(),), dtype=torch.float32)

    def __init__(self, left, right):
        self.left, self.right = left, right

    def __tensor_flatten__(self):
        return ["left", "right"], None

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError("counting bytes must not compute anything")


def test_a_tensor_subclass_counts_what_its_parts_hold():
    model = nn.Module()
    model.register_buffer("weight", Halves(torch.zeros(10, dtype=torch.int8), torch.zeros(6)))
    assert memory.weight_bytes(model) == 10 + 6 * FLOAT


def test_a_onednn_tensor_counts_its_elements():
    assert sum(memory.storages_of(torch.zeros(10, 10).to_mkldnn()).values()) == 400


def test_meta_tensors_hold_nothing():
    assert memory.storages_of(torch.zeros(10, device="meta")) == {}


def test_a_buffer_hidden_in_a_closure_is_found():
    before = memory.live_storages()
    model = nn.Linear(8, 8, bias=False)
    hidden = torch.zeros(1000)
    model.forward = lambda x: x + hidden[0]
    assert memory.held_bytes(model, before, memory.live_storages()) == 64 * FLOAT + 4000


def test_what_was_there_before_is_not_charged_to_the_model():
    elsewhere = torch.zeros(5000)
    before = memory.live_storages()
    model = nn.Linear(8, 8, bias=False)
    assert memory.held_bytes(model, before, memory.live_storages()) == 64 * FLOAT
    assert elsewhere.numel() == 5000


def test_efficiency_is_one_for_the_same_bytes_and_exact():
    use = memory.MemoryUse(100, 50)
    estimate = memory.efficiency(use, use)
    assert (estimate.low, estimate.value, estimate.high) == (1.0, 1.0, 1.0)
    assert memory.efficiency(use, memory.MemoryUse(50, 25)).value == 2.0


class Elsewhere(nn.Linear):
    """A layer that says it keeps 300 bytes outside, 100 of them only while it runs."""

    def outside_memory(self):
        return SimpleNamespace(weights=200, working=100, found="by arithmetic")


def test_what_lies_outside_pytorch_is_added_once_for_each_module_and_said():
    model = nn.Sequential(Elsewhere(2, 2), nn.ReLU(), Elsewhere(2, 2))
    use, warnings = memory.add_outside(model, memory.MemoryUse(1000, 10, 5))
    assert use == memory.MemoryUse(1400, 210, 5)
    assert len(warnings) == 2 and all("found by arithmetic" in text for text in warnings)


def test_plain_modules_have_nothing_outside():
    use = memory.MemoryUse(1000, 10)
    assert memory.add_outside(nn.Sequential(nn.Linear(2, 2)), use) == (use, ())


def test_the_makers_tensors_are_what_it_keeps_and_not_what_it_hands_out():
    makers, kept = MakersTensors(), []

    def make():
        kept.append(torch.ones(100))
        return (torch.ones(7), torch.eye(3).to_sparse(), kept[-1].clone()[:5])

    inputs = makers.watch(make)
    assert [t.data_ptr() for t in makers.kept()] == [kept[0].data_ptr()]
    makers.watch(make)
    assert len(makers.kept()) == 2 and len(inputs) == 3
    kept.clear()
    assert makers.kept() == []
