"""Samples of processor and cards: unknown is None, a missing driver is calm, a lost card is withdrawn alone."""

import shutil
import subprocess
import sys

import psutil
import pytest

from workers.devices import DeviceWatch, GpuSampler, cpu_sample, default_threads, usable_cores
from workers.nvml import CardLost, NvmlDriver
from workers.paths import PROJECT_ROOT

GOOD = {
    "utilization": 55.0,
    "memory": (2 << 30, 8 << 30),
    "power_mw": 120_500.0,
    "temperature": 61.0,
    "clock_mhz": 1410.0,
    "clock_event_reasons": 0x4 | 0x20,
    "processes": [{"pid": 7, "name": "python", "memory_bytes": None}],
}


class FakeNvml:
    """Cards that answer from a dictionary; a question that is missing is not supported."""

    def __init__(self, **cards):
        self.answers, self.lost = cards, set()

    def cards(self):
        return [(uuid, f"Card {uuid}") for uuid in self.answers]

    def read(self, uuid, question):
        if uuid in self.lost:
            raise CardLost("GPU is lost")
        return self.answers[uuid].get(question)


def test_a_card_that_answers_everything_is_read_in_plain_units():
    (sample,) = GpuSampler(FakeNvml(a=GOOD)).samples(5.0)
    assert (sample.device, sample.kind, sample.title, sample.time) == ("a", "gpu", "Card a", 5.0)
    assert (sample.utilization_percent, sample.power_w, sample.temperature_c) == (55.0, 120.5, 61.0)
    assert (sample.memory_used_bytes, sample.memory_total_bytes) == (2 << 30, 8 << 30)
    assert sample.detail["slowed_by"] == ["power cap", "heat"]
    assert sample.detail["utilization_means"] == "share of time any kernel ran"


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_each_field_a_driver_does_not_support_is_none_and_the_others_stay(missing):
    (sample,) = GpuSampler(FakeNvml(a={k: v for k, v in GOOD.items() if k != missing})).samples(0.0)
    (whole,) = GpuSampler(FakeNvml(a=GOOD)).samples(0.0)
    changed = {name for name in vars(whole) if getattr(sample, name) != getattr(whole, name)}
    assert all(getattr(sample, name) is None for name in changed - {"detail"})
    assert len(changed) == (0 if missing == "processes" else 2 if missing == "memory" else 1)


def test_a_lost_card_is_withdrawn_with_a_sentence_and_the_other_goes_on():
    nvml = FakeNvml(a=GOOD, b=GOOD)
    sampler = GpuSampler(nvml)
    watch = DeviceWatch(sampler, clock=lambda: 1.0)
    assert [s.device for s in watch.sample_gpus()] == ["a", "b"]
    nvml.lost.add("a")
    for _ in range(3):
        assert [s.device for s in watch.sample_gpus()] == ["b"]
    assert watch.lost == ["Card a (a) no longer answers: GPU is lost; it is withdrawn until the hub restarts"]
    watch.look_at_processes()
    assert watch.sample_gpus()[0].processes == GOOD["processes"]


def test_a_machine_without_a_driver_has_no_cards_and_a_reason():
    driver = NvmlDriver()
    if driver.cards():
        pytest.skip("this machine has a GPU")
    assert driver.reason.startswith("no NVIDIA driver answers") and GpuSampler(driver).samples(0.0) == []


def test_the_processors_sample_agrees_with_the_system():
    sample = cpu_sample(3.0)
    assert sample.memory_total_bytes == psutil.virtual_memory().total
    assert 0 <= sample.utilization_percent <= 100 and 0 < sample.memory_used_bytes < sample.memory_total_bytes
    assert sample.power_w is None and sample.title and sample.detail["cores"] == usable_cores()


def test_the_default_leaves_one_core_to_the_rest_of_the_machine(monkeypatch):
    for physical, logical, allowed, expected in [
        (8, 16, 16, 7),
        (8, 16, 4, 3),
        (1, 2, 2, 1),
        (None, 2, 2, 1),
        (4, 4, 1, 1),
    ]:
        monkeypatch.setattr(psutil, "cpu_count", lambda logical=True, p=physical, n=logical: n if logical else p)
        monkeypatch.setattr("workers.devices.usable_cores", lambda n=allowed: n)
        assert default_threads() == expected


FAKE_LIBRARY = r"""
#include <string.h>
typedef struct { unsigned int gpu, memory; } util_t;
typedef struct { unsigned long long total, free, used; } memory_t;
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned int f) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "Not Supported"; }
int nvmlDeviceGetCount_v2(unsigned int *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **h) { *h = (void *)(long)(i + 1); return 0; }
int nvmlDeviceGetUUID(void *h, char *s, unsigned int n) { strcpy(s, h == (void *)1 ? "GPU-one" : "GPU-two"); return 0; }
int nvmlDeviceGetName(void *h, char *s, unsigned int n) { strcpy(s, "Simulated card"); return 0; }
int nvmlDeviceGetUtilizationRates(void *h, util_t *u) {
    if (h == (void *)2) return 15;
    u->gpu = 42; u->memory = 1; return 0;
}
int nvmlDeviceGetMemoryInfo(void *h, memory_t *m) { m->total = 1000; m->free = 400; m->used = 600; return 0; }
int nvmlDeviceGetPowerUsage(void *h, unsigned int *p) { return 3; }
int nvmlDeviceGetTemperature(void *h, int s, unsigned int *t) { *t = 50; return 0; }
"""
ASK = """
from workers.devices import GpuSampler
from workers.nvml import NvmlDriver
sampler = GpuSampler(NvmlDriver())
for s in sampler.samples(0.0):
    print(s.device, s.title, s.utilization_percent, s.memory_used_bytes, s.power_w, s.temperature_c, s.clock_mhz)
print(list(sampler.lost.values()))
print(sampler.processes("GPU-one"))
"""


def test_the_real_binding_reads_a_library_with_missing_functions_and_a_lost_card(tmp_path):
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc to build a simulated driver with")
    (tmp_path / "nvml.c").write_text(FAKE_LIBRARY)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", library, tmp_path / "nvml.c"], check=True)
    environment = {"LD_LIBRARY_PATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "GPU-one Simulated card 42.0 600 None 50.0 None",
        "['Simulated card (GPU-two) no longer answers: GPU is lost; it is withdrawn until the hub restarts']",
        "[]",
    ]
