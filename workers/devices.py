"""What the processor and the graphics cards are doing, once a second, with "unknown" where nobody knows.

NVML (module `pynvml` of the distribution nvidia-ml-py) is asked through one small adapter. Every field is asked for by
itself, because old drivers, laptops and MIG slices answer some questions with "not supported": such a field is None
and never 0. No driver is a normal machine; a card that falls off the bus is withdrawn with its reason, and the
others go on. A GPU's utilization is the share of time in which *any* kernel ran, not how full the chip was.
"""

from __future__ import annotations

import functools
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from storage.samples import DeviceSample
from workers.nvml import CardLost, Nvml

# Clock event reasons that mean "slower than it could be", by their bit (NVML's nvmlClocksEventReasons).
SLOWED_BY = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "heat", 0x40: "heat (hardware)", 0x80: "power brake"}


def default_threads() -> int:
    """Threads a measurement uses unless told otherwise: all physical cores but one.

    The hub, the dashboard and the system need a core: with two spinning threads beside another job a measurement
    was seen to run up to 16 times slower than with one thread on a core of its own.
    """
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return max(1, min(cores, usable_cores()) - 1)


def usable_cores() -> int:
    """How many cores this process may run on; a container often has fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def cpu_title() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine() or "CPU"


def cpu_sample(now: float) -> DeviceSample:
    """Utilization since the last call, memory, clock, temperature and load of this machine."""
    memory = psutil.virtual_memory()
    clock = _quietly(lambda: psutil.cpu_freq().current)
    return DeviceSample(
        device="cpu",
        kind="cpu",
        title=cpu_title(),
        time=now,
        utilization_percent=psutil.cpu_percent(),
        memory_used_bytes=memory.total - memory.available,
        memory_total_bytes=memory.total,
        temperature_c=_quietly(_cpu_temperature),
        clock_mhz=clock or None,
        detail={
            "cores": usable_cores(),
            "load_1m": _quietly(lambda: psutil.getloadavg()[0]),
            "utilization_means": "share of time the cores were busy",
        },
    )


def cpu_processes(limit: int = 8) -> list[dict[str, Any]]:
    """The processes that keep the processor busiest since the last call."""
    rows = []
    for process in psutil.process_iter(["name", "memory_info"]):
        try:
            busy = process.cpu_percent()
            memory = process.info["memory_info"]
            rows.append(
                {
                    "pid": process.pid,
                    "name": process.info["name"],
                    "cpu_percent": busy,
                    "memory_bytes": memory.rss if memory else None,
                }
            )
        except psutil.Error:
            continue
    return sorted(rows, key=lambda row: -row["cpu_percent"])[:limit]


class GpuSampler:
    """Samples of every card; remembers which were lost and why."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._titles = dict(nvml.cards())
        self.lost: dict[str, str] = {}

    def samples(self, now: float) -> list[DeviceSample]:
        """One sample per card that still answers."""
        found = []
        for uuid, title in self._titles.items():
            if uuid in self.lost:
                continue
            try:
                found.append(self._sample(uuid, title, now))
            except CardLost as error:
                self.lost[uuid] = f"{title} ({uuid}) no longer answers: {error}; it is withdrawn until the hub restarts"
        return found

    def processes(self, uuid: str) -> list[dict[str, Any]]:
        """Who computes on the card; an empty list where the driver does not tell. Slow: ask every few seconds."""
        try:
            return [] if uuid in self.lost else list(self._nvml.read(uuid, "processes") or [])
        except CardLost:
            return []

    @property
    def uuids(self) -> list[str]:
        """The cards that still answer."""
        return [uuid for uuid in self._titles if uuid not in self.lost]

    def _sample(self, uuid: str, title: str, now: float) -> DeviceSample:
        ask = functools.partial(self._nvml.read, uuid)
        memory, power_mw, reasons = ask("memory"), ask("power_mw"), ask("clock_event_reasons")
        return DeviceSample(
            device=uuid,
            kind="gpu",
            title=title,
            time=now,
            utilization_percent=ask("utilization"),
            memory_used_bytes=memory[0] if memory else None,
            memory_total_bytes=memory[1] if memory else None,
            power_w=None if power_mw is None else power_mw / 1000,
            temperature_c=ask("temperature"),
            clock_mhz=ask("clock_mhz"),
            detail={
                "slowed_by": None if reasons is None else [name for bit, name in SLOWED_BY.items() if reasons & bit],
                "utilization_means": "share of time any kernel ran",
            },
        )


class DeviceWatch:
    """All devices of this machine, with each one's last list of processes, for the scheduler to call."""

    def __init__(self, gpus: GpuSampler, clock: Callable[[], float] = time.time) -> None:
        self._gpus, self._clock = gpus, clock
        self._processes: dict[str, list[dict[str, Any]]] = {}

    @property
    def lost(self) -> list[str]:
        """A sentence per card that was withdrawn."""
        return list(self._gpus.lost.values())

    def sample_cpu(self) -> list[DeviceSample]:
        """One sample of the processor."""
        return self._with_processes([cpu_sample(self._clock())])

    def sample_gpus(self) -> list[DeviceSample]:
        """One sample per card; apart from the processor's, because a driver in trouble may not answer for long."""
        return self._with_processes(self._gpus.samples(self._clock()))

    def _with_processes(self, samples: list[DeviceSample]) -> list[DeviceSample]:
        return [replace(sample, processes=self._processes.get(sample.device, ())) for sample in samples]

    def look_at_processes(self) -> None:
        """Renew the lists of processes; on a GPU this briefly holds the driver's global lock."""
        gpu_processes = {uuid: self._gpus.processes(uuid) for uuid in self._gpus.uuids}
        self._processes = {"cpu": cpu_processes(), **gpu_processes}


def _cpu_temperature() -> float | None:
    sensors = psutil.sensors_temperatures()
    for name in ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz"):
        if sensors.get(name):
            return float(sensors[name][0].current)
    return None


def _quietly(read: Callable[[], Any]) -> Any:
    """What `read` says, None where this system has no such thing."""
    try:
        return read()
    except (AttributeError, OSError, NotImplementedError, RuntimeError):
        return None
