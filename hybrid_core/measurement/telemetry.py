"""What a GPU says about itself between timed blocks: clocks, temperature, power, throttling, who else is there.

A GPU that hits its power or heat limit slows down whatever is "locked", so a block taken while throttled says nothing
about the candidate. Blocks are therefore read out one by one, throttled ones are taken again a fixed number of times,
and after that flagged. NVML stands behind the small `Telemetry` interface; on the CPU there is nothing to ask.
Source for the reasons: NVML API reference, "nvmlClocksEventReasons".
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Protocol

import torch

# Reasons that slow work down. Idle (1), application clocks (2) and display clocks (0x100) are not faults.
THROTTLE_REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "clocks synchronised with another GPU",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


class Telemetry(Protocol):
    """The device's own account of its state."""

    def read(self) -> dict[str, Any]:
        """One JSON-able sample; values the device does not know are None."""
        ...

    def facts(self) -> dict[str, Any]:
        """What does not change during a trial: name, driver, identity."""
        ...

    def others(self) -> list[str]:
        """Other processes on the device, as 'pid 123 (400 MiB)'."""
        ...


class NoTelemetry:
    """The CPU: nothing to ask."""

    def read(self) -> dict[str, Any]:
        """No sample."""
        return {}

    def facts(self) -> dict[str, Any]:
        """No facts."""
        return {}

    def others(self) -> list[str]:
        """Nobody is known."""
        return []


class NvmlTelemetry:
    """NVIDIA's management library, through `pynvml`; every field is asked for on its own, for not every card has it."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    @classmethod
    def open(cls, device: torch.device) -> NvmlTelemetry:
        """Find the device by its UUID, which survives CUDA_VISIBLE_DEVICES; raises what NVML raises."""
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        return cls(nvml, nvml.nvmlDeviceGetHandleByUUID(name))

    def read(self) -> dict[str, Any]:
        """Clocks in MHz, temperature in degrees Celsius, power in watts, throttle reasons as words."""
        power_mw = self._ask("nvmlDeviceGetPowerUsage")
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        return {
            "clock_mhz": self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_MEM),
            "temperature_c": self._ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
            "power_w": None if power_mw is None else power_mw / 1000,
            "throttled_by": [] if reasons is None else throttle_reasons(reasons),
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
        """Compute processes that are not this one."""
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        return [f"pid {p.pid} ({(p.usedGpuMemory or 0) / 2**20:.0f} MiB)" for p in processes if p.pid != os.getpid()]

    def _ask(self, function: str, *arguments: Any) -> Any:
        """One field, or None where this card or driver does not support it."""
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None


def throttle_reasons(mask: int) -> list[str]:
    """NVML's bit mask in words.

    >>> throttle_reasons(0x4 | 0x40 | 0x1)
    ['software power cap', 'hardware thermal slowdown']
    """
    return [words for bit, words in THROTTLE_REASONS.items() if mask & bit]


def throttled_by(sample: dict[str, Any]) -> list[str]:
    """Why a telemetry sample must be distrusted; empty when it need not."""
    return list(sample.get("throttled_by", ()))


def open_telemetry(device: torch.device) -> tuple[Telemetry, str]:
    """The device's telemetry, and a warning where a GPU cannot be asked (empty otherwise)."""
    if device.type != "cuda":
        return NoTelemetry(), ""
    try:
        return NvmlTelemetry.open(device), ""
    except Exception as error:  # pynvml raises its own family, and a missing library or symbol raises others
        return NoTelemetry(), f"the GPU's clocks could not be read ({type(error).__name__}), throttling goes unseen"


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
