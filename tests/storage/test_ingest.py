"""Ingesting: every line becomes its row once, whatever is torn, strange, late, or killed in between."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_events import StepClock, make_config, make_run_events, make_subject, spool_events

from hybrid_core.records import Measurement, Trial, to_json
from storage import ingest
from storage.connection import Database, DatabaseUnavailable, open_database
from storage.ingest import drain, ingest_once
from storage.queries import run_query
from storage.runs import create_run, mark_running
from storage.spool import SpoolWriter, read_all, spool_path
from storage.trial_rows import without_raw_samples


def new_run(db: Database, token: str = "") -> str:
    return create_run(db, to_json(make_config()), to_json(make_subject()), token, "language")


def rows(db: Database, name: str, **params: Any) -> list[dict[str, Any]]:
    return run_query(db, name, params).to_pylist()


def kept(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [e for e in events if e["kind"] != "heartbeat"]


def test_every_event_and_trial_arrives_once_in_order_with_its_raw_samples(db: Database, spool_dir: Path) -> None:
    run_id = new_run(db)
    events = make_run_events(run_id, seed=1)
    spool_events(spool_dir, run_id, events)
    result = ingest_once(db, spool_dir)
    assert (result.error, result.bad_lines, result.lines) == (None, 0, len(events))
    assert result.ended_run_ids == (run_id,)
    found = rows(db, "events", run_id=run_id, limit=5000)
    assert [(e["kind"], json.loads(e["data_json"])) for e in found] == [
        (e["kind"], without_raw_samples(e["data"]) if e["kind"] == "trial_finished" else e["data"])
        for e in kept(events)
    ]
    trials = [e["data"]["trial"] for e in events if e["kind"] == "trial_finished"]
    assert [t["trial_id"] for t in rows(db, "trials", run_id=run_id)] == [t["trial_id"] for t in trials]
    for trial in trials:
        (row,) = rows(db, "trial", trial_id=trial["trial_id"])
        if trial["measurement"] is None:
            assert row == {"measurement_json": None, "environment_json": None}
        else:
            measured = json.loads(row["measurement_json"])
            assert measured == trial["measurement"]
            assert json.loads(row["environment_json"]) == trial["measurement"]["environment"]
            assert to_json(Measurement.from_json(measured)) == trial["measurement"]
    assert ingest_once(db, spool_dir).lines == 0


def test_events_of_one_tick_are_numbered_in_the_order_they_were_written(db: Database, spool_dir: Path) -> None:
    writer = SpoolWriter(spool_dir, "many", 1, StepClock())
    for tick in range(3):
        for number in range(400):
            writer.write("skipped" if number % 3 else "selection", {"key": f"{tick}-{number}", "reason": "x"})
        ingest_once(db, spool_dir)
    rows = run_query(db, "events", {"run_id": "many", "limit": 5000}).to_pylist()
    keys = [json.loads(row["data_json"])["key"] for row in rows]
    assert keys == [f"{tick}-{number}" for tick in range(3) for number in range(400)]
    numbers = [row["event_id"] for row in rows]
    assert numbers == sorted(set(numbers))


def test_the_same_lines_again_change_nothing(db: Database, spool_dir: Path) -> None:
    run_id = new_run(db)
    spool_events(spool_dir, run_id, make_run_events(run_id, seed=3))
    ingest_once(db, spool_dir)
    before = dump(db)
    with db.transaction() as cursor:  # the offsets are lost, the rows are not
        cursor.execute("delete from ingest_offsets")
    assert ingest_once(db, spool_dir).trials == 0
    assert dump(db) == before


def test_lines_in_small_pieces_give_the_same_rows_as_all_at_once(tmp_path: Path) -> None:
    rng = random.Random(5)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    path = spool_events(whole, "run1", make_run_events("run1", seed=5))
    block, at = path.read_bytes(), 0
    pieces.mkdir()
    one, many = (
        open_database(tmp_path / "one.duckdb", StepClock()),
        open_database(tmp_path / "many.duckdb", StepClock()),
    )
    ingest_once(one, whole)
    while at < len(block):
        step = rng.choice([1, 50, 700, 9000])
        with (pieces / path.name).open("ab") as file:
            file.write(block[at : at + step])
        at += step
        assert ingest_once(many, pieces).error is None
    assert dump(one) == dump(many)
    one.close(), many.close()


def test_a_backlog_is_taken_in_steps_and_whole(db: Database, spool_dir: Path, monkeypatch) -> None:
    for n in range(4):
        spool_events(spool_dir, f"run{n}", make_run_events(f"run{n}", seed=n))
    monkeypatch.setattr(ingest, "TICK_BYTES", 30_000)
    results = drain(db, spool_dir)
    assert len(results) > 4
    assert sum(r.lines for r in results) == sum(len(read_all(p)) for p in spool_dir.glob("*.jsonl"))
    assert {r["state"] for r in rows(db, "runs")} == {"finished"}


def test_bad_lines_are_kept_as_evidence_and_do_not_stop_the_file(db: Database, spool_dir: Path) -> None:
    run_id = new_run(db)
    events = make_run_events(run_id, seed=6, trials=2)
    path = spool_events(spool_dir, run_id, events)
    lines = path.read_bytes().splitlines(keepends=True)
    trial = json.loads(next(line for line in lines if b'"trial_finished"' in line))
    trial["data"]["trial"]["measurement"]["peak_bytes"] = 2**70
    trial["data"]["trial"]["trial_id"] = "other"
    trial["seq"] = 900
    foreign = json.dumps({**json.loads(lines[0]), "run_id": "somebody"})
    strange_end = json.dumps({**json.loads(lines[-1]), "seq": 901, "data": {"state": "exploded"}})
    bad = ["\x00garbage" + "y" * 5000, json.dumps(trial), foreign, strange_end]
    path.write_bytes(b"".join([*lines[:3], *(line.encode() + b"\n" for line in bad), *lines[3:]]))
    result = ingest_once(db, spool_dir)
    assert (result.error, result.bad_lines) == (None, 4)
    errors = sorted(rows(db, "ingest_errors"), key=lambda e: e["offset"])
    starts = [len(b"".join(lines[:3]))]
    for line in bad[:-1]:
        starts.append(starts[-1] + len(line.encode()) + 1)
    assert [e["offset"] for e in errors] == starts
    assert {e["file"] for e in errors} == {path.name}
    assert len(errors[0]["text"]) == ingest.BAD_TEXT_CHARACTERS
    for word, error in zip(["Expecting value", "trial_finished", "another", "exploded"], errors, strict=True):
        assert word in error["error"]
    assert rows(db, "run", run_id=run_id)[0]["state"] == "finished"
    assert len(rows(db, "trials", run_id=run_id)) == sum(e["kind"] == "trial_finished" for e in events)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.dictionaries(st.text(max_size=6), st.text(max_size=20) | st.integers() | st.none() | st.lists(st.text()))
)
def test_events_of_any_content_never_stop_the_ingest(db: Database, spool_dir: Path, data: dict[str, Any]) -> None:
    run_id = new_run(db)
    kinds = [
        "run_started",
        "trial_started",
        "trial_finished",
        "progress",
        "phase",
        "heartbeat",
        "result",
        "run_finished",
        "x",
    ]
    with SpoolWriter(spool_dir, run_id, 1, clock=StepClock()) as writer:
        for kind in kinds:
            writer.write(kind, data)
            writer.write(
                kind, {**data, "trial": data, "config": data, "subject": data, "winner": data, "state": "failed"}
            )
    result = ingest_once(db, spool_dir)
    assert (result.error, result.lines) == (None, 2 * len(kinds))
    assert len(rows(db, "events", run_id=run_id)) == 2 * (len(kinds) - 1)


HOSTILE = [
    "'; drop table runs; --",
    'say "hi" \\ ',
    "💥🚀",
    "\u202eevil\u200b",
    "a\x00b",
    "line\nbreak\r",
    "=cmd()",
    "\ud800",
    "{}",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back_as_the_text_it_was(db: Database, spool_dir: Path, text: str) -> None:
    run_id = new_run(db)
    events = make_run_events(run_id, seed=7, trials=1)
    trial = next(e for e in events if e["kind"] == "trial_finished")["data"]["trial"]
    trial |= {"reason": text, "log_tail": text, "stage": text}
    trial["measurement"]["warnings"] = [text]
    trial["measurement"]["environment"] = {text: text}
    spool_events(spool_dir, run_id, [*events, {"kind": text, "data": {text: text}}])
    assert ingest_once(db, spool_dir).error is None
    wanted = text.encode("utf-8", "replace").decode()
    row = next(t for t in rows(db, "trials", run_id=run_id) if t["trial_id"] == trial["trial_id"])
    assert (row["reason"], row["log_tail"], json.loads(row["warnings_json"])) == (wanted, wanted, [wanted])
    (raw,) = rows(db, "trial", trial_id=trial["trial_id"])
    assert json.loads(raw["environment_json"]) == {wanted: wanted}
    last = rows(db, "events", run_id=run_id, limit=5000)[-1]
    assert (last["kind"], json.loads(last["data_json"])) == (wanted, {wanted: wanted})


def test_a_database_rebuilt_from_the_spool_equals_the_one_that_was_lost(tmp_path: Path, spool_dir: Path) -> None:
    path = tmp_path / "history.duckdb"
    db = open_database(path, StepClock())
    for n in range(3):
        run_id = new_run(db)
        mark_running(db, run_id, 1, 10 + n)
        events = make_run_events(run_id, seed=n)
        if n == 1:  # taken over by a second process
            spool_events(spool_dir, run_id, events[:15], attempt=1)
            mark_running(db, run_id, 2, 20)
            spool_events(spool_dir, run_id, events, attempt=2)
        else:
            spool_events(spool_dir, run_id, events)
        drain(db, spool_dir)
    original = dump(db)
    db.close()
    path.write_bytes(b"damaged" * 4096)
    again = open_database(path, StepClock())
    assert len(again.notices) == 1 and "spool" in again.notices[0]
    drain(again, spool_dir)
    assert dump(again) == original
    again.close()


def test_a_failed_transaction_keeps_the_offsets_and_the_next_tick_loses_nothing(
    db: Database, spool_dir: Path, monkeypatch
) -> None:
    run_id = new_run(db)
    events = make_run_events(run_id, seed=10)
    spool_events(spool_dir, run_id, events)

    def fail(*_: object) -> None:
        raise duckdb.IOException("IO Error: Could not write file: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_insert_bad_lines", fail)
        result = ingest_once(db, spool_dir)
    assert result.error is not None and "No space left on device" in result.error and "tried again" in result.error
    assert rows(db, "events", run_id=run_id) == [] and rows(db, "run", run_id=run_id)[0]["state"] == "queued"
    assert ingest_once(db, spool_dir).lines == len(events)
    with pytest.raises(DatabaseUnavailable), db.transaction() as cursor:
        cursor.execute("select * from no_such_table")


def dump(db: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Everything the spool can bring back; creation time, submission and leases are the hub's own."""
    own = {"created_at", "event_id", "family", "note"}
    tables = {}
    for table in ("runs", "trials", "events"):
        relation = db.cursor().sql("from " + table)
        names = ", ".join(name for name in relation.columns if name not in own)
        tables[table] = sorted(db.cursor().execute("select " + names + " from " + table).fetchall(), key=repr)
    return tables


def test_records_of_the_spool_are_records_of_the_project(spool_dir: Path) -> None:
    spool_events(spool_dir, "run1", make_run_events("run1", seed=1))
    for record in read_all(spool_path(spool_dir, "run1", 1)):
        if record.kind == "trial_finished":
            assert to_json(Trial.from_json(record.data["trial"])) == record.data["trial"]
