"""What device and processors say about themselves between timed blocks: clocks, heat, throttling, who else is there.

A GPU that hits its power or heat limit slows down whatever is "locked", and a processor that a neighbour uses too is
not ours, so a block taken meanwhile says nothing about the candidate. Blocks are therefore read out one by one;
`conditions` judges the readings. NVML and the kernel stand behind the small `Telemetry` interface.
Source for the reasons: NVML API reference, "nvmlClocksEventReasons".
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from hybrid_core.measurement.neighbours import Census
from hybrid_core.measurement.processor import ProcessorWatch

# Reasons that slow work down. Idle (1), application clocks (2) and display clocks (0x100) are not faults.
THROTTLE_REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "clocks synchronised with another GPU",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
BUSY_SM_PERCENT = 5  # a process that holds memory but computes nothing does not disturb


class Telemetry(Protocol):
    """The device's own account of its state."""

    def watching(self) -> contextlib.AbstractContextManager[None]:
        """Around what is timed: what the processors do meanwhile is added up until `read`."""
        ...

    def read(self) -> dict[str, Any]:
        """One JSON-able sample, asked for after each block; values the device does not know are None."""
        ...

    def census(self) -> Census | None:
        """Who used the processors so far; asked for before and after the timed phase."""
        ...

    def facts(self) -> dict[str, Any]:
        """What does not change during a trial: name, driver, identity."""
        ...

    def others(self) -> list[str]:
        """Other processes on the device, as 'pid 123 (400 MiB)'."""
        ...


class NoTelemetry:
    """Nothing is asked: for tests, and for what others build on."""

    def watching(self) -> contextlib.AbstractContextManager[None]:
        """Nothing is watched."""
        return contextlib.nullcontext()

    def read(self) -> dict[str, Any]:
        """No sample."""
        return {}

    def census(self) -> Census | None:
        """Nobody is counted."""
        return None

    def facts(self) -> dict[str, Any]:
        """No facts."""
        return {}

    def others(self) -> list[str]:
        """Nobody is known."""
        return []


class ProcessorTelemetry(NoTelemetry):
    """The CPU, as the kernel sees it."""

    def __init__(self, watch: ProcessorWatch | None = None) -> None:
        self._watch = watch or ProcessorWatch()

    def watching(self) -> contextlib.AbstractContextManager[None]:
        """The kernel's counters before and after are compared."""
        return self._watch.watching()

    def read(self) -> dict[str, Any]:
        """What happened to this process while it was watched (see `processor.BLOCK_KEYS`)."""
        return self._watch.read()

    def census(self) -> Census | None:
        """Every process's processor time so far."""
        return self._watch.census()


class NvmlTelemetry(ProcessorTelemetry):
    """NVIDIA's management library, through `pynvml`; every field is asked for on its own, for not every card has it.

    The processors are watched too: a model that is bound by launching kernels is slowed down by a busy one.
    """

    def __init__(self, nvml: Any, handle: Any, watch: ProcessorWatch | None = None) -> None:
        super().__init__(watch)
        self._nvml = nvml
        self._handle = handle
        self._utilization_seen_us = 0

    @classmethod
    def open(cls, device: torch.device) -> NvmlTelemetry:
        """The telemetry of one card; raises what NVML raises."""
        found = cls(*open_nvml(device))
        found._computing()  # what was before the race is no news
        return found

    def read(self) -> dict[str, Any]:
        """Clocks in MHz, temperature in degrees Celsius, power in watts, throttle reasons as words, who computes."""
        power_mw = self._ask("nvmlDeviceGetPowerUsage")
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        return {
            "clock_mhz": self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_MEM),
            "temperature_c": self._ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
            "power_w": None if power_mw is None else power_mw / 1000,
            "throttled_by": [] if reasons is None else throttle_reasons(reasons),
            "gpu_used_by": self._computing(),
            **super().read(),
        }

    def facts(self) -> dict[str, Any]:
        """Name, UUID, driver and the power limit."""
        limit_mw = self._ask("nvmlDeviceGetPowerManagementLimit")
        return {
            "gpu_name": _text(self._ask("nvmlDeviceGetName")),
            "gpu_uuid": _text(self._ask("nvmlDeviceGetUUID")),
            "driver": _text(self._nvml.nvmlSystemGetDriverVersion()),
            "power_limit_w": None if limit_mw is None else limit_mw / 1000,
        }

    def others(self) -> list[str]:
        """Compute processes that are not ours."""
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        return [f"pid {p.pid} ({(p.usedGpuMemory or 0) / 2**20:.0f} MiB)" for p in processes if not _is_ours(p.pid)]

    def energy_mj(self) -> int | None:
        """Energy since the driver was loaded, in millijoules; None before Volta and where it is not supported."""
        found = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if found is None else int(found)

    def _computing(self) -> list[str] | None:
        """Other processes that computed since the last block, as 'pid 123 (40 %)'; None where nobody can say.

        In a container the driver may count in the numbers of the host, and then cannot tell us from others.
        """
        running = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        samples = self._ask("nvmlDeviceGetProcessUtilization", self._utilization_seen_us)
        if samples is None or os.getpid() not in {process.pid for process in running}:
            return None
        new = [sample for sample in samples if sample.timeStamp > self._utilization_seen_us]
        self._utilization_seen_us = max((sample.timeStamp for sample in new), default=self._utilization_seen_us)
        foreign = [sample for sample in new if sample.smUtil >= BUSY_SM_PERCENT and not _is_ours(sample.pid)]
        return sorted({f"pid {sample.pid} ({sample.smUtil} %)" for sample in foreign})

    def _ask(self, function: str, *arguments: Any) -> Any:
        """One field, or None where this card or driver does not support it."""
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None


def open_nvml(device: torch.device) -> tuple[Any, Any]:
    """(the library, its handle of the device); found by UUID, which survives CUDA_VISIBLE_DEVICES.

    Raises:
        what NVML raises, or the import of a library that is not there.
    """
    nvml = importlib.import_module("pynvml")
    nvml.nvmlInit()
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return nvml, nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")


def throttle_reasons(mask: int) -> list[str]:
    """NVML's bit mask in words.

    >>> throttle_reasons(0x4 | 0x40 | 0x1)
    ['software power cap', 'hardware thermal slowdown']
    """
    return [words for bit, words in THROTTLE_REASONS.items() if mask & bit]


def throttled_by(sample: Mapping[str, Any]) -> list[str]:
    """Why the device was slow while a sample was taken; empty when it was not."""
    return list(sample.get("throttled_by", ()))


def open_telemetry(device: torch.device) -> tuple[Telemetry, str]:
    """The device's telemetry, and a warning where a GPU cannot be asked (empty otherwise)."""
    if device.type != "cuda":
        return ProcessorTelemetry(), ""
    try:
        return NvmlTelemetry.open(device), ""
    except Exception as error:  # pynvml raises its own family, and a missing library or symbol raises others
        return (
            ProcessorTelemetry(),
            f"the GPU's clocks could not be read ({type(error).__name__}), throttling goes unseen",
        )


def _is_ours(pid: int) -> bool:
    """Whether it is this process or one of its group: the untouched model may be timed in a process of its own."""
    if pid == os.getpid():
        return True
    try:
        return os.getpgid(pid) == os.getpgrp()
    except (OSError, AttributeError):  # gone, not ours to ask about, or a system without groups
        return False


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
