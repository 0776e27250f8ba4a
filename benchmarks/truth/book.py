"""The rows measured so far, written as they come, so that an hour's work survives whatever ends the process.

A row is known by its `key`. What is asked for again is not measured again unless its part was started afresh.
Each row carries the text hash of the procedure that measured it: a share over rows of two procedures says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from hybrid_core.measurement.machine import describe_versions
from workers.devices import cpu_title

ROOT = Path(__file__).resolve().parents[2]
# One file for each instruction set: rows of two processors must not be counted together.
RESULTS = ROOT / "benchmarks" / "results" / f"truth-{describe_versions()['cpu_capability'].lower()}.json"
PROCEDURE_FILES = ("hybrid_core/measurement/*.py", "hybrid_core/evaluation.py", "hybrid_core/fitness.py")
KEPT = ("ok", "unstable")

Row = dict[str, Any]


class Book:
    """Rows by key, in the order measured; `count` bounds how many new ones a part may add in this call."""

    def __init__(
        self,
        rows: Iterable[Row],
        targets_of: Callable[[list[Row]], list[dict[str, Any]]],
        count: int | None = None,
        path: Path = RESULTS,
    ) -> None:
        self.rows = {row["key"]: row for row in rows}
        self._targets_of, self._path, self._count, self._new = targets_of, path, count, 0

    def begin(self, part: str) -> None:
        """A new part starts: its own count of new rows."""
        self._new = 0
        print(f"\n{part}", flush=True)

    def is_full(self) -> bool:
        """Whether this part has added as many rows as this call may."""
        return self._count is not None and self._new >= self._count

    def has(self, key: str) -> bool:
        """Whether this row was measured, now or in an earlier call."""
        return key in self.rows

    def add(self, part: str, key: str, facts: Row) -> Row:
        """Keep a new row and write the file."""
        self.rows[key] = {"part": part, "key": key, "procedure": procedure_text(), **facts}
        self._new += 1
        self.write()
        return self.rows[key]

    def of(self, part: str) -> list[Row]:
        """The rows of one part."""
        return [row for row in self.rows.values() if row["part"] == part]

    def write(self) -> None:
        """The results file, in the form that all benchmarks share; replaced at once, so a reader never sees half."""
        rows = list(self.rows.values())
        found = {"environment": environment(), "targets": self._targets_of(rows), "rows": rows}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=0, allow_nan=False))
        partial.replace(self._path)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Held while measuring: each process writes the whole file, so of two the second would undo the first's rows."""
    with Path(__file__).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another process writes {RESULTS.name}; wait for its end, two would overwrite each other's rows")
        yield


def environment() -> dict[str, Any]:
    """Machine and versions."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        **describe_versions(),
        "cpu": cpu_title(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "threads": 1,
    }


def procedure_text() -> str:
    """Eight letters that change when the files that measure change."""
    text = hashlib.sha256()
    for pattern in PROCEDURE_FILES:
        for path in sorted(ROOT.glob(pattern)):
            text.update(path.read_bytes())
    return text.hexdigest()[:8]


def kept_rows(afresh: Iterable[str], path: Path = RESULTS) -> list[Row]:
    """The rows of earlier calls, without those of the parts that are measured afresh; what failed is tried again."""
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    rows = [row for row in found["rows"] if row["part"] not in set(afresh) and row.get("outcome", "ok") in KEPT]
    now, then = environment(), found["environment"]
    differs = [name for name in ("python", "torch", "cpu", "cores") if then.get(name) != now[name]]
    if rows and differs:
        sys.exit(
            f"{path.name} was measured with another {' and '.join(differs)}; remove the file to measure everything anew"
        )
    return rows
