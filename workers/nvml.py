"""The one place that talks to NVML, NVIDIA's management library (module `pynvml` of the distribution nvidia-ml-py).

`Nvml` is the seam: two questions that a test answers itself. `NvmlDriver` answers them with the real library, loaded
late because most machines have none. A value that a card, driver or MIG slice does not support is None; a card that
no longer answers is `CardLost`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

import psutil


class Nvml(Protocol):
    """The questions we ask a driver; `NvmlDriver` asks NVML, tests answer themselves. All but `cards` may raise."""

    def cards(self) -> Sequence[tuple[str, str]]:
        """(UUID, name) of every card that answers; empty without a driver."""

    def read(self, uuid: str, question: str) -> Any:
        """One value in the driver's unit, None where it is not supported; raises `CardLost`."""


class CardLost(Exception):
    """The card no longer answers; the message is the driver's."""


class NvmlDriver:
    """NVML itself. One thread asks at a time; without a library or driver it has no cards and a `reason`."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}
        self._names: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self.reason = ""
        try:
            import pynvml

            self._nvml = pynvml
            pynvml.nvmlInit()
            for index in range(pynvml.nvmlDeviceGetCount()):
                self._add(index)
        except Exception as error:  # a broken driver raises anything from NVMLError to OSError; all mean "no cards"
            self.reason = f"no NVIDIA driver answers ({error})"

    def cards(self) -> Sequence[tuple[str, str]]:
        """(UUID, name) of every card that answered at start."""
        return self._names

    def read(self, uuid: str, question: str) -> Any:
        """One value, None where the driver does not support it; `CardLost` when the card is gone."""
        lost = (self._nvml.NVML_ERROR_GPU_IS_LOST, self._nvml.NVML_ERROR_UNINITIALIZED)
        try:
            with self._lock:
                return getattr(self, f"_{question}")(self._handles[uuid])
        except self._nvml.NVMLLibraryMismatchError:  # no NVMLError: an older driver without this function's version
            return None
        except self._nvml.NVMLError as error:
            if error.value in lost:
                raise CardLost(str(error)) from error
            return None

    def _add(self, index: int) -> None:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            uuid, name = (_text(ask(handle)) for ask in (self._nvml.nvmlDeviceGetUUID, self._nvml.nvmlDeviceGetName))
        except self._nvml.NVMLError as error:
            self.reason = f"card {index} does not answer ({error})"
            return
        self._handles[uuid] = handle
        self._names.append((uuid, name))

    def _utilization(self, handle: Any) -> float:
        return float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)

    def _memory(self, handle: Any) -> tuple[int, int]:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        return int(memory.used), int(memory.total)

    def _power_mw(self, handle: Any) -> float:
        return float(self._nvml.nvmlDeviceGetPowerUsage(handle))

    def _temperature(self, handle: Any) -> float:
        return float(self._nvml.nvmlDeviceGetTemperature(handle, self._nvml.NVML_TEMPERATURE_GPU))

    def _clock_mhz(self, handle: Any) -> float:
        return float(self._nvml.nvmlDeviceGetClockInfo(handle, self._nvml.NVML_CLOCK_SM))

    def _clock_event_reasons(self, handle: Any) -> int:
        return int(self._nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))

    def _processes(self, handle: Any) -> list[dict[str, Any]]:
        found = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return [{"pid": p.pid, "name": _process_name(p.pid), "memory_bytes": p.usedGpuMemory} for p in found]


def _process_name(pid: int) -> str | None:
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
