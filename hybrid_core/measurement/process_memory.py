"""What the whole process and the GPU's allocator needed: cold (transformation and first call) and warm (later calls).

Counted bytes (`memory`) miss what a compiler, another runtime or a driver takes for itself; these figures include it,
and everybody else's share too, so they are a check and no headline. The resident peak of a stretch is the kernel's own
high-water mark, set back before the stretch where the system allows it (Linux: /proc/self/clear_refs, see proc(5));
where it does not, a stretch that stays below an earlier peak is unknown. On a GPU the allocator's peaks are set back
in the same way, and NVML says how much the process holds, with the context and libraries that no allocator knows of.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hybrid_core.measurement.case import synchronize
from hybrid_core.measurement.telemetry import open_nvml

# Asks how many bytes of the GPU this process holds now; None where that cannot be told.
AskProcess = Callable[[], int | None]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"


class ResidentSet:
    """The resident set of our process; remembers the highest peak across those that the kernel was made to forget."""

    def __init__(self) -> None:
        self._highest = 0

    def now(self) -> int | None:
        """Bytes resident now; None where the system does not say."""
        return _status_bytes("VmRSS")

    def peak(self) -> int:
        """Bytes resident at most since the process started."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return max(self._highest, peak if sys.platform == "darwin" else peak * 1024)

    def peak_of_stretch(self) -> int | None:
        """Bytes resident at most since `begin_stretch`; None where the system does not say."""
        return _status_bytes("VmHWM")

    def begin_stretch(self) -> bool:
        """Forget the kernel's peak, but not ours; whether it could be forgotten."""
        self._highest = self.peak()
        return _forget_peak()

    @contextlib.contextmanager
    def not_counted(self) -> Iterator[None]:
        """Inside, what is taken and given back is our own doing and no peak; where peaks cannot be forgotten it is."""
        self.begin_stretch()
        yield
        _forget_peak()


RESIDENT = ResidentSet()


def resident_peak_bytes() -> int:
    """Bytes of the process resident at most since it started: interpreter, libraries and both models."""
    return RESIDENT.peak()


@dataclass
class Stretch:
    """Peaks of one stretch of work, each in bytes over what there was before; unknown ones are None."""

    resident_growth_bytes: int | None = None
    gpu_allocated_bytes: int | None = None
    gpu_reserved_bytes: int | None = None
    gpu_process_bytes: int | None = None

    def to_json(self) -> dict[str, int]:
        """What is known."""
        return {name: value for name, value in vars(self).items() if value is not None}


@contextlib.contextmanager
def watched(
    device: torch.device, ask_process: AskProcess = lambda: None, resident: ResidentSet = RESIDENT
) -> Iterator[Stretch]:
    """Watch what happens inside; the peaks are there when it is over."""
    stretch = Stretch()
    could_forget = resident.begin_stretch()
    resident_before, peak_before = resident.now(), resident.peak_of_stretch()
    with _gpu_watched(device, ask_process, stretch):
        yield stretch
    peak = resident.peak_of_stretch()
    if peak is not None and resident_before is not None and peak_before is not None:
        # A mark of before that was not passed says nothing about this stretch.
        if could_forget or peak > peak_before:
            stretch.resident_growth_bytes = max(0, peak - resident_before)


@contextlib.contextmanager
def _gpu_watched(device: torch.device, ask_process: AskProcess, stretch: Stretch) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    held_before = ask_process()
    yield
    synchronize(device)
    stretch.gpu_allocated_bytes = max(0, torch.cuda.max_memory_allocated(device) - allocated)
    stretch.gpu_reserved_bytes = max(0, torch.cuda.max_memory_reserved(device) - reserved)
    held = ask_process()
    # The allocator keeps what it once reserved, so what is held afterwards is close to the peak.
    stretch.gpu_process_bytes = None if held is None or held_before is None else max(0, held - held_before)


def open_process_memory(device: torch.device) -> AskProcess:
    """Asks NVML for this process's share of the GPU; a driver, card or container that hides it makes it unknown."""
    if device.type != "cuda":
        return lambda: None
    try:
        nvml, handle = open_nvml(device)
    except Exception:  # pynvml raises its own family, and a missing library or symbol raises others: all mean unknown
        return lambda: None
    return lambda: process_bytes(nvml, handle, os.getpid())


def process_bytes(nvml: Any, handle: Any, pid: int) -> int | None:
    """Bytes of the GPU that process `pid` holds; None where NVML does not list it, as inside most containers."""
    try:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except (nvml.NVMLError, AttributeError):
        return None
    return next((int(p.usedGpuMemory) for p in processes if p.pid == pid and p.usedGpuMemory is not None), None)


def memory_facts(cold: Mapping[str, Stretch], warm: Mapping[str, Stretch], held: int | None) -> dict[str, Any]:
    """The JSON-able entry of a measurement; `held` is what the process holds of the GPU at the end."""
    facts: dict[str, Any] = {
        "cold": {name: stretch.to_json() for name, stretch in cold.items()},
        "warm": {name: stretch.to_json() for name, stretch in warm.items()},
        "resident_peak_bytes": RESIDENT.peak(),
    }
    return facts if held is None else {**facts, "gpu_process_bytes": held}


def _forget_peak() -> bool:
    try:
        _CLEAR.write_text(_CLEAR_PEAK)
    except OSError:
        return False
    return True


def _status_bytes(name: str) -> int | None:
    """One line of /proc/self/status in bytes, None where there is none."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
