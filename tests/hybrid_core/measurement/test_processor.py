"""The kernel's counters are read from a planted /proc; one real neighbour must become visible."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from hybrid_core.measurement import neighbours, processor
from hybrid_core.measurement.neighbours import Census, Ticks
from hybrid_core.measurement.processor import Counters, Kernel, ProcessorWatch

OWN = os.getpid()
SCHEDSTAT = {"11": (900, 4_000_000), "12": (50, 1_000_000)}


def stat_of(pid, name, start, user, system):
    return f"{pid} ({name}) R 1 {pid} {pid} 0 -1 0 0 0 0 0 {user} {system} 0 0 20 0 1 0 {start} 0 0\n"


class PlantedProc:
    """A /proc with two processors, of which this process may use the second, and three processes."""

    def __init__(self, folder):
        self.folder = folder
        self.cores = {0: [0] * 8, 1: [0] * 8}
        self.processes = {OWN: ("python", 100, 0), 500: ("a (b) c", 200, 0), 501: ("idle", 300, 0)}
        self.write()

    def write(self, waited_ns=SCHEDSTAT):
        for tid, (ran, waited) in waited_ns.items():
            task = self.folder / "self" / "task" / tid
            task.mkdir(parents=True, exist_ok=True)
            (task / "schedstat").write_text(f"{ran} {waited} 7\n")
        lines = [f"cpu{core} {' '.join(map(str, ticks))}" for core, ticks in self.cores.items()]
        total = [sum(column) for column in zip(*self.cores.values(), strict=True)]
        (self.folder / "stat").write_text("\n".join([f"cpu  {' '.join(map(str, total))}", *lines, "intr 5"]))
        for pid, (name, start, used) in self.processes.items():
            (self.folder / str(pid)).mkdir(exist_ok=True)
            (self.folder / str(pid) / "stat").write_text(stat_of(pid, name, start, used // 2, used - used // 2))
        (self.folder / "cpuinfo").write_text("cpu MHz : 2400.5\ncpu MHz : 3100.0\n")

    def kernel(self):
        return Kernel(str(self.folder), allowed=frozenset({1}))


@pytest.fixture
def proc(tmp_path):
    return PlantedProc(tmp_path)


def tick_ms():
    return 1000 / os.sysconf("SC_CLK_TCK")


def test_waiting_is_summed_over_all_threads_and_new_ones_count_in_full(proc):
    watch = ProcessorWatch(proc.kernel())
    with watch.watching():
        proc.write({"11": (900, 6_500_000), "12": (50, 1_000_000), "13": (5, 250_000)})
    assert watch.read()["waited_ms"] == pytest.approx(2.5 + 0.25)


def test_what_happens_between_two_watched_stretches_does_not_count(proc):
    watch = ProcessorWatch(proc.kernel())
    with watch.watching():
        pass
    proc.write({"11": (900, 90_000_000), "12": (50, 1_000_000)})
    with watch.watching():
        proc.write({"11": (900, 91_000_000), "12": (50, 1_000_000)})
    assert watch.read()["waited_ms"] == pytest.approx(1.0)
    assert "waited_ms" not in watch.read(), "each block begins anew"


def test_stolen_and_busy_time_is_that_of_the_processors_this_process_may_use(proc):
    watch = ProcessorWatch(proc.kernel())
    with watch.watching():
        proc.cores = {0: [70, 0, 0, 0, 0, 0, 0, 30], 1: [6, 1, 2, 80, 3, 0, 1, 7]}
        proc.write()
    reading = watch.read()
    assert reading["stolen_ms"] == pytest.approx(7 * tick_ms())
    assert reading["foreign_ms"] + reading["own_ms"] == pytest.approx(10 * tick_ms())


def test_a_system_without_proc_says_none_and_still_knows_its_own_time(tmp_path):
    watch = ProcessorWatch(Kernel(str(tmp_path / "missing")))
    with watch.watching():
        pass
    reading = watch.read()
    assert (reading["waited_ms"], reading["stolen_ms"], reading["foreign_ms"]) == (None, None, None)
    assert reading["own_ms"] >= 0 and reading["wall_ms"] > 0 and "mhz" not in reading
    assert watch.census() is None


def test_the_clock_of_the_fastest_core_is_asked_for_at_most_once_a_second(proc, monkeypatch):
    now = [10 * 10**9]
    monkeypatch.setattr(processor, "_monotonic_ns", lambda: now[0])
    watch, clocks = ProcessorWatch(proc.kernel()), []
    for _ in range(5):
        clocks.append(watch.read().get("mhz"))
        now[0] += 400_000_000
    assert clocks == [3100.0, None, None, 3100.0, None]


def test_sleep_of_the_machine_is_the_boot_clock_running_ahead():
    awake, asleep = Counters(0, 0, suspended_ns=5_000_000), Counters(3_000_000, 0, suspended_ns=65_000_000)
    assert processor.difference(awake, asleep)["suspended_ms"] == 60.0
    assert processor.difference(Counters(0, 0), Counters(1, 0))["suspended_ms"] is None


def test_a_thread_that_ended_takes_nothing_away():
    before = Counters(0, 0, waited_ns={"1": 500, "2": 900_000_000})
    assert processor.difference(before, Counters(10, 0, waited_ns={"1": 500}))["waited_ms"] == 0.0


def test_processes_that_were_busy_are_named_and_ourselves_are_not(proc):
    before = proc.kernel().census()
    proc.processes = {
        OWN: ("python", 100, 90),
        500: ("a (b) c", 200, 40),
        501: ("idle", 300, 2),
        502: ("late", 900, 25),
    }
    proc.write()
    after = proc.kernel().census()
    second = SimpleNamespace(**{**vars(after), "wall_ns": before.wall_ns + round(100 * tick_ms() * 1e6)})
    found = neighbours.busy_processes(before, second, frozenset({OWN}), 0.05)
    assert found == [{"pid": 500, "name": "a (b) c", "share": 0.4}, {"pid": 502, "name": "late", "share": 0.25}]


def test_a_number_used_again_by_another_process_is_another_process():
    ticks = Ticks(0, 0, 0)
    before = Census(0, {(7, "100"): 5000.0}, {7: "old"}, ticks)
    after = Census(10**9, {(7, "200"): 400.0}, {7: "new"}, ticks)
    assert neighbours.busy_processes(before, after, frozenset(), 0.05) == [{"pid": 7, "name": "new", "share": 0.4}]


def test_the_foreign_share_is_what_is_neither_idle_nor_stolen_nor_ours():
    before = Census(0, {(1, "a"): 100.0, (2, "b"): 0.0}, {}, Ticks(0.0, 0.0, 0.0))
    after = Census(10**9, {(1, "a"): 500.0, (2, "b"): 300.0}, {}, Ticks(1000.0, 800.0, 50.0))
    assert neighbours.foreign_share(before, after, frozenset({1})) == pytest.approx(0.4)
    assert neighbours.foreign_share(before, after, frozenset({1, 2})) == pytest.approx(0.1)
    assert neighbours.stolen_share(before, after) == pytest.approx(0.05)


def test_shares_of_a_few_hundredths_of_a_second_are_no_shares():
    before, after = Census(0, {}, {}, Ticks(0, 0, 0)), Census(0, {}, {}, Ticks(100.0, 90.0, 10.0))
    assert neighbours.foreign_share(before, after, frozenset()) is None
    assert neighbours.stolen_share(before, after) is None


def test_two_processes_that_take_turns_add_up():
    here = {"wall_ms": 10.0, "own_ms": 10.0, "waited_ms": 0.0, "mhz": 3000.0}
    there = {"wall_ms": 10.0, "own_ms": 4.0, "waited_ms": 6.0}
    together = processor.add_readings(here, there)
    assert together == {"wall_ms": 20.0, "own_ms": 14.0, "waited_ms": 6.0, "mhz": 3000.0}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot keep two processes on one core")
def test_a_busy_process_on_the_same_core_is_seen_and_named():
    """No time is judged: both run until the kernel has shared the core out between them, which it must."""
    allowed = os.sched_getaffinity(0)
    watch, core = ProcessorWatch(), max(allowed)
    if watch.census() is None or Kernel().counters().waited_ns is None:
        pytest.skip("this kernel does not count waiting")
    os.sched_setaffinity(0, {core})
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        waited_ms, deadline, before = 0.0, time.monotonic() + 20, watch.census()
        seen: set[int] = set()
        while (waited_ms < 100 or neighbour.pid not in seen) and time.monotonic() < deadline:
            with watch.watching():
                until = time.monotonic() + 0.1
                while time.monotonic() < until:
                    pass
            waited_ms += watch.read()["waited_ms"]
            found = neighbours.busy_processes(before, watch.census(), frozenset({OWN}), 0.0)
            seen = {other["pid"] for other in found}
    finally:
        os.sched_setaffinity(0, allowed)
        neighbour.kill()
        neighbour.wait()
    assert waited_ms >= 100
    assert neighbour.pid in seen and OWN not in seen
