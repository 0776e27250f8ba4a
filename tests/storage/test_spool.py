"""The spool: one line is all or nothing, and what cannot be read is evidence, not silence."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_events import StepClock, make_run_events, spool_events

from hybrid_core.errors import InvalidInput
from hybrid_core.records import Trial, to_json
from storage.spool import (
    SpoolWriteFailed,
    SpoolWriter,
    attempts_of,
    read_all,
    read_complete_lines,
    replay_trials,
    spool_path,
)

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def without_surrogates(value: object) -> object:
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4), max_size=5))
def test_whatever_json_can_say_is_read_back_as_it_was_written(tmp_path_factory, contents) -> None:
    folder = tmp_path_factory.mktemp("round_trip")
    with SpoolWriter(folder, "run1", 1, clock=StepClock()) as writer:
        for content in contents:
            writer.write("anything", content)
    chunk = read_complete_lines(writer.path, 0)
    assert chunk.bad_lines == []
    assert [r.data for r in chunk.records] == [without_surrogates(c) for c in contents]
    assert [r.seq for r in chunk.records] == list(range(1, len(contents) + 1))
    assert chunk.offset == writer.path.stat().st_size


def test_nan_becomes_null_and_never_invalid_json(spool_dir: Path) -> None:
    with SpoolWriter(spool_dir, "run1", 1, clock=StepClock()) as writer:
        writer.write("numbers", {"a": math.nan, "b": [math.inf, 1.5]})
    assert json.loads(writer.path.read_text(), parse_constant=pytest.fail)["data"] == {"a": None, "b": [None, 1.5]}


def test_cutting_the_file_at_every_byte_of_the_last_line_loses_that_line_only(spool_dir: Path) -> None:
    path = spool_events(spool_dir, "run1", make_run_events("run1", seed=1, trials=1)[-3:])
    whole = path.read_bytes()
    last_start = whole[:-1].rfind(b"\n") + 1
    for cut in range(last_start, len(whole)):
        path.write_bytes(whole[:cut])
        chunk = read_complete_lines(path, 0)
        assert (len(chunk.records), chunk.offset, chunk.bad_lines) == (2, last_start, [])
    path.write_bytes(whole)
    assert [r.kind for r in read_complete_lines(path, last_start).records] == ["run_finished"]


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[1, 2]",
        b"\xff\xfe\x00",
        b"",
        b'{"run_id": "run1"}',
        b'{"run_id": "run1", "attempt": true, "seq": 1, "time": 1.0, "kind": "x", "data": {}}',
        b'{"run_id": "run1", "attempt": 1, "seq": 99999999999, "time": 1.0, "kind": "x", "data": {}}',
        b'{"run_id": "run1", "attempt": 1, "seq": 1, "time": 1e999, "kind": "x", "data": {}}',
        b'{"run_id": "run1", "attempt": 1, "seq": 1, "time": 1.0, "kind": "x", "data": {"a": NaN}}',
        b"[" * 100_000,
    ],
)
def test_a_bad_line_in_the_middle_is_reported_with_its_offset_and_reading_goes_on(spool_dir: Path, line: bytes) -> None:
    path = spool_events(spool_dir, "run1", make_run_events("run1", seed=1, trials=1)[:2])
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + b"\n" + second)
    chunk = read_complete_lines(path, 0)
    assert [r.seq for r in chunk.records] == [1, 2]
    assert [(bad.offset, bad.text) for bad in chunk.bad_lines] == [(len(first), line.decode("utf-8", "replace") + "\n")]


def test_small_reads_together_give_what_one_large_read_gives(spool_dir: Path) -> None:
    path = spool_events(spool_dir, "run1", make_run_events("run1", seed=3))
    pieces, offset = [], 0
    while (chunk := read_complete_lines(path, offset, max_bytes=300)).records:
        pieces += chunk.records
        offset = chunk.offset
    assert pieces == read_complete_lines(path, 0).records == read_all(path)


def test_a_file_that_shrank_says_so_once(spool_dir: Path) -> None:
    path = spool_events(spool_dir, "run1", make_run_events("run1", seed=1, trials=1)[:2])
    size = path.stat().st_size
    os.truncate(path, 10)
    chunk = read_complete_lines(path, size)
    assert chunk.offset == 10
    assert "shrank" in chunk.bad_lines[0].error
    assert read_complete_lines(path, chunk.offset) == ([], 10, [])


def test_an_attempt_number_is_used_once(spool_dir: Path) -> None:
    SpoolWriter(spool_dir, "run1", 1).close()
    with pytest.raises(SpoolWriteFailed, match="start the next attempt"):
        SpoolWriter(spool_dir, "run1", 1)
    SpoolWriter(spool_dir, "run1", 12).close()
    SpoolWriter(spool_dir, "run10", 3).close()
    assert attempts_of(spool_dir, "run1") == [1, 12]


@pytest.mark.parametrize("run_id", ["", "../up", "a/b", "a.b", "a\x00b", "x" * 65, "ü"])
def test_an_id_that_could_leave_the_folder_is_refused(spool_dir: Path, run_id: str) -> None:
    with pytest.raises(InvalidInput, match="cannot name a file"):
        spool_path(spool_dir, run_id, 1)


FULL_DISK = """
import resource, sys
from pathlib import Path
from storage.spool import SpoolWriter, SpoolWriteFailed
writer = SpoolWriter(Path(sys.argv[1]), "run1", 1)
written = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
try:
    while True:
        writer.write("note", {"number": written, "padding": "x" * 700})
        written += 1
except SpoolWriteFailed as error:
    assert not error.line_written and "free space" in str(error), error
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.write("note", {"number": written, "padding": "again"})
print(written + 1)
"""


def test_a_full_disk_is_a_clear_error_that_keeps_nothing_and_a_later_write_succeeds(spool_dir: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, spool_dir], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    chunk = read_complete_lines(spool_path(spool_dir, "run1", 1), 0)
    assert chunk.bad_lines == []
    assert [r.data["number"] for r in chunk.records] == list(range(int(done.stdout)))
    assert [r.seq for r in chunk.records] == list(range(1, int(done.stdout) + 1))


def test_a_torn_write_that_cannot_be_taken_back_becomes_one_bad_line(spool_dir: Path, monkeypatch) -> None:
    writer = SpoolWriter(spool_dir, "run1", 1, clock=StepClock())
    writer.write("note", {"n": 1})
    real_write, broken = os.write, []

    def write_half(fd: int, data: bytes) -> int:
        broken.append(data)
        return real_write(fd, data[: len(data) // 2])

    def refuse_truncate(fd: int, size: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_half)
        patch.setattr(os, "ftruncate", refuse_truncate)
        for _ in range(2):
            with pytest.raises(SpoolWriteFailed, match="the disk is full"):
                writer.write("note", {"n": 2})
    writer.write("note", {"n": 2})
    chunk = read_complete_lines(writer.path, 0)
    assert [(r.seq, r.data["n"]) for r in chunk.records] == [(1, 1), (2, 2)]
    assert 1 <= len(chunk.bad_lines) <= len(broken)


def test_a_failed_sync_says_that_the_line_is_there(spool_dir: Path, monkeypatch) -> None:
    writer = SpoolWriter(spool_dir, "run1", 1, clock=StepClock())
    calls = []

    def fail(fd: int) -> None:
        calls.append(fd)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        writer.write("progress", {})  # not durable: not synced
        assert calls == []
        with pytest.raises(SpoolWriteFailed, match="No space left") as caught:
            writer.write("trial_finished", {})
    assert caught.value.line_written
    writer.sync()
    assert [r.seq for r in read_all(writer.path)] == [1, 2]


def test_a_restarted_run_gets_back_exactly_the_trials_that_were_finished(spool_dir: Path) -> None:
    events = make_run_events("run1", seed=5)
    finished = [e["data"]["trial"] for e in events if e["kind"] == "trial_finished"]
    cut = (
        next(i for i, e in enumerate(events) if e["kind"] == "trial_finished" and e["data"]["trial"] == finished[4]) + 1
    )
    torn = spool_events(spool_dir, "run1", events[:cut], attempt=1)
    torn.write_bytes(torn.read_bytes() + b'{"run_id": "run1", "attempt": 1, "se')
    assert [to_json(t) for t in replay_trials(spool_dir, "run1")] == finished[:5]
    spool_events(spool_dir, "run1", events[:1] + events[cut - 1 :], attempt=2)
    assert [to_json(t) for t in replay_trials(spool_dir, "run1")] == finished
    assert all(isinstance(t, Trial) for t in replay_trials(spool_dir, "run1"))
    assert replay_trials(spool_dir, "another") == []
