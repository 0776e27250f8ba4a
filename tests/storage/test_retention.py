"""Retention removes commentary and copies, never a measurement, and never the only copy of anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_events import START_TIME, StepClock, make_run_events, spool_events

from storage.connection import Database, open_database
from storage.ingest import drain
from storage.queries import run_query
from storage.retention import COMMENTARY_KINDS, Retention, prune
from storage.runs import mark_terminal
from storage.samples import DeviceSample, insert_device_samples

DAY = 86_400.0


def at(db: Database, clock: StepClock, moment: float) -> Database:
    clock.now, clock.step = moment, 0.0
    return db


def test_old_samples_become_ten_second_means_and_are_later_dropped(db: Database, clock: StepClock) -> None:
    loads = [float(k % 13) for k in range(60)]
    fresh = START_TIME + 2 * DAY
    insert_device_samples(db, [DeviceSample("cpu", "cpu", "", START_TIME + k, x) for k, x in enumerate(loads)])
    insert_device_samples(db, [DeviceSample("cpu", "cpu", "", fresh, 50.0)])
    at(db, clock, fresh + 60)
    assert prune(db, db.path.parent).fine_samples == 60
    found = run_query(db, "device_samples", {"device": "cpu", "since": 0}).to_pylist()
    means: dict[float, list[float]] = {}
    for k, load in enumerate(loads):
        means.setdefault((START_TIME + k) // 10 * 10 + 5, []).append(load)
    assert [(r["time"], r["utilization_percent"]) for r in found[:-1]] == [
        (time, pytest.approx(sum(x) / len(x))) for time, x in means.items()
    ]
    assert found[-1]["utilization_percent"] == 50.0
    assert prune(db, db.path.parent).fine_samples == 0
    at(db, clock, START_TIME + 31 * DAY)
    assert prune(db, db.path.parent).old_samples == len(means)


def test_old_runs_lose_their_commentary_and_keep_every_result(db: Database, clock: StepClock, spool_dir: Path) -> None:
    for run_id in ("old", "open"):
        events = make_run_events(run_id, seed=1)
        spool_events(spool_dir, run_id, events if run_id == "old" else events[:-1])
    drain(db, spool_dir)
    before = {run: run_query(db, "events", {"run_id": run, "limit": 5000}).to_pylist() for run in ("old", "open")}
    trials = run_query(db, "trials", {"run_id": "old"})
    at(db, clock, START_TIME + 8 * DAY)
    removed = prune(db, spool_dir).events
    kept = [e for e in before["old"] if e["kind"] not in COMMENTARY_KINDS]
    assert run_query(db, "events", {"run_id": "old", "limit": 5000}).to_pylist() == kept
    assert removed == len(before["old"]) - len(kept) > 0
    assert run_query(db, "events", {"run_id": "open", "limit": 5000}).to_pylist() == before["open"]
    assert run_query(db, "trials", {"run_id": "old"}).equals(trials)


def test_a_spool_file_goes_only_when_its_run_is_over_and_all_of_it_is_stored(tmp_path: Path, spool_dir: Path) -> None:
    clock = StepClock()
    db = open_database(tmp_path / "h.duckdb", clock)
    done = spool_events(spool_dir, "done", make_run_events("done", seed=1))
    still_open = spool_events(spool_dir, "open", make_run_events("open", seed=2)[:-1])
    unread = spool_events(spool_dir, "unread", make_run_events("unread", seed=3))
    drain(db, spool_dir)
    with unread.open("ab") as file:
        file.write(b"a late line nobody has read\n")
    other = spool_dir / "notes.txt"
    other.write_text("mine")
    at(db, clock, START_TIME + 29 * DAY)
    assert prune(db, spool_dir).spool_files == 0
    at(db, clock, START_TIME + 31 * DAY)
    result = prune(db, spool_dir)
    assert (result.spool_files, result.note) == (1, None)
    assert sorted(spool_dir.iterdir()) == sorted([still_open, unread, other])
    assert not done.exists()
    assert run_query(db, "trials", {"run_id": "done"}).num_rows > 0
    drain(db, spool_dir)
    mark_terminal(db, "open", "failed", "worker_lost")
    at(db, clock, START_TIME + 90 * DAY)
    assert prune(db, spool_dir, Retention(spool_days=1)).spool_files == 2
    db.close()


def test_without_room_for_a_checkpoint_the_spool_stays(
    db: Database, clock: StepClock, spool_dir: Path, monkeypatch
) -> None:
    path = spool_events(spool_dir, "done", make_run_events("done", seed=1))
    drain(db, spool_dir)
    at(db, clock, START_TIME + 31 * DAY)
    monkeypatch.setattr(Database, "checkpoint", lambda self: "10 bytes are free; free space")
    result = prune(db, spool_dir)
    assert result.spool_files == 0 and "1 old spool files stay" in str(result.note)
    assert path.exists()
