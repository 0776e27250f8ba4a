"""Spool files: how a run process hands over what it found without ever waiting for the database.

Each process attempt appends JSON lines to a file of its own, `<spool>/<run_id>.<attempt>.jsonl`; one line is one
`os.write`, so a kill leaves at most one torn line at the end, which nobody reads. A restarted process takes the next
attempt number and a new file, so a torn tail is never glued to a new line. The hub tails the files (storage/ingest.py);
they are also the ledger from which the database can be rebuilt. Standard library only.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_core.errors import HybridError, InvalidInput
from hybrid_core.records import Trial, to_json

# These are on the disk, not only in its cache, when `write` returns: they cannot be computed again cheaply.
DURABLE_KINDS = ("run_started", "trial_finished", "round_finished", "run_finished")
# These hold a trial; a round is one of the processes that together make one, and has a name of its own.
TRIAL_KINDS = ("trial_finished", "round_finished")
CHUNK_BYTES = 8 * 2**20
_FILE_NAME = re.compile(r"(?P<run_id>[A-Za-z0-9_-]{1,64})\.(?P<attempt>[0-9]{1,6})\.jsonl")
_FIELDS: dict[str, Any] = {
    "run_id": str,
    "attempt": int,
    "seq": int,
    "time": int | float,
    "kind": str,
    "data": dict,
}


class SpoolWriteFailed(HybridError):
    """A line did not reach the spool file.

    `line_written` False: nothing was kept, call `write` again. True: the line is in the file but may not survive a
    power cut, call `sync` again.
    """

    def __init__(self, message: str, *, line_written: bool) -> None:
        super().__init__(message)
        self.line_written = line_written


class SpoolRecord(NamedTuple):
    """One complete line; `offset` is the byte at which it starts."""

    run_id: str
    attempt: int
    seq: int
    time: float
    kind: str
    data: dict[str, Any]
    offset: int


class BadLine(NamedTuple):
    """A complete line that is not a record; kept as evidence, never dropped in silence."""

    offset: int
    text: str
    error: str


class SpoolChunk(NamedTuple):
    """What `read_complete_lines` found and the offset at which to go on."""

    records: list[SpoolRecord]
    offset: int
    bad_lines: list[BadLine]


def spool_path(spool_dir: Path, run_id: str, attempt: int) -> Path:
    """The file of one process attempt; refuses ids that could leave the folder."""
    path = spool_dir / spool_name(run_id, attempt)
    if parse_spool_name(path.name) != (run_id, attempt):
        raise InvalidInput(
            f"run_id={run_id!r:.60} attempt={attempt!r} cannot name a file; use letters, digits, - and _"
        )
    return path


def spool_name(run_id: str, attempt: int) -> str:
    """The file name of one process attempt."""
    return f"{run_id}.{attempt}.jsonl"


def parse_spool_name(name: str) -> tuple[str, int] | None:
    """The (run_id, attempt) a file name stands for, None for any other file."""
    match = _FILE_NAME.fullmatch(name)
    return (match["run_id"], int(match["attempt"])) if match else None


def attempts_of(spool_dir: Path, run_id: str) -> list[int]:
    """The attempts that left a file, in order; the next attempt is one more than the last."""
    names = (parse_spool_name(p.name) for p in spool_dir.glob("*.jsonl"))
    return sorted(name[1] for name in names if name and name[0] == run_id)


class SpoolWriter:
    """Appends the events of one process attempt to its own new file."""

    def __init__(self, spool_dir: Path, run_id: str, attempt: int, clock: Callable[[], float] = time.time) -> None:
        """Create the file.

        Raises:
            SpoolWriteFailed: the file exists (an attempt number is used once) or cannot be created.
        """
        self.path = spool_path(Path(spool_dir), run_id, attempt)
        self._run_id, self._attempt, self._clock = run_id, attempt, clock
        self._seq = 0
        self._torn = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            _sync_folder(self.path.parent)
        except FileExistsError:
            raise SpoolWriteFailed(
                f"{self.path} exists; start the next attempt with a new number", line_written=False
            ) from None
        except OSError as error:
            raise SpoolWriteFailed(
                f"{self.path} cannot be created: {error.strerror}; free or mend the folder", line_written=False
            ) from error

    def write(self, kind: str, data: Mapping[str, Any]) -> int:
        """Append one line and return its sequence number; durable kinds are synced to the disk.

        Raises:
            SpoolWriteFailed: disk full or the like; see its `line_written`.
            TypeError: `data` holds something that is not a record, text, number, list or mapping.
        """
        line = self._encode(kind, data)
        self._append(line)
        self._seq += 1
        if kind in DURABLE_KINDS:
            self.sync()
        return self._seq

    def sync(self) -> None:
        """Put everything written so far on the disk."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            message = f"{self.path} cannot be synced to the disk: {error.strerror}; free space, then sync again"
            raise SpoolWriteFailed(message, line_written=True) from error

    def close(self) -> None:
        """Close the file; calling it twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> SpoolWriter:
        """Use the writer in a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def _encode(self, kind: str, data: Mapping[str, Any]) -> bytes:
        line = {
            "run_id": self._run_id,
            "attempt": self._attempt,
            "seq": self._seq + 1,
            "time": self._clock(),
            "kind": kind,
            "data": to_json(data),
        }
        # Output of a crashed compiler may hold lone surrogates, which are no UTF-8: they become question marks.
        return (json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n").encode("utf-8", "replace")

    def _append(self, line: bytes) -> None:
        # After a torn write that could not be taken back, a newline makes the torn bytes a (bad) line of their own.
        block = b"\n" + line if self._torn else line
        start = os.fstat(self._fd).st_size
        try:
            written = os.write(self._fd, block)
        except OSError as error:
            message = f"{self.path} cannot take another line: {error.strerror}; free space and write again"
            raise SpoolWriteFailed(message, line_written=False) from error
        if written < len(block):
            # The leading newline stays: a reader may already have passed it.
            self._take_back(start + 1 if self._torn and written else start)
            message = f"{self.path} took {written} of {len(block)} bytes, the disk is full; free space and write again"
            raise SpoolWriteFailed(message, line_written=False)
        self._torn = False

    def _take_back(self, size: int) -> None:
        # Safe beside a reader: readers consume up to the last newline only, and these bytes hold none.
        try:
            os.ftruncate(self._fd, size)
            self._torn = False
        except OSError:
            self._torn = True


def read_complete_lines(path: Path, offset: int, max_bytes: int = CHUNK_BYTES) -> SpoolChunk:
    """Read whole lines from `offset` on, about `max_bytes` of them; a torn tail is left for later.

    A file shorter than `offset` (possible after a power cut) yields one bad line that says so, and its size.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < offset:
            return SpoolChunk([], size, [BadLine(size, "", f"the file shrank from {offset} to {size} bytes")])
        file.seek(offset)
        block = file.read(max_bytes)
        while b"\n" not in block and (more := file.read(max_bytes)):
            block += more
    complete = block[: block.rfind(b"\n") + 1]
    records: list[SpoolRecord] = []
    bad_lines: list[BadLine] = []
    position = offset
    for line in _split(complete):
        try:
            records.append(_parse(line, position))
        except (ValueError, RecursionError) as error:
            bad_lines.append(BadLine(position, line.decode("utf-8", "replace"), str(error)))
        position += len(line)
    return SpoolChunk(records, position, bad_lines)


def replay_trials(spool_dir: Path, run_id: str) -> list[Trial]:
    """The trials and rounds that earlier attempts of a run finished, in the order measured, each once.

    A process that takes over a run answers these from the file instead of measuring them again.
    """
    found: dict[str, Trial] = {}
    for attempt in attempts_of(Path(spool_dir), run_id):
        for record in read_all(spool_path(Path(spool_dir), run_id, attempt)):
            if record.kind in TRIAL_KINDS:
                try:
                    trial = Trial.from_json(record.data["trial"])
                except (KeyError, TypeError, ValueError):
                    continue  # the hub keeps it in ingest_errors; here it only means: measure again
                found.setdefault(trial.trial_id, trial)
    return list(found.values())


def read_all(path: Path) -> list[SpoolRecord]:
    """Every record of a file."""
    records: list[SpoolRecord] = []
    offset = 0
    while True:
        chunk = read_complete_lines(path, offset)
        records += chunk.records
        if chunk.offset == offset:
            return records
        offset = chunk.offset


def _split(block: bytes) -> list[bytes]:
    # bytes.splitlines also cuts at a bare carriage return; a line of ours ends at a newline only.
    return [line + b"\n" for line in block.split(b"\n")[:-1]]


def _parse(line: bytes, offset: int) -> SpoolRecord:
    value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    if not isinstance(value, dict):
        raise ValueError(f"the line is a {type(value).__name__}, not an object")
    for name, kind in _FIELDS.items():
        if not isinstance(value.get(name), kind) or isinstance(value[name], bool):
            raise ValueError(f"{name}={value.get(name)!r:.60} is not what a spool line holds")
    for name, limit in (("attempt", 2**31), ("seq", 2**31), ("time", 2**40)):
        if not 0 <= value[name] < limit:
            raise ValueError(f"{name}={value[name]!r:.60} is not allowed; it lies from 0 to below {limit}")
    return SpoolRecord(**{name: value[name] for name in _FIELDS}, offset=offset)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _sync_folder(folder: Path) -> None:
    # A new file survives a power cut only when its folder entry is on the disk too.
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
