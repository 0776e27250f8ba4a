"""A run's life: one submission is one run, running means leased, and an end is an end."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sample_events import StepClock, make_config, make_subject

from hybrid_core.errors import InvalidInput
from hybrid_core.records import to_json
from storage.connection import Database
from storage.queries import run_query
from storage.recommendations import load_recommendations, store_recommendations
from storage.runs import (
    active_leases,
    create_run,
    heartbeat,
    mark_running,
    mark_terminal,
    open_runs,
    request_cancel,
)

CONFIG, SUBJECT = to_json(make_config(note="first try")), to_json(make_subject())


def state_of(db: Database, run_id: str) -> str:
    return str(run_query(db, "run", {"run_id": run_id}).to_pylist()[0]["state"])


def test_fifty_simultaneous_identical_submissions_are_one_run(db: Database) -> None:
    ids: list[str] = []
    threads = [
        threading.Thread(target=lambda: ids.append(create_run(db, CONFIG, SUBJECT, "same click"))) for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 50 and len(set(ids)) == 1
    assert run_query(db, "runs").num_rows == 1


def test_without_a_token_each_submission_is_a_run_of_its_own_and_ids_sort_by_time(db: Database) -> None:
    ids = [create_run(db, CONFIG, SUBJECT) for _ in range(40)]
    assert len(set(ids)) == 40
    assert ids == sorted(ids)
    assert {len(i) for i in ids} == {12}


def test_ids_stay_unique_when_the_clock_stands_still(tmp_path) -> None:
    db = Database(tmp_path / "h.duckdb", StepClock(step=0.0))
    from storage.migrations import migrate

    migrate(db, 0.0)
    assert len({create_run(db, CONFIG, SUBJECT) for _ in range(60)}) == 60
    db.close()


def test_a_refused_submission_leaves_nothing_behind(db: Database) -> None:
    for config, token in (({**CONFIG, "budget_s": 0}, ""), ({**CONFIG, "mode": 1}, ""), (CONFIG, "a\x00b")):
        with pytest.raises(InvalidInput):
            create_run(db, config, SUBJECT, token)
    assert run_query(db, "runs").num_rows == 0


def test_what_was_asked_for_is_in_the_columns(db: Database) -> None:
    run_id = create_run(db, CONFIG, SUBJECT, family="language")
    (row,) = run_query(db, "run", {"run_id": run_id}).to_pylist()
    wanted: dict[str, Any] = {
        "state": "queued",
        "note": "first try",
        "model": "llama",
        "workload_label": "prefill, batch 1 x 512",
        "threads": 2,
        "method": "tournament",
        "budget_s": 120.0,
        "started_at": None,
        "ended_at": None,
        "fitness": None,
        "trials": 0,
    }
    assert {name: row[name] for name in wanted} == wanted
    (run,) = open_runs(db)
    assert (run.config, run.subject, run.family, run.attempt) == (CONFIG, SUBJECT, "language", 0)


def test_open_runs_stand_in_the_order_they_came(db: Database) -> None:
    first = create_run(db, CONFIG, SUBJECT)
    gpu = create_run(db, CONFIG, to_json(make_subject(device="GPU-1")))
    mark_running(db, first, 1)
    assert [r.run_id for r in open_runs(db)] == [first, gpu]


def test_running_always_comes_with_a_lease_and_a_newer_attempt_takes_it(db: Database) -> None:
    run_id = create_run(db, CONFIG, SUBJECT)
    assert mark_running(db, run_id, 1)
    assert mark_running(db, run_id, 1, 77, 12.5)
    assert [(x.attempt, x.pid, x.pid_started_at) for x in active_leases(db)] == [(1, 77, 12.5)]
    assert mark_running(db, run_id, 2, 78, 13.5)
    assert [(x.attempt, x.pid) for x in active_leases(db)] == [(2, 78)]
    assert not mark_running(db, run_id, 1, 77), "an older attempt must not get the run back"
    assert not heartbeat(db, run_id, 1, "t", "timing")
    assert heartbeat(db, run_id, 2, "t", "timing")
    assert state_of(db, run_id) == "running"


def test_an_end_is_never_overwritten(db: Database) -> None:
    run_id = create_run(db, CONFIG, SUBJECT)
    mark_running(db, run_id, 1, 77)
    assert mark_terminal(db, run_id, "cancelled", "by request")
    assert active_leases(db) == [] and open_runs(db) == []
    assert not mark_terminal(db, run_id, "failed", "worker_lost")
    assert not mark_running(db, run_id, 2, 78)
    (row,) = run_query(db, "run", {"run_id": run_id}).to_pylist()
    assert (row["state"], row["cause"], row["progress_json"]) == ("cancelled", "by request", None)
    with pytest.raises(InvalidInput, match="does not end a run"):
        mark_terminal(db, run_id, "running", "")


def test_cancelling_ends_a_queued_run_and_leaves_a_mark_on_a_running_one(db: Database) -> None:
    queued, running = create_run(db, CONFIG, SUBJECT), create_run(db, CONFIG, SUBJECT)
    mark_running(db, running, 1, 77)
    assert request_cancel(db, queued) == "cancelled"
    assert request_cancel(db, queued) == "cancelled"
    assert request_cancel(db, running) == "running"
    first = open_runs(db)[0].cancel_requested_at
    assert first is not None and request_cancel(db, running) == "running"
    assert open_runs(db)[0].cancel_requested_at == first
    mark_terminal(db, running, "finished", "converged")
    assert request_cancel(db, running) == "finished"
    with pytest.raises(InvalidInput, match="does not exist"):
        request_cancel(db, "nobody'; drop table runs; --")


def test_recommendations_are_replaced_as_a_whole_and_keep_their_order(db: Database) -> None:
    store_recommendations(db, "llama", "prefill", "cpu", [{"n": 3}, {"n": 1}, {"n": 2}])
    store_recommendations(db, "llama", "decode", "cpu", [{"n": 9}])
    store_recommendations(db, "llama", "prefill", "cpu", [{"n": 5}, {"n": 4}])
    assert load_recommendations(db, "llama", "prefill", "cpu") == [{"n": 5}, {"n": 4}]
    assert load_recommendations(db, "llama", "decode", "cpu") == [{"n": 9}]
    assert load_recommendations(db, "convnet", "decode", "cpu") == []
