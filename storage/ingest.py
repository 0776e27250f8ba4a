"""Tailing the spool files into DuckDB, exactly once.

Each tick reads what every file gained, and inserts the rows *and* the byte offsets reached in one transaction. A kill
or a full disk leaves both or neither, so the next tick goes on where the rows end: nothing is lost, nothing doubled,
and no worker ever waits. Keys in the tables are a second fence. A line that cannot be understood is kept in
`ingest_errors` with its file and offset, and reading goes on behind it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from hybrid_core.errors import HybridError
from storage.connection import Database
from storage.ensembles import synergy_rows
from storage.rows import insert_rows, row_schema
from storage.run_changes import change_runs
from storage.spool import BadLine, SpoolChunk, SpoolRecord, parse_spool_name, read_complete_lines, spool_name
from storage.trial_rows import clean, event_row, trial_row

# About this much text is read per tick, so that a long backlog is drained in steps and pages are answered between.
TICK_BYTES = 16 * 2**20
BAD_TEXT_CHARACTERS = 2000
# Only their latest value means anything; it lives in the lease.
_NOT_KEPT_AS_EVENTS = ("heartbeat",)


@dataclass(frozen=True)
class IngestResult:
    """What one tick did. `error` is a sentence for a banner when it did nothing and will try again."""

    lines: int = 0
    trials: int = 0
    bad_lines: int = 0
    run_ids: tuple[str, ...] = ()
    ended_run_ids: tuple[str, ...] = ()
    more: bool = False
    error: str | None = None


@dataclass
class _Batch:
    """What was read in one tick, where each file now stands, and the newest attempt of each run in the folder."""

    records: list[SpoolRecord] = field(default_factory=list)
    bad_lines: list[tuple[str, BadLine]] = field(default_factory=list)
    offsets: dict[str, int] = field(default_factory=dict)
    newest_attempts: dict[str, int] = field(default_factory=dict)
    more: bool = False

    def refuse(self, record: SpoolRecord, error: Exception) -> None:
        """Keep a well-formed line whose content cannot be used."""
        reason = f"{record.kind}: {type(error).__name__}: {error}"
        self.bad_lines.append(
            (spool_name(record.run_id, record.attempt), BadLine(record.offset, _excerpt(record), reason))
        )


def ingest_once(db: Database, spool_dir: Path) -> IngestResult:
    """Take in what the spool files gained since the last tick; call it every 250 ms, from one thread.

    Never raises for a full disk, an unreadable file or a locked database: `error` says it, and the offsets stay where
    the rows are, so that the next tick tries again.
    """
    try:
        batch = _read(Path(spool_dir), _stored_offsets(db))
        return _store(db, batch) if batch.offsets else IngestResult()
    except (HybridError, duckdb.Error, OSError) as error:
        if isinstance(error, duckdb.Error):
            db.note_failure(error)
        return IngestResult(error=f"results cannot be stored now and will be tried again: {error}")


def drain(db: Database, spool_dir: Path) -> list[IngestResult]:
    """Tick until nothing is left or a tick fails: at start, before a run is declared lost, and for a rebuild."""
    results = [ingest_once(db, spool_dir)]
    while results[-1].more:
        results.append(ingest_once(db, spool_dir))
    return results


def _stored_offsets(db: Database) -> dict[str, int]:
    rows: list[tuple[str, int]] = db.cursor().execute('select file, "offset" from ingest_offsets').fetchall()
    return dict(rows)


def _read(spool_dir: Path, offsets: Mapping[str, int]) -> _Batch:
    batch = _Batch()
    budget = TICK_BYTES
    for path in sorted(spool_dir.glob("*.jsonl")):
        owner = parse_spool_name(path.name)
        if owner is None:
            continue
        batch.newest_attempts[owner[0]] = max(owner[1], batch.newest_attempts.get(owner[0], 0))
        gained = path.stat().st_size - (start := offsets.get(path.name, 0))
        batch.more = batch.more or gained > budget
        if gained == 0 or budget <= 0:
            continue
        chunk = read_complete_lines(path, start, max_bytes=budget)
        if chunk.offset != start:
            budget -= abs(chunk.offset - start)
            _take(batch, path.name, owner, chunk)
    return batch


def _take(batch: _Batch, file: str, owner: tuple[str, int], chunk: SpoolChunk) -> None:
    batch.offsets[file] = chunk.offset
    batch.bad_lines += [(file, bad) for bad in chunk.bad_lines]
    for record in chunk.records:
        if (record.run_id, record.attempt) == owner:
            batch.records.append(record)
        else:
            error = f"a line of run {record.run_id!r:.60} attempt {record.attempt} in the file of another"
            batch.bad_lines.append((file, BadLine(record.offset, _excerpt(record), error)))


def _store(db: Database, batch: _Batch) -> IngestResult:
    with db.transaction() as cursor:
        trials = _insert(cursor, "trials", batch, trial_row, lambda kind: kind == "trial_finished")
        _insert(cursor, "events", batch, event_row, lambda kind: kind not in _NOT_KEPT_AS_EVENTS)
        _insert_synergies(cursor, batch)
        ended = change_runs(cursor, batch.records, batch.newest_attempts, batch.refuse)
        _insert_bad_lines(cursor, batch.bad_lines, db.now())
        cursor.executemany(
            "insert into ingest_offsets values ($file, $offset, $now) on conflict (file) "
            'do update set "offset" = $offset, updated_at = $now',
            [{"file": file, "offset": offset, "now": db.now()} for file, offset in batch.offsets.items()],
        )
    return IngestResult(
        lines=len(batch.records),
        trials=trials,
        bad_lines=len(batch.bad_lines),
        run_ids=tuple(sorted({r.run_id for r in batch.records})),
        ended_run_ids=tuple(ended),
        more=batch.more,
    )


def _insert(
    cursor: duckdb.DuckDBPyConnection,
    table: str,
    batch: _Batch,
    to_row: Callable[[SpoolRecord], dict[str, Any]],
    wants: Callable[[str], bool],
) -> int:
    """Turn the records of the wanted kinds into rows and insert those that are not there yet."""
    columns = row_schema(cursor, table)
    return insert_rows(
        cursor,
        table,
        [row for r in batch.records if wants(r.kind) and (row := _checked_row(batch, r, to_row, columns))],
    )


def _insert_synergies(cursor: duckdb.DuckDBPyConnection, batch: _Batch) -> None:
    """One record holds the rows of a whole run; one that cannot be understood is kept among the bad lines."""
    rows: list[dict[str, Any]] = []
    for record in batch.records:
        if record.kind == "synergy":
            try:
                rows += synergy_rows(record)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                batch.refuse(record, error)
    insert_rows(cursor, "synergies", rows)


def _checked_row(
    batch: _Batch, record: SpoolRecord, to_row: Callable[[SpoolRecord], dict[str, Any]], columns: pa.Schema
) -> dict[str, Any] | None:
    """The row, or None and an entry among the bad lines: one strange line must not stop a whole file."""
    try:
        row = to_row(record)
        for column in columns:
            pa.scalar(row.get(column.name), column.type)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, pa.ArrowException) as error:
        batch.refuse(record, error)
        return None
    return row


def _insert_bad_lines(cursor: duckdb.DuckDBPyConnection, bad_lines: list[tuple[str, BadLine]], now: float) -> None:
    if bad_lines:
        rows = [
            [file, bad.offset, clean(bad.text)[:BAD_TEXT_CHARACTERS], clean(bad.error)[:BAD_TEXT_CHARACTERS], now]
            for file, bad in bad_lines
        ]
        cursor.executemany("insert or ignore into ingest_errors values (?, ?, ?, ?, ?)", rows)


def _excerpt(record: SpoolRecord) -> str:
    return json.dumps(record.data)[:BAD_TEXT_CHARACTERS]
