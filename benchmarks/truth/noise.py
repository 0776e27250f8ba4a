"""Noise: processes that do nothing but burn all cores, switched on and off at random while trials run.

The burners start once, idle; during a noisy trial a thread switches all of them on and off again at random
moments until the trial is over, and writes down when. So it is known how much of each timed phase they disturbed;
a trial counts as noisy when it was at least a tenth. Between the noisy trials are quiet ones, because a procedure
that flags everything would find all the noise.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.truth.book import Book, Row
from benchmarks.truth.trials import facts_of, runner_of, subject_of
from hybrid_core.records import Outcome

PART = "noise"
SUBJECTS = (("convnet", "tiny", "forward"), ("vit", "tiny", "forward"), ("llama", "tiny", "prefill"))
NOISY, QUICK_NOISY = 110, 4
LEAST_DISTURBED = 0.1
ON_S, OFF_S = (0.2, 1.5), (0.2, 1.5)
# Told by one byte, and gone when its pipe is: a benchmark that is killed must not leave a burning core behind.
BURNER = """
import os, select, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
burning = False
while True:
    if select.select([0], [], [], 0 if burning else None)[0]:
        order = os.read(0, 1)
        if not order:
            break
        burning = order == b"1"
    for _ in range(100_000 * burning):
        pass
"""
ON, OFF = b"1", b"0"


def measure(book: Book, *, quick: bool) -> None:
    """Two noisy trials, then a quiet one, through all subjects."""
    noisy = QUICK_NOISY if quick else NOISY
    with burners() as processes, runner_of() as runner:
        for turn in range(noisy * 3 // 2):
            is_noisy, subject = turn % 3 != 2, SUBJECTS[turn // 3 % len(SUBJECTS)]
            key = f"{PART}/{turn}"
            if book.is_full():
                return
            if not book.has(key):
                with switched(processes if is_noisy else [], seed=turn) as spans:
                    measured = runner.measure(subject_of(*subject, seed=turn))
                disturbed = covered(spans, measured.timed) if measured.timed else 0.0
                names = dict(zip(("model", "size", "workload"), subject, strict=True))
                noise = {"noisy": is_noisy, "disturbed_share": round(disturbed, 3), "burners": len(processes)}
                print_row(book.add(PART, key, {**names, "turn": turn, **noise, **facts_of(measured)}))


@contextlib.contextmanager
def burners() -> Iterator[list[subprocess.Popen[bytes]]]:
    """One burner on each core that this process may use, waiting for its order."""
    cores = sorted(os.sched_getaffinity(0))
    # A session of its own: Ctrl-C is for the benchmark, which then ends them.
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "start_new_session": True}
    started = [subprocess.Popen([sys.executable, "-c", BURNER, str(core)], **options) for core in cores]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextlib.contextmanager
def switched(processes: Sequence[subprocess.Popen[bytes]], seed: int) -> Iterator[list[tuple[float, float]]]:
    """Switch the processes on and off at random until the block ends; the list tells when they were on."""
    spans: list[tuple[float, float]] = []
    over = threading.Event()

    def work() -> None:
        generator = random.Random(seed)
        while not over.wait(generator.uniform(*OFF_S)):
            tell_all(processes, ON)
            began = time.monotonic()
            over.wait(generator.uniform(*ON_S))
            tell_all(processes, OFF)
            spans.append((began, time.monotonic()))

    thread = threading.Thread(target=work, daemon=True)
    if processes:
        thread.start()
    try:
        yield spans
    finally:
        over.set()
        if processes:
            thread.join()


def tell_all(processes: Sequence[subprocess.Popen[bytes]], order: bytes) -> None:
    """The same order to each."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(order)
        process.stdin.flush()


def covered(spans: Sequence[tuple[float, float]], whole: tuple[float, float]) -> float:
    """Share of `whole` that lies inside the spans.

    >>> covered([(0.0, 1.0), (2.0, 3.0)], (0.5, 2.5))
    0.5
    """
    began, ended = whole
    inside = sum(max(0.0, min(end, ended) - max(start, began)) for start, end in spans)
    return inside / (ended - began)


def is_disturbed(row: Row) -> bool:
    """Whether the burners ran for long enough of the timed phase."""
    return bool(row["noisy"]) and row["disturbed_share"] >= LEAST_DISTURBED


def is_flagged(row: Row) -> bool:
    """Whether the trial says of itself that its conditions were not quiet."""
    return row["outcome"] == Outcome.UNSTABLE or bool(row.get("conditions", {}).get("flagged"))


def print_row(row: Row) -> None:
    """One line."""
    kind = f"burners on for {row['disturbed_share']:.0%}" if row["noisy"] else "quiet"
    told = "; ".join(row.get("conditions", {}).get("why", ())) or row.get("reason", "")
    print(
        f"  {row['model']} {row['workload']}, {kind}: {'FLAGGED' if is_flagged(row) else '-'} {told[:150]}", flush=True
    )
