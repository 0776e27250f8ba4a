"""The files that come with the project are exactly what the checked-in measurements give."""

import json

from benchmarks import shipped_history
from benchmarks.shipped_history import FOLDER, texts


def test_the_files_are_written_from_the_checked_in_measurements():
    assert {path.stem: path.read_text() for path in FOLDER.glob("*.json")} == texts()


def test_only_what_was_measured_or_wrong_is_taken_and_the_later_row_counts():
    ratio = {"value": 1.23456, "low": 1.1, "high": float("inf")}
    known = {"speed": ratio, "memory": ratio, "accuracy": ratio}
    subjects: shipped_history.Subjects = {}
    for recipe, outcome in (("a=1", "ok"), ("b=1", "unsupported"), ("c=1", "timeout"), ("d=1", "wrong"), ("", "ok")):
        shipped_history.take(
            subjects, ("m", "tiny", "forward"), recipe, {"outcome": outcome, **known}, shipped_history.ends_of
        )
    rows = subjects["m", "tiny", "forward"]
    assert set(rows) == {"a=1", "d=1"}
    assert rows["a=1"][2] == [1.235, 1.1, None] and rows["d=1"][2] == [None] * 3
    again = {"outcome": "ok", **known, "speed": {"value": 2.0, "low": 1.9, "high": 2.1}}
    shipped_history.take(subjects, ("m", "tiny", "forward"), "a=1", again, shipped_history.ends_of)
    assert rows["a=1"][2] == [2.0, 1.9, 2.1]
    assert json.loads(json.dumps(rows)) == rows
