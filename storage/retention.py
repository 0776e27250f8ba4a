"""Keeps the folder from growing for ever, oldest and least telling things first; never a measurement.

Trials, runs and their raw samples stay. Device samples are averaged from one second to ten, then dropped; of old runs
the running commentary goes and the outcome stays; a spool file goes only when its run is over, everything in it is in
the database, and the database is on the disk without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from storage.connection import Database
from storage.spool import parse_spool_name

BUCKET_S = 10.0
# What only mattered while somebody watched.
COMMENTARY_KINDS = ("progress", "phase", "trial_started", "round_started")


@dataclass(frozen=True)
class Retention:
    """How long things are kept."""

    fine_samples_s: float = 86_400.0
    samples_days: float = 30.0
    commentary_days: float = 7.0
    spool_days: float = 30.0


@dataclass(frozen=True)
class PruneResult:
    """What was removed; `note` says why spool files stayed, if they had to."""

    fine_samples: int
    old_samples: int
    events: int
    spool_files: int
    note: str | None = None


def prune(db: Database, spool_dir: Path, retention: Retention | None = None) -> PruneResult:
    """Apply the retention by the database's clock."""
    keep = retention or Retention()
    fine = _average_samples(db, db.now() - keep.fine_samples_s)
    with db.transaction() as cursor:
        old = cursor.execute(
            "delete from device_samples where time < ? returning 1", [db.now() - keep.samples_days * 86_400]
        ).fetchall()
        events = cursor.execute(
            "delete from events where list_contains($kinds, kind) and run_id in "
            "(select run_id from runs where ended_at < $before) returning 1",
            {"kinds": list(COMMENTARY_KINDS), "before": db.now() - keep.commentary_days * 86_400},
        ).fetchall()
    files, note = _delete_spool_files(db, Path(spool_dir), db.now() - keep.spool_days * 86_400)
    return PruneResult(fine, len(old), len(events), files, note)


def _average_samples(db: Database, before: float) -> int:
    """Replace one-second samples by ten-second ones up to `before`, whole buckets only."""
    edge = before // BUCKET_S * BUCKET_S
    with db.transaction() as cursor:
        cursor.execute(
            """
            insert into device_samples
            select device, floor(time / $bucket) * $bucket + $bucket / 2, $bucket, avg(utilization_percent),
                   avg(memory_used_bytes)::bigint, max(memory_total_bytes), avg(power_w), max(temperature_c),
                   avg(clock_mhz), arg_max(detail_json, time)
            from device_samples where time < $edge and bucket_s < $bucket group by device, floor(time / $bucket)
            """,
            {"bucket": BUCKET_S, "edge": edge},
        )
        gone = cursor.execute(
            "delete from device_samples where time < $edge and bucket_s < $bucket returning 1",
            {"bucket": BUCKET_S, "edge": edge},
        ).fetchall()
    return len(gone)


def _delete_spool_files(db: Database, spool_dir: Path, ended_before: float) -> tuple[int, str | None]:
    done = db.cursor().execute("select run_id from runs where ended_at < ?", [ended_before]).fetchall()
    offsets = dict(db.cursor().execute('select file, "offset" from ingest_offsets').fetchall())
    over = {run_id for (run_id,) in done}
    victims = [
        path
        for path in sorted(spool_dir.glob("*.jsonl"))
        if (name := parse_spool_name(path.name)) and name[0] in over and offsets.get(path.name) == path.stat().st_size
    ]
    if not victims:
        return 0, None
    # The write-ahead log may be cut by a power loss; until it is in the file the spool is the second copy.
    if (reason := db.checkpoint()) is not None:
        return 0, f"{len(victims)} old spool files stay: {reason}"
    for path in victims:
        path.unlink()
    with db.transaction() as cursor:
        cursor.execute(
            "delete from ingest_offsets where list_contains($files, file)", {"files": [p.name for p in victims]}
        )
    return len(victims), None
