"""What the processor says about a timed block: who else wanted it while our own threads wanted it.

The kernel knows how long each thread was ready to run but had to wait for a processor (`schedstat`, second number).
A model that sleeps or works elsewhere does not wait, so this tells a busy neighbour from the model's own nature, which
the share of processor time alone cannot. Counters are read just before and just after the timed samples of each pair;
all of them together cost about a tenth of a millisecond. Source: kernel documentation, "sched-stats" and proc(5).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hybrid_core.measurement.environment import cpu_mhz
from hybrid_core.measurement.neighbours import Census, Ticks, take_census, ticks_between

# Taken at import, before a model's code can patch them.
_monotonic_ns, _process_ns = time.monotonic_ns, time.process_time_ns
_clock_ns = getattr(time, "clock_gettime_ns", None)
_resource: Any = importlib.import_module("resource") if os.name == "posix" else None
_BOOT, _MONOTONIC = getattr(time, "CLOCK_BOOTTIME", None), getattr(time, "CLOCK_MONOTONIC", None)

CLOCK_EVERY_NS = 1_000_000_000  # /proc/cpuinfo asks every core, which is slow on machines with many
BLOCK_KEYS = ("wall_ms", "own_ms", "waited_ms", "switches", "stolen_ms", "foreign_ms", "suspended_ms")


@dataclass(frozen=True)
class Counters:
    """One look at everything that only grows; None is what this system does not say."""

    wall_ns: int
    own_ns: int
    waited_ns: Mapping[str, int] | None = None
    switches: int | None = None
    ticks: Ticks | None = None
    suspended_ns: int | None = None


class Kernel:
    """The kernel's files under `proc`, and this process's clocks."""

    def __init__(self, proc: str = "/proc", allowed: frozenset[int] | None = None) -> None:
        self._proc = proc
        self._fixed = allowed
        self._tick_ms = 1000 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 10.0

    def counters(self) -> Counters:
        """Everything at this moment."""
        return Counters(
            wall_ns=_monotonic_ns(),
            own_ns=_process_ns(),
            waited_ns=self._waited_ns(),
            switches=_involuntary_switches(),
            ticks=self._ticks(),
            suspended_ns=suspended_ns(),
        )

    def census(self) -> Census | None:
        """Who used the processors so far; None where there is no /proc."""
        ticks = self._ticks()
        if ticks is None:
            return None
        texts = {int(pid): self._text(f"{self._proc}/{pid}/stat") for pid in self._listed(self._proc)}
        return take_census(_monotonic_ns(), texts, ticks, self._tick_ms)

    def clock_mhz(self) -> list[float] | None:
        """Current clock of each core, where the kernel says."""
        return cpu_mhz(self._text(f"{self._proc}/cpuinfo"))

    def _waited_ns(self) -> dict[str, int] | None:
        folder = f"{self._proc}/self/task"
        texts = {tid: self._text(f"{folder}/{tid}/schedstat") for tid in self._listed(folder)}
        waited = {tid: int(text.split()[1]) for tid, text in texts.items() if text}
        return waited or None

    def _ticks(self) -> Ticks | None:
        return processor_ticks(self._text(f"{self._proc}/stat"), self._allowed(), self._tick_ms)

    def _allowed(self) -> frozenset[int] | None:
        """Asked each time: a process may be moved to other processors."""
        if self._fixed is not None or not hasattr(os, "sched_getaffinity"):
            return self._fixed
        return frozenset(os.sched_getaffinity(0))

    @staticmethod
    def _listed(folder: str) -> list[str]:
        try:
            return [name for name in os.listdir(folder) if name.isdigit()]  # noqa: PTH208 (a third of the time)
        except OSError:
            return []

    @staticmethod
    def _text(path: str) -> str:
        """A kernel file, empty where there is none: threads and processes end while one looks."""
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (half the time)
                return file.readall().decode(errors="replace")
        except OSError:
            return ""


class ProcessorWatch:
    """Adds up what happened to this process while it is watched, block by block."""

    def __init__(self, kernel: Kernel | None = None) -> None:
        self._kernel = kernel or Kernel()
        self._sum: dict[str, Any] = {}
        self._clock_read_ns: int | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """What is timed happens inside; several times per block."""
        before = self._kernel.counters()
        yield
        self._sum = add_readings(self._sum, difference(before, self._kernel.counters()))

    def read(self) -> dict[str, Any]:
        """What was watched since the last call, and at most once a second the cores' clocks."""
        reading, self._sum = self._sum, {}
        now = _monotonic_ns()
        if self._clock_read_ns is None or now - self._clock_read_ns >= CLOCK_EVERY_NS:
            self._clock_read_ns = now
            clocks = self._kernel.clock_mhz()
            reading = {**reading, **({"mhz": max(clocks)} if clocks else {})}
        return reading

    def census(self) -> Census | None:
        """Who used the processors so far."""
        return self._kernel.census()


def difference(before: Counters, after: Counters) -> dict[str, Any]:
    """One watched stretch as a reading; a clock that stood still and a thread that ended count as nothing."""
    own_ms = (after.own_ns - before.own_ns) / 1e6
    ticks = ticks_between(before.ticks, after.ticks) if before.ticks and after.ticks else None
    return {
        "wall_ms": (after.wall_ns - before.wall_ns) / 1e6,
        "own_ms": own_ms,
        "waited_ms": _waited_between(before.waited_ns, after.waited_ns),
        "switches": _less(after.switches, before.switches),
        "stolen_ms": None if ticks is None else ticks.stolen_ms,
        "foreign_ms": None if ticks is None else ticks.busy_ms - own_ms,
        "suspended_ms": None if after.suspended_ns is None else (after.suspended_ns - (before.suspended_ns or 0)) / 1e6,
    }


def add_readings(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two readings as one: amounts add up, what only one of them knows stays.

    >>> add_readings({"own_ms": 2.0, "mhz": 2000.0}, {"own_ms": 1.5, "switches": None})
    {'own_ms': 3.5, 'switches': None, 'mhz': 2000.0}
    """
    total = {**second, **first}
    for key in first.keys() & second.keys() & set(BLOCK_KEYS):
        known = first[key] is not None and second[key] is not None
        total[key] = first[key] + second[key] if known else None
    return total


def processor_ticks(stat: str, allowed: frozenset[int] | None, tick_ms: float) -> Ticks | None:
    r"""The text of /proc/stat for the allowed processors (None = all), see proc(5); None where it says nothing.

    >>> processor_ticks("cpu  9 0 9 99 0 0 0 9\ncpu0 2 0 1 6 0 0 0 1\ncpu1 7 0 8 93 0 0 0 8", frozenset({0}), 10.0)
    Ticks(all_ms=100.0, busy_ms=30.0, stolen_ms=10.0)
    """
    rows = [line.split() for line in stat.splitlines() if line.startswith("cpu")]
    wanted = {"cpu"} if allowed is None else {f"cpu{number}" for number in allowed}
    numbers = [[int(word) for word in row[1:9]] for row in rows if row[0] in wanted and len(row) >= 9]
    if not numbers:
        return None
    every, idle, stolen = (sum(column) * tick_ms for column in (map(sum, numbers), _idle(numbers), _stolen(numbers)))
    return Ticks(every, every - idle - stolen, stolen)


def suspended_ns() -> int | None:
    """How long the machine has been asleep since its start; None where the system has no such clock."""
    if _clock_ns is None or _BOOT is None or _MONOTONIC is None:
        return None
    return int(_clock_ns(_BOOT) - _clock_ns(_MONOTONIC))


def _involuntary_switches() -> int | None:
    return None if _resource is None else int(_resource.getrusage(_resource.RUSAGE_SELF).ru_nivcsw)


def _waited_between(before: Mapping[str, int] | None, after: Mapping[str, int] | None) -> float | None:
    if before is None or after is None:
        return None
    return sum(waited - before.get(tid, 0) for tid, waited in after.items()) / 1e6


def _less(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _idle(rows: list[list[int]]) -> list[int]:
    return [row[3] + row[4] for row in rows]


def _stolen(rows: list[list[int]]) -> list[int]:
    return [row[7] for row in rows]
