"""The fingerprint is JSON, reads the kernel's texts rightly, and a GPU's library is asked through a fake."""

import doctest
import json
import subprocess
import sys
import types

import pytest
import torch

from hybrid_core.measurement import (
    blocks,
    compiling,
    environment,
    latency,
    memory,
    neighbours,
    procedure,
    processor,
    telemetry,
)
from hybrid_core.measurement.case import Case
from hybrid_core.records import Workload

CPUINFO = """processor\t: 0
model name\t: Imaginary 9000
cpu MHz\t\t: 2400.5
flags\t\t: fpu avx2 fma avx512f avx512_vnni
processor\t: 1
model name\t: Imaginary 9000
cpu MHz\t\t: 2600.0
"""


@pytest.mark.parametrize(
    "module", [environment, latency, memory, telemetry, compiling, procedure, processor, neighbours, blocks]
)
def test_the_doctests_hold(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


def test_the_fingerprint_is_json_and_names_what_moves_a_result():
    case = Case(
        torch.nn.Identity,
        lambda generator: (torch.zeros(2, 3),),
        lambda model, inputs: model(*inputs),
        None,
        Workload("forward", "forward", 2),
        torch.device("cpu"),
        1,
        7,
    )
    facts = json.loads(json.dumps(environment.read_environment(case, (torch.zeros(2, 3),)), allow_nan=False))
    assert facts["inputs"] == ["input[0] float32[2, 3]"]
    assert facts["torch"] == torch.__version__ and facts["seed"] == 7
    assert facts["threads"] == torch.get_num_threads()


def test_only_variables_that_matter_are_kept(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    case = Case(torch.nn.Identity, tuple, lambda m, i: i, None, Workload("f", "forward", 1), torch.device("cpu"), 1, 0)
    facts = environment.read_environment(case, ())
    assert facts["variables"]["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "secret" not in json.dumps(facts)


def test_the_processor_is_read_from_cpuinfo():
    assert environment.cpu_model(CPUINFO) == "Imaginary 9000"
    assert environment.cpu_flags(CPUINFO) == ["avx2", "fma", "avx512f", "avx512_vnni"]
    assert environment.cpu_mhz(CPUINFO) == [2400.5, 2600.0]


def test_what_a_system_does_not_say_is_none():
    assert environment.cpu_model("") is None
    assert environment.cpu_mhz("") is None
    assert environment.read_text("/no/such/file") == ""


def test_the_load_before_and_after_is_kept():
    before, after = {"load_average": [0.1]}, {"load_average": [2.0]}
    facts = environment.load_facts(before, after)
    assert (facts["load_average_before"], facts["load_average_after"]) == ([0.1], [2.0])
    json.dumps(environment.read_load())


class FakeNvmlError(Exception):
    pass


def fake_nvml(**fields):
    """Answers what `fields` gives, raises NotSupported for every other question, as a card without a fan does."""

    def refuse(*arguments):
        raise FakeNvmlError("not supported")

    names = ("PowerUsage", "CurrentClocksEventReasons", "ClockInfo", "Temperature", "Name", "UUID")
    questions = {f"nvmlDeviceGet{name}": refuse for name in (*names, "ComputeRunningProcesses")}
    answers = {f"nvmlDeviceGet{name}": (lambda *arguments, value=value: value) for name, value in fields.items()}
    constants = {"NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0, "NVMLError": FakeNvmlError}
    return types.SimpleNamespace(**questions | answers | constants, nvmlSystemGetDriverVersion=lambda: b"570.1")


def test_a_gpu_reports_clocks_power_and_reasons_in_words():
    nvml = fake_nvml(PowerUsage=350_000, CurrentClocksEventReasons=0x4, ClockInfo=1980, Temperature=61)
    sample = telemetry.NvmlTelemetry(nvml, "handle").read()
    sample.pop("mhz", None)  # of this machine's cores, where it says
    assert sample == {
        "clock_mhz": 1980,
        "memory_clock_mhz": 1980,
        "temperature_c": 61,
        "power_w": 350.0,
        "throttled_by": ["software power cap"],
        "gpu_used_by": None,
    }
    assert telemetry.throttled_by(sample) == ["software power cap"]


def test_fields_a_card_does_not_support_are_none_and_not_zero():
    sample = telemetry.NvmlTelemetry(fake_nvml(), "handle").read()
    assert sample["power_w"] is None and sample["temperature_c"] is None
    assert telemetry.throttled_by(sample) == []


def test_other_processes_on_the_gpu_are_named_and_this_one_is_not():
    import os

    processes = [types.SimpleNamespace(pid=pid, usedGpuMemory=2**30) for pid in (os.getpid(), 99_999_999)]
    nvml = fake_nvml(ComputeRunningProcesses=processes)
    assert telemetry.NvmlTelemetry(nvml, "handle").others() == ["pid 99999999 (1024 MiB)"]


def test_only_others_that_computed_since_the_last_block_use_the_gpu():
    import os

    def used(pid, percent, stamp):
        return types.SimpleNamespace(pid=pid, smUtil=percent, timeStamp=stamp)

    buffered = [used(os.getpid(), 90, 10), used(7, 40, 11), used(8, 1, 12)]
    running = [types.SimpleNamespace(pid=os.getpid(), usedGpuMemory=0)]
    nvml = fake_nvml(ComputeRunningProcesses=running)
    nvml.nvmlDeviceGetProcessUtilization = lambda handle, since: [one for one in buffered if one.timeStamp > since]
    watched = telemetry.NvmlTelemetry(nvml, "handle")
    assert watched.read()["gpu_used_by"] == ["pid 7 (40 %)"]
    assert watched.read()["gpu_used_by"] == []
    buffered.append(used(9, 5, 13))
    assert watched.read()["gpu_used_by"] == ["pid 9 (5 %)"]
    running.clear()
    assert watched.read()["gpu_used_by"] is None, "a driver that counts in other numbers cannot tell us from others"


def test_a_process_of_our_own_group_is_no_other():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        processes = [types.SimpleNamespace(pid=one.pid, usedGpuMemory=2**20) for one in (child, stranger)]
        watched = telemetry.NvmlTelemetry(fake_nvml(ComputeRunningProcesses=processes), "handle")
        assert watched.others() == [f"pid {stranger.pid} (1 MiB)"]
    finally:
        for one in (child, stranger):
            one.kill()
            one.communicate()


def test_the_driver_and_name_are_text():
    facts = telemetry.NvmlTelemetry(fake_nvml(Name=b"H100"), "handle").facts()
    assert (facts["gpu_name"], facts["driver"], facts["power_limit_w"]) == ("H100", "570.1", None)


def test_the_cpu_is_watched_without_a_warning():
    found, warning = telemetry.open_telemetry(torch.device("cpu"))
    assert isinstance(found, telemetry.ProcessorTelemetry) and warning == ""


def test_a_gpu_whose_library_is_missing_is_measured_with_a_warning(monkeypatch):
    monkeypatch.setattr(telemetry.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    found, warning = telemetry.open_telemetry(torch.device("cuda", 0))
    assert isinstance(found, telemetry.ProcessorTelemetry)
    assert "ImportError" in warning and "throttling goes unseen" in warning


def test_compile_counters_become_warnings_only_when_something_happened():
    quiet = compiling.CompileCounts()
    assert compiling.compile_warnings(quiet, quiet, quiet) == ()
    first = compiling.CompileCounts(graphs=3, breaks=2, reasons=("data dependent branch\nlong story",))
    warnings = compiling.compile_warnings(first, quiet, compiling.CompileCounts(graphs=1))
    assert "2 graph breaks, 3 graphs, for example: data dependent branch" in warnings[0]
    assert "recompiled 1 graphs" in warnings[1]


def test_compile_counters_count_what_was_added_since():
    earlier = compiling.CompileCounts(2, 1, ("a",))
    assert compiling.CompileCounts(5, 3, ("a", "b")).since(earlier) == compiling.CompileCounts(3, 2, ("b",))


def test_where_compiled_code_came_from_is_the_difference_of_the_compilers_own_counts(monkeypatch):
    counters = {"stats": {"unique_graphs": 1}, "inductor": {"fxgraph_cache_miss": 1}}
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", types.SimpleNamespace(counters=counters))
    before = compiling.read_counts()
    counters.update(stats={"unique_graphs": 3}, inductor={"fxgraph_cache_miss": 1, "fxgraph_cache_hit": 2})
    assert compiling.read_counts().since(before).cache == "warm"
    counters["inductor"]["fxgraph_cache_bypass"] = 1
    assert compiling.read_counts().since(before).cache == "bypassed"
    assert before.since(compiling.CompileCounts()).cache == "cold"
