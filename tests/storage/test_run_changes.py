"""What events change about a run: who may speak for it, what its winner's numbers are, and that an end stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sample_events import StepClock, make_config, make_run_events, make_subject, spool_events

from hybrid_core.records import to_json
from storage.connection import Database
from storage.ingest import ingest_once
from storage.queries import run_query
from storage.runs import active_leases, create_run, mark_running, mark_terminal, open_runs, request_cancel
from storage.spool import SpoolWriter


def new_run(db: Database) -> str:
    return create_run(db, to_json(make_config()), to_json(make_subject()), family="language")


def rows(db: Database, name: str, **params: Any) -> list[dict[str, Any]]:
    return run_query(db, name, params).to_pylist()


def test_a_late_end_of_a_lost_worker_is_an_event_and_nothing_more(db: Database, spool_dir: Path) -> None:
    run_id = new_run(db)
    mark_running(db, run_id, 1, 10)
    events = make_run_events(run_id, seed=8)
    assert mark_terminal(db, run_id, "failed", "worker_lost: the process died")
    spool_events(spool_dir, run_id, events)
    result = ingest_once(db, spool_dir)
    (run,) = rows(db, "run", run_id=run_id)
    assert result.ended_run_ids == ()
    assert (run["state"], run["cause"], run["winner_key"], run["result_json"]) == (
        "failed",
        "worker_lost: the process died",
        None,
        None,
    )
    assert [e["kind"] for e in rows(db, "events", run_id=run_id, limit=5000)][-1] == "run_finished"


def test_an_older_attempt_cannot_speak_for_a_run_that_a_newer_one_has(db: Database, spool_dir: Path) -> None:
    run_id = new_run(db)
    mark_running(db, run_id, 1, 10)
    mark_running(db, run_id, 2, 11)
    end = {"kind": "run_finished", "data": {"state": "failed", "cause": "old news", "winner": None}}
    spool_events(spool_dir, run_id, [{"kind": "progress", "data": {"done": 1}}, end], attempt=1)
    ingest_once(db, spool_dir)
    (run,) = rows(db, "run", run_id=run_id)
    assert (run["state"], run["progress_json"]) == ("running", None)


def test_progress_phase_and_heartbeat_show_in_the_run_and_its_lease(db: Database, spool_dir: Path) -> None:
    run_id = new_run(db)
    mark_running(db, run_id, 1, 10, 5.5)
    before = active_leases(db)[0].heartbeat_at
    clock = StepClock(before + 100)
    with SpoolWriter(spool_dir, run_id, 1, clock=clock) as writer:
        writer.write("progress", {"done": 1})
        writer.write("progress", {"done": 2})
        writer.write("phase", {"trial_id": "t1", "phase": "timing"})
        writer.write("heartbeat", {"trial_id": "t1", "phase": "memory"})
    ingest_once(db, spool_dir)
    (worker,) = rows(db, "workers")
    assert (worker["current_trial"], worker["current_phase"], worker["pid"]) == ("t1", "memory", 10)
    assert worker["heartbeat_at"] == clock.now
    assert json.loads(rows(db, "run", run_id=run_id)[0]["progress_json"]) == {"done": 2}
    assert "heartbeat" not in [e["kind"] for e in rows(db, "events", run_id=run_id)]


def test_a_run_whose_end_was_not_written_comes_back_as_running_without_a_lease(db: Database, spool_dir: Path) -> None:
    spool_events(spool_dir, "run1", make_run_events("run1", seed=9)[:12])
    ingest_once(db, spool_dir)
    assert [(r.run_id, r.state) for r in open_runs(db)] == [("run1", "running")]
    assert active_leases(db) == []
    assert request_cancel(db, "run1") == "running"


def test_the_winner_columns_are_those_of_the_final_race(db: Database, spool_dir: Path) -> None:
    run_id = new_run(db)
    events = make_run_events(run_id, seed=2)
    spool_events(spool_dir, run_id, events)
    ingest_once(db, spool_dir)
    (run,) = rows(db, "run", run_id=run_id)
    key = events[-1]["data"]["winner"]["key"]
    (final,) = [
        e["data"]
        for e in events
        if e["kind"] == "trial_finished" and e["data"]["trial"]["trial_id"] == f"{run_id}:final:{key}"
    ]
    measured = final["trial"]["measurement"]
    assert run["winner_key"] == key
    for column, estimate in (
        ("fitness", final["fitness"]),
        ("speed", measured["speed_improvement"]),
        ("memory", measured["memory_efficiency"]),
        ("accuracy", measured["accuracy_preservation"]),
    ):
        assert [run[column], run[column + "_low"], run[column + "_high"]] == list(estimate.values())
    assert run["baseline_fitness"] == pytest.approx(1.0)
    assert json.loads(run["result_json"])["noise_floor"] == 0.012
    assert (run["state"], run["cause"]) == ("finished", events[-1]["data"]["cause"])


def test_a_second_attempt_that_repeats_finished_trials_does_not_double_them(db: Database, spool_dir: Path) -> None:
    run_id = new_run(db)
    events = make_run_events(run_id, seed=4)
    mark_running(db, run_id, 1, 10)
    spool_events(spool_dir, run_id, events[:20], attempt=1)
    ingest_once(db, spool_dir)
    mark_running(db, run_id, 2, 11)
    spool_events(spool_dir, run_id, events, attempt=2)
    ingest_once(db, spool_dir)
    ids = [t["trial_id"] for t in rows(db, "trials", run_id=run_id)]
    assert sorted(ids) == sorted(e["data"]["trial"]["trial_id"] for e in events if e["kind"] == "trial_finished")
    assert rows(db, "run", run_id=run_id)[0]["state"] == "finished"
