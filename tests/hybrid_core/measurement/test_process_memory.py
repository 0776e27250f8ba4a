"""Peaks of the process are compared with memory that a test really takes, and with a pretended GPU."""

from types import SimpleNamespace

import pytest
import torch

from hybrid_core.measurement import process_memory
from hybrid_core.measurement.process_memory import ResidentSet, Stretch, memory_facts, process_bytes, watched

CPU = torch.device("cpu")
TAKEN = 64 << 20


def can_forget() -> bool:
    return ResidentSet().begin_stretch() and ResidentSet().now() is not None


needs_forgetting = pytest.mark.skipif(not can_forget(), reason="this system does not let a process forget its peak")


@needs_forgetting
def test_growth_is_what_was_touched_though_it_was_given_back():
    with watched(CPU) as stretch:
        taken = torch.ones(TAKEN // 4)
        del taken
    # The kernel counts in batches of pages, and pages of the code that runs here come on top.
    assert 0.95 * TAKEN <= stretch.resident_growth_bytes <= 1.1 * TAKEN


@needs_forgetting
def test_an_earlier_peak_does_not_hide_a_later_one():
    with watched(CPU):
        torch.ones(TAKEN // 2)
    with watched(CPU) as later:
        torch.ones(TAKEN // 4)
    assert later.resident_growth_bytes >= 0.95 * TAKEN


@needs_forgetting
def test_the_peak_since_the_start_survives_forgetting():
    resident = ResidentSet()
    taken = torch.ones(TAKEN // 4)
    high = resident.peak()
    del taken
    assert resident.begin_stretch()
    assert resident.peak_of_stretch() < high <= resident.peak()


@needs_forgetting
def test_what_is_not_counted_leaves_no_peak():
    ResidentSet().begin_stretch()
    resident = ResidentSet()
    before = resident.peak()
    with resident.not_counted():
        torch.ones(TAKEN // 4)
    assert resident.peak() < before + TAKEN / 2


class Scripted(ResidentSet):
    """A system that cannot forget, with a scripted resident set and peaks."""

    def __init__(self, resident, peaks):
        super().__init__()
        self._resident, self._peaks = resident, list(peaks)

    def now(self):
        return self._resident

    def peak_of_stretch(self):
        return self._peaks.pop(0)

    def begin_stretch(self):
        return False


@pytest.mark.parametrize(
    ("peaks", "growth"),
    [((500, 500), None), ((500, 700), 600), ((None, None), None)],
    ids=["below an earlier peak", "a new peak", "not told"],
)
def test_where_the_peak_cannot_be_forgotten_only_a_new_one_is_known(peaks, growth):
    with watched(CPU, resident=Scripted(100, peaks)) as stretch:
        pass
    assert stretch.resident_growth_bytes == growth


class FakeGpu:
    """torch.cuda's counters as a stretch sees them: before, and the peaks at its end."""

    def __init__(self, monkeypatch):
        for name, value in {
            "memory_allocated": 1000,
            "memory_reserved": 4000,
            "max_memory_allocated": 1700,
            "max_memory_reserved": 6000,
            "reset_peak_memory_stats": None,
            "synchronize": None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)


def test_a_gpu_has_allocated_reserved_and_process_peaks(monkeypatch):
    FakeGpu(monkeypatch)
    held = iter((10_000, 15_000))
    with watched(torch.device("cuda", 0), lambda: next(held)) as stretch:
        pass
    assert (stretch.gpu_allocated_bytes, stretch.gpu_reserved_bytes, stretch.gpu_process_bytes) == (700, 2000, 5000)


def test_what_nvml_hides_is_unknown_and_left_out(monkeypatch):
    FakeGpu(monkeypatch)
    with watched(torch.device("cuda", 0)) as stretch:
        pass
    assert "gpu_process_bytes" not in stretch.to_json() and stretch.to_json()["gpu_allocated_bytes"] == 700


class FakeNvml:
    """Two processes on one card."""

    class NVMLError(Exception):
        pass

    def __init__(self, fails=False):
        self._fails = fails

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        if self._fails:
            raise self.NVMLError("not supported")
        return [SimpleNamespace(pid=7, usedGpuMemory=700), SimpleNamespace(pid=8, usedGpuMemory=None)]


@pytest.mark.parametrize(
    ("fails", "pid", "expected"), [(False, 7, 700), (False, 8, None), (False, 9, None), (True, 7, None)]
)
def test_our_own_share_of_a_gpu_is_found_by_pid(fails, pid, expected):
    assert process_bytes(FakeNvml(fails), object(), pid) == expected


def test_facts_name_cold_and_warm_of_each_model():
    facts = memory_facts({"candidate": Stretch(5)}, {"baseline": Stretch(), "candidate": Stretch(2)}, None)
    assert facts["cold"] == {"candidate": {"resident_growth_bytes": 5}}
    assert facts["warm"] == {"baseline": {}, "candidate": {"resident_growth_bytes": 2}}
    assert facts["resident_peak_bytes"] == process_memory.RESIDENT.peak() > 50e6
    assert memory_facts({}, {}, 9)["gpu_process_bytes"] == 9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_gpu_counts_what_is_taken():
    with watched(torch.device("cuda", 0)) as stretch:
        taken = torch.ones(TAKEN // 4, device="cuda:0")
        del taken
    assert stretch.gpu_allocated_bytes >= TAKEN
