"""A/A: the empty recipe against the untouched model. Whatever differs here is the procedure's own error.

Every trial is a process of its own with a seed of its own. Three things are counted: how often nothing is called faster
than nothing, how often its interval leaves out the truth (1), and how far the same ratio moves from process to
process, which no interval made inside one process can know.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks.truth.book import Book, Row
from benchmarks.truth.trials import facts_of, runner_of, subject_of

PART = "aa"
# From a tenth of a millisecond to a tenth of a second per call.
SUBJECTS = (
    ("sequential", "tiny", "forward"),
    ("sequential", "small", "forward"),
    ("convnet", "tiny", "forward_single"),
    ("convnet", "tiny", "forward"),
    ("vit", "tiny", "forward_single"),
    ("llama", "tiny", "prefill"),
    ("llama", "tiny", "decode"),
)
TURNS, QUICK_TURNS = 32, 2


def measure(book: Book, *, quick: bool) -> None:
    """Turn by turn through all subjects, so that a slow hour of the machine is shared by all of them."""
    with runner_of() as runner:
        for key, subject, turn in orders(QUICK_TURNS if quick else TURNS):
            if book.is_full():
                return
            if not book.has(key):
                names = dict(zip(("model", "size", "workload"), subject, strict=True))
                measured = runner.measure(subject_of(*subject, seed=turn))
                print_row(book.add(PART, key, {**names, "turn": turn, **facts_of(measured)}))


def orders(turns: int) -> Iterator[tuple[str, tuple[str, str, str], int]]:
    """(key, subject, turn) of every row."""
    for turn in range(turns):
        for subject in SUBJECTS:
            yield f"{PART}/{'/'.join(subject)}/{turn}", subject, turn


def print_row(row: Row) -> None:
    """One line."""
    names = f"{row['model']} {row['size']}, {row['workload']}"
    if "speed" not in row:
        print(f"  {names:34} {row['outcome']}: {row['reason'][:90]}", flush=True)
        return
    speed, middle = row["speed"], statistics.median(pair[0] for pair in row["pairs_ms"])
    told = f"{speed['value']:.4f} ({speed['low']:.4f} to {speed['high']:.4f})"
    print(f"  {names:34} {middle:7.2f} ms  {told}  {len(row['pairs_ms'])} pairs, {row['seconds']:.1f} s", flush=True)
