"""What a run process says reaches the spool once: over a full disk, a race for the last word, and a second attempt."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from hybrid_core.records import MeasureLimits, Outcome, Purpose, Recipe, Trial
from storage.spool import SpoolWriteFailed, SpoolWriter, read_all, spool_path
from workers.run_process import Measurer
from workers.run_report import DISK_PATIENCE_S, Replay, RunOver, RunReport
from workers.run_watch import HUB_GRACE_S, HubSilence


class FakeClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class DiskThatFills:
    """A spool writer whose writes and syncs fail as scripted."""

    def __init__(self, writer, failures):
        self.writer, self.failures, self.calls = writer, list(failures), []

    def write(self, kind, data):
        self.calls.append(("write", kind))
        failure = self.failures.pop(0) if self.failures else None
        if failure != "nothing kept":
            self.writer.write(kind, data)
        if failure:
            raise SpoolWriteFailed("the disk is full", line_written=failure == "not synced")

    def sync(self):
        self.calls.append(("sync", ""))
        if self.failures and self.failures.pop(0):
            raise SpoolWriteFailed("the disk is full", line_written=True)


def trial(name, purpose=Purpose.SEARCH):
    recipe = Recipe.from_dict({"quantization": name})
    return Trial(f"run1:{purpose}:{recipe.key}", "run1", recipe, purpose, Outcome.CRASHED, "segfault")


def kinds(tmp_path, attempt=1):
    return [record.kind for record in read_all(spool_path(tmp_path, "run1", attempt))]


def report_on(tmp_path, failures=(), attempt=1, clock=None):
    clock = clock or FakeClock()
    disk = DiskThatFills(SpoolWriter(tmp_path, "run1", attempt), failures)
    return RunReport(disk, Replay(tmp_path, "run1"), clock=clock, sleep=clock.sleep), disk


def test_a_line_that_did_not_fit_is_written_again_and_a_line_that_did_is_only_synced_again(tmp_path):
    report, disk = report_on(tmp_path, ["nothing kept", "not synced", "again", None])
    report.emit("progress", {"done": 1})
    assert [call[0] for call in disk.calls] == ["write", "write", "sync", "sync"]
    assert kinds(tmp_path) == ["progress"]


def test_a_disk_that_stays_full_ends_the_patience_with_its_cause(tmp_path):
    clock = FakeClock()
    report, _ = report_on(tmp_path, ["nothing kept"] * 1000, clock=clock)
    with pytest.raises(SpoolWriteFailed, match="the disk is full"):
        report.emit("progress", {})
    assert DISK_PATIENCE_S <= clock.now < DISK_PATIENCE_S + 10


def test_a_heartbeat_on_a_full_disk_is_left_out_without_waiting(tmp_path):
    clock = FakeClock()
    report, _ = report_on(tmp_path, ["nothing kept"] * 10, clock=clock)
    report.heartbeat()
    assert clock.now == 0 and kinds(tmp_path) == []


def test_the_first_end_is_the_last_word(tmp_path):
    report, _ = report_on(tmp_path)
    report.finish("cancelled", "by request")
    report.finish("finished", "too late")
    report.heartbeat()
    with pytest.raises(RunOver):
        report.emit("trial_finished", {"trial": trial("one")})
    records = read_all(spool_path(tmp_path, "run1", 1))
    assert [(r.kind, r.data["cause"]) for r in records] == [("run_finished", "by request")]


def test_a_second_attempt_tells_only_what_the_first_did_not(tmp_path):
    first, _ = report_on(tmp_path)
    first.emit("trial_started", {"trial_id": trial("one").trial_id})
    first.emit("trial_finished", {"trial": trial("one")})
    first.emit("selection", {"iteration": 1})
    first.emit("skipped", {"key": "x"})
    first.emit("trial_started", {"trial_id": trial("two").trial_id})
    second, _ = report_on(tmp_path, attempt=2)
    second.emit("trial_started", {"trial_id": trial("one").trial_id})
    second.emit("trial_finished", {"trial": trial("one")})
    second.emit("selection", {"iteration": 1})
    second.emit("skipped", {"key": "x"})
    assert kinds(tmp_path, 2) == []
    second.emit("trial_started", {"trial_id": trial("two").trial_id})
    second.emit("trial_finished", {"trial": trial("two")})
    second.emit("selection", {"iteration": 2})
    assert kinds(tmp_path, 2) == ["trial_started", "trial_finished", "selection"]
    third = Replay(tmp_path, "run1")
    assert [third.was_told("selection", {}) for _ in range(3)] == [True, True, False]
    assert set(third.trials) == {trial("one").trial_id, trial("two").trial_id}


def test_the_rounds_of_a_final_are_answered_and_not_told_again_by_a_second_attempt(tmp_path):
    first, _ = report_on(tmp_path)
    one = replace(trial("one", Purpose.FINAL), trial_id="run1:final.1:quantization=one")
    first.emit("round_started", {"trial_id": one.trial_id, "round": 1})
    first.emit("round_finished", {"trial": one, "round": 1})
    second, _ = report_on(tmp_path, attempt=2)
    assert Replay(tmp_path, "run1").trials == {one.trial_id: one}
    second.emit("round_started", {"trial_id": one.trial_id, "round": 1})
    second.emit("round_finished", {"trial": one, "round": 1})
    assert kinds(tmp_path, 2) == []
    second.emit("round_started", {"trial_id": "run1:final.2:quantization=one", "round": 2})
    second.emit("trial_finished", {"trial": trial("one", Purpose.FINAL)})
    assert kinds(tmp_path, 2) == ["round_started", "trial_finished"]


def test_a_race_goes_on_with_the_round_that_was_not_finished(tmp_path):
    first, _ = report_on(tmp_path)
    done = replace(trial("one", Purpose.FINAL), trial_id="run1:final.1:quantization=one")
    first.emit("round_finished", {"trial": done, "round": 1})
    asked = []

    class Engine:
        def measure(self, request, on_phase, variables):
            asked.append(request.trial_id)
            return replace(done, trial_id=request.trial_id)

    second, _ = report_on(tmp_path, attempt=2)
    order = SimpleNamespace(run_id="run1", subject=None)
    measure = Measurer(order, Engine(), second, Replay(tmp_path, "run1"))
    found = [measure(done.recipe, Purpose.FINAL, MeasureLimits(), number) for number in (1, 2)]
    assert found[0] == done and asked == ["run1:final.2:quantization=one"] == [found[1].trial_id]


def test_the_hubs_silence_counts_from_the_last_change_seen_and_not_from_the_wall_clock(tmp_path):
    import os

    clock, file = FakeClock(), tmp_path / "hub.alive"
    file.touch()
    os.utime(file, (1, 1))  # fifty years old: as after a suspended night or a wrong clock
    silence = HubSilence(file, clock)
    assert silence.seconds() == 0
    clock.now = HUB_GRACE_S - 1
    assert silence.seconds() == HUB_GRACE_S - 1
    os.utime(file, (2, 2))
    assert silence.seconds() == 0
    clock.now += HUB_GRACE_S + 1
    assert silence.seconds() > HUB_GRACE_S
    file.unlink()
    assert silence.seconds() == 0  # its disappearance is a change too, seen once
    clock.now += HUB_GRACE_S + 1
    assert silence.seconds() > HUB_GRACE_S
