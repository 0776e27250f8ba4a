"""Whether this project's numbers can be trusted: its own procedure put to the proof where the answer is known.

Questions and methods (each in a file of `benchmarks/truth/`; every trial is a fresh measure process, as in a search):

    aa       The empty recipe against the untouched model, 7 workloads of 0.1 to 100 ms, 32 times each: how often is
             nothing called faster than nothing, and how far does a ratio move from process to process?   20 minutes
    noise    110 trials while processes burn all cores at random moments, 55 quiet ones between: are they flagged?
             Burns every core that it may use; restrict it with taskset.                                   15 minutes
    planted  A chain of equal blocks of which the candidate has some less, so that 0, 1, 2, 5 or 10 % is true, 40 times
             each, after a calibration of the chain in 5 processes: detection, bias, coverage.             20 minutes
    peers    The same effects as others measure: 100 calls of one model, then 100 of the other.            10 minutes
    winners  Searches of two minutes until 20 have a winner, which is then raced twice more: does the second figure fall
             into the interval of the first?                                                     75 to 90 minutes
    cost     The seconds of each phase (from the A/A rows), 6 whole runs of two minutes by the command line: how much
             of the wall time is not measuring?                                                            15 minutes

Minutes are for a core of a small server with nothing beside it. A share is told with its 95 % interval (Wilson), and a
target counts as decided only with the number of cases that it speaks of. The spread between processes, by which claims
are widened, is taken from the A/A rows of the other subjects. One thread; raw pairs are kept.

    make bench-truth                       everything; rows are written as they come, RESUME=1 goes on
    make bench-truth QUICK=1               a few of each; six minutes
    python benchmarks/truth.py --parts aa noise --count 20 --resume     at most 20 new rows of each of these parts
    python benchmarks/truth.py --docs      only write the tables into docs/truth.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.truth import aa, cost, noise, page, planted, winners  # noqa: E402
from benchmarks.truth.book import RESULTS, Book, alone, kept_rows  # noqa: E402
from benchmarks.truth.targets import target_text, targets_of  # noqa: E402

PARTS = {
    "aa": aa.measure,
    "noise": noise.measure,
    "planted": planted.measure,
    "peers": planted.measure_as_peers,
    "winners": winners.measure,
    "cost": cost.measure,
}


def main() -> None:
    """Measure the parts asked for, print the targets, write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--count", type=int, help="at most so many new rows of each part in this call")
    parser.add_argument("--quick", action="store_true", help="a few of each; no target is decided")
    parser.add_argument("--resume", action="store_true", help="keep the rows that these parts have")
    parser.add_argument("--docs", action="store_true", help="measure nothing, only write docs/truth.md")
    chosen = parser.parse_args()
    if not chosen.docs:
        with alone():
            measure_parts(chosen)
    page.refresh()


def measure_parts(chosen: argparse.Namespace) -> None:
    """Part by part; the rows of parts that were not asked for stay as they are."""
    book = Book(kept_rows([] if chosen.resume else chosen.parts), targets_of, chosen.count)
    try:
        for name in chosen.parts:
            book.begin(name)
            PARTS[name](book, quick=chosen.quick)
    except KeyboardInterrupt:
        print("\ninterrupted; the rows so far are kept, --resume goes on")
    book.write()
    print()
    for target in targets_of(list(book.rows.values())):
        print(target_text(target))
    print(f"written to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
