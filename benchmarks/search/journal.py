"""The rows of a table while it is being built: one JSON line each, only ever appended, so that any end is survived.

The first line says what is measured and under what; a later call goes on only where it would measure the same. A line
that was being written when the process was killed is cut off. Which rows are missing follows from those there are.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any

from benchmarks.search.rows import Row, read_table

FOLDER = Path(__file__).resolve().parents[2] / "build" / "search"


class Journal:
    """An open journal with all rows so far; held by a lock, because two builders would measure beside each other."""

    def __init__(self, path: Path, about: dict[str, Any], finished: Path | None = None) -> None:
        """Open or begin it; a new one begins with the rows of the `finished` table, where there is one.

        Raises:
            SystemExit: another process has it open, or it was begun under other conditions.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: IO[bytes] = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another process builds {path.stem}; wait for its end") from None
        lines = self._whole_lines()
        if not lines and finished is not None and finished.exists():
            rows, then = read_table(finished)
            _refuse_other(then, about, finished)
            lines = [{"about": then}, *({k: v for k, v in row.items() if v is not None} for row in rows)]
            for line in lines:
                self._append(line)
        if not lines:
            self._append({"about": about})
        self.about: dict[str, Any] = lines[0]["about"] if lines else about
        _refuse_other(self.about, about, path)
        self.rows: list[Row] = lines[1:]
        self._known = {identity(row) for row in self.rows}

    def has(self, row: Row) -> bool:
        """Whether this attempt was written."""
        return identity(row) in self._known

    def add(self, row: Row) -> None:
        """Append one row; it is on the disk when this returns."""
        assert not self.has(row), f"{identity(row)} would be in the table twice"
        self._append(row)
        self._known.add(identity(row))
        self.rows.append(row)

    def close(self, *, remove: bool = False) -> None:
        """Let go of it; `remove` when the table was written."""
        if remove:
            self.path.unlink()
        self._file.close()

    def _append(self, value: Any) -> None:
        self._file.write(json.dumps(value, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _whole_lines(self) -> list[Any]:
        """Every line that ends with a newline; what follows the last one is cut off."""
        self._file.seek(0)
        text = self._file.read()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            self._file.truncate(len(whole))
        return [json.loads(line) for line in whole.splitlines()]


def identity(row: Row) -> tuple[str, str, int]:
    """What makes a row the same row."""
    return row["recipe"], row["pass"], row["attempt"]


def _refuse_other(then: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    differs = sorted(name for name in {*then, *now} if name != "begun_at" and then.get(name) != now.get(name))
    if differs:
        raise SystemExit(
            f"{path.name} was begun with another {' and '.join(differs)}; remove {path} to measure everything anew"
        )
