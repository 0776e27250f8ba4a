"""Brought models as rows: one name is one model, asking twice is asking once, late answers change nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sample_events import StepClock

from hybrid_core.errors import InvalidInput
from storage import brought_models as table
from storage.brought_models import (
    brought_models,
    create_brought,
    forget_brought,
    mark_brought_ready,
    mark_brought_refused,
)
from storage.connection import Database, open_database
from storage.queries import run_query

MINE = ("mine", "huggingface", "/models/mine")
FACTS = {"name": "mine", "facts": {"full": {"parameters": 7, "broken": "\ud800"}}}


def only(db: Database) -> table.BroughtModel:
    (model,) = brought_models(db)
    return model


def test_a_model_goes_from_checking_to_ready_with_its_description(db: Database) -> None:
    model_id = create_brought(db, *MINE)
    assert (only(db).state, only(db).description, only(db).ended_at) == ("checking", None, None)
    assert mark_brought_ready(db, model_id, '{"kind": "huggingface"}', FACTS)
    ready = only(db)
    assert (ready.state, ready.source) == ("ready", '{"kind": "huggingface"}')
    assert ready.description == {"name": "mine", "facts": {"full": {"parameters": 7, "broken": "?"}}}
    assert ready.ended_at is not None and ready.ended_at > ready.created_at


def test_twenty_simultaneous_identical_requests_are_one_model(db: Database) -> None:
    with ThreadPoolExecutor(10) as pool:
        ids = set(pool.map(lambda _: create_brought(db, *MINE), range(20)))
    assert ids == {only(db).model_id}


def test_a_taken_name_is_refused_for_another_place_and_the_first_stays(db: Database) -> None:
    model_id = create_brought(db, *MINE)
    for other in (("huggingface", "/models/other", ""), ("exported", "/models/mine", ""), (*MINE[1:], "/labels.json")):
        with pytest.raises(InvalidInput, match="name 'mine' is taken by the model brought in from '/models/mine'"):
            create_brought(db, "mine", *other)
    assert only(db).model_id == model_id


def test_a_refused_name_is_free_again_and_asked_anew(db: Database) -> None:
    first = create_brought(db, *MINE)
    assert mark_brought_refused(db, first, "config.json is missing")
    assert (only(db).state, only(db).reason) == ("refused", "config.json is missing")
    second = create_brought(db, "mine", "exported", "/models/mine.pt2", "/labels.json")
    assert second != first
    again = only(db)
    assert (again.state, again.reason, again.path, again.labels) == ("checking", "", "/models/mine.pt2", "/labels.json")


def test_an_answer_for_a_forgotten_or_repeated_request_changes_nothing(db: Database) -> None:
    late = create_brought(db, *MINE)
    assert forget_brought(db, "mine") and not forget_brought(db, "mine")
    assert not mark_brought_ready(db, late, "{}", FACTS) and brought_models(db) == []
    current = create_brought(db, *MINE)
    assert not mark_brought_refused(db, late, "too late") and only(db).state == "checking"
    assert mark_brought_ready(db, current, "{}", FACTS)
    assert not mark_brought_refused(db, current, "after the fact") and only(db).state == "ready"


def test_there_is_a_bound_that_a_known_name_does_not_meet(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_BROUGHT", 2)
    first = create_brought(db, "a", "huggingface", "/a")
    create_brought(db, "b", "huggingface", "/b")
    with pytest.raises(InvalidInput, match="2 models were brought in already; forget one"):
        create_brought(db, "c", "huggingface", "/c")
    mark_brought_refused(db, first, "no")
    assert create_brought(db, "a", "huggingface", "/a") != first


def test_models_survive_closing_and_opening_the_file(tmp_path: Path) -> None:
    db = open_database(tmp_path / "h.duckdb", StepClock())
    mark_brought_ready(db, create_brought(db, *MINE), "{}", FACTS)
    before = brought_models(db)
    db.close()
    db = open_database(tmp_path / "h.duckdb", StepClock())
    assert brought_models(db) == before
    (row,) = run_query(db, "brought_models").to_pylist()
    assert (row["name"], row["state"], row["path"]) == ("mine", "ready", "/models/mine")
    db.close()


def test_hostile_texts_are_kept_as_text(db: Database) -> None:
    hostile = "'; drop table brought_models; --\n<img>"
    model_id = create_brought(db, "mine", hostile, hostile, hostile)
    mark_brought_refused(db, model_id, hostile + "\ud800")
    assert (only(db).path, only(db).reason) == (hostile, hostile + "?")
