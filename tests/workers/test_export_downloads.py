"""Exports by hub and command line: a process of its own, progress, cancel, refusals, and nothing left behind."""

import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest

from hybrid_core.errors import HubUnavailable, InvalidInput
from workers import exporting
from workers.__main__ import main
from workers.exporting import Exporting
from workers.exports import ExportKeeper
from workers.paths import PROJECT_ROOT, DataPaths

FAKE = (sys.executable, str(Path(__file__).parent / "fakes" / "fake_export.py"))


def over(hub, run_id):
    states = ("ready", "too_large", "failed")
    return hub.wait_for(lambda: (now := hub.client.export_state(run_id))["state"] in states and now)


@pytest.fixture
def finished(hub):
    run_id = hub.submit()
    hub.wait_over(run_id)
    return run_id


def does(hub, what):
    (hub.paths.root / "export_does").write_text(what)


def left_over(hub):
    return [path.name for path in (hub.paths.cache / "exports").iterdir()]


def test_a_finished_run_becomes_a_zip_with_its_recipe(hub, finished):
    assert hub.client.export_state(finished)["state"] == ""
    with pytest.raises(HubUnavailable, match="prepare it again"):
        hub.client.read_export(finished)
    hub.hold()
    assert hub.client.export(finished)["state"] in ("waiting", "working")
    hub.wait_for(lambda: hub.client.export_state(finished)["phase"] == "building")
    assert hub.client.export(finished)["state"] == "working", "asking again changes nothing"
    hub.release()
    found = over(hub, finished)
    assert (found["state"], found["reason"]) == ("ready", "") and found["bytes"] > 50
    with zipfile.ZipFile(io.BytesIO(hub.client.read_export(finished))) as archive:
        assert sorted(archive.namelist()) == [f"{finished}/model.safetensors", f"{finished}/recipe.json"]
        assert json.loads(archive.read(f"{finished}/recipe.json"))["recipe"] == {"quantization": "two"}
    assert left_over(hub) == [f"{finished}.zip"]


def test_the_process_gets_a_built_up_environment_and_low_priority(hub, finished, monkeypatch):
    hub.hold()
    hub.client.export(finished)
    seen = hub.wait_for(lambda: (path := hub.paths.root / "exporting").exists() and json.loads(path.read_text()))
    assert "HYBRID_DATA_DIR" not in seen["environment"]
    assert seen["environment"]["HOME"].startswith(str(hub.paths.cache))
    assert psutil.Process(seen["pid"]).nice() == exporting.NICENESS


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("refuse", "the disk is full"),
        ("crash", "exit code -6 and without an answer"),
        ("fail", "RuntimeError: no idea"),
    ],
)
def test_a_failed_export_is_one_sentence_leaves_nothing_and_can_be_tried_again(hub, finished, what, reason):
    does(hub, what)
    hub.client.export(finished)
    found = over(hub, finished)
    assert found["state"] == "failed" and reason in found["reason"] and "\n" not in found["reason"]
    assert left_over(hub) == []
    does(hub, "")
    hub.client.export(finished)
    hub.wait_for(lambda: hub.client.export_state(finished)["state"] == "ready")


def test_a_run_without_a_winner_or_of_nobody_is_refused(hub):
    for run_id in ("nosuch", "../../etc"):
        with pytest.raises(InvalidInput, match="does not exist"):
            hub.client.export(run_id)
    hub.hold()
    waiting = hub.submit()
    with pytest.raises(InvalidInput, match="no winner"):
        hub.client.export(waiting)


def test_a_hub_that_ends_ends_its_export(hub, finished, processes):
    hub.hold()
    hub.client.export(finished)
    pid = hub.wait_for(lambda: (path := hub.paths.root / "exporting").exists() and json.loads(path.read_text()))["pid"]
    hub.client.stop()
    hub.wait_for(lambda: not processes(hub.paths.root) and not psutil.pid_exists(pid))
    assert left_over(hub) == []


def tick_until_over(keeper, run_id, wait_for):
    def ticked():
        keeper.tick()
        return (now := keeper.state(run_id))["state"] in ("ready", "too_large", "failed") and now

    return wait_for(ticked)


def test_what_is_too_large_for_a_browser_is_not_kept(tmp_path, wait_for):
    paths = DataPaths(tmp_path).prepare()
    (tmp_path / "export_does").write_text("large")
    keeper = ExportKeeper(paths, (*FAKE, str(tmp_path)), max_zip_bytes=1000)
    keeper.ask("r1", {"run": {}}, allow_code=False)
    found = tick_until_over(keeper, "r1", wait_for)
    assert (found["state"], found["path"], found["max_bytes"]) == ("too_large", "", 1000) and found["bytes"] > 5000
    assert list((paths.cache / "exports").iterdir()) == []


def test_only_the_newest_downloads_are_kept(tmp_path, wait_for, monkeypatch):
    monkeypatch.setattr("workers.exports.MAX_KEPT", 2)
    paths = DataPaths(tmp_path).prepare()
    keeper = ExportKeeper(paths, (*FAKE, str(tmp_path)))
    for name in ("a", "b", "c"):
        keeper.ask(name, {"run": {}}, allow_code=False)
    for name in ("a", "b", "c"):
        tick_until_over(keeper, name, wait_for)
    assert sorted(path.name for path in (paths.cache / "exports").iterdir()) == ["b.zip", "c.zip"]
    assert keeper.state("a")["state"] == ""


def test_an_export_past_its_deadline_is_ended_with_its_unfinished_folder(tmp_path, wait_for):
    (tmp_path / "hold").touch()
    now = [0.0]
    request = {"recipe": {}, "folder": str(tmp_path / "out"), "zip": "", "max_zip_bytes": 0, "allow_code": False}
    work = Exporting(request, tmp_path / "work", program=(*FAKE, str(tmp_path)), clock=lambda: now[0])
    wait_for(lambda: (tmp_path / "exporting").exists())
    assert work.poll() is None and work.phase == "building"
    now[0] = exporting.TIMEOUT_S + 1
    ended = work.poll()
    assert ended is not None and "took more than 600 s" in ended.reason
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exporting", "hold"]


def command(paths, *arguments):
    environment = {**os.environ, "HYBRID_DATA_DIR": str(paths.root)}
    return subprocess.Popen(
        [sys.executable, "-m", "workers", "export", *map(str, arguments)], cwd=PROJECT_ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def with_program(monkeypatch, root):
    """Let the command start the fake process."""
    real = Exporting.__init__

    def begin(self, request, scratch, *, threads=1):
        real(self, request, scratch, threads=threads, program=(*FAKE, str(root)))

    monkeypatch.setattr(Exporting, "__init__", begin)


def test_the_command_writes_the_folder_and_says_how_to_check_it(hub, finished, tmp_path, monkeypatch, capsys):
    with_program(monkeypatch, tmp_path)
    assert main(["export", finished, str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert f"python {tmp_path / 'out' / 'verify.py'}" in printed.out
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["recipe"] == {"quantization": "two"}


def test_the_commands_refusals_are_one_sentence(hub, finished, tmp_path, monkeypatch, capsys):
    with_program(monkeypatch, tmp_path)
    assert main(["export", "nosuch", str(tmp_path / "out")]) == 2
    (tmp_path / "export_does").write_text("refuse")
    assert main(["export", finished, str(tmp_path / "out")]) == 1
    assert "the disk is full\n" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*partial*"))


def test_without_a_hub_the_command_says_how_to_start_one(paths, tmp_path, capsys):
    assert main(["export", "r1", str(tmp_path / "out")]) == 3
    assert "start it with `python -m workers hub`" in capsys.readouterr().err


def test_the_real_process_names_what_is_wrong_and_interrupting_the_command_leaves_nothing(hub, finished, tmp_path):
    """The toy model of the fake hub is none that can be built; the answer is a sentence, not a trace."""
    done = command(hub.paths, finished, tmp_path / "out")
    output, complaints = done.communicate(timeout=120)
    assert done.returncode == 1 and output == "" and "Traceback" not in complaints
    assert "has no setting 'two'" in complaints
    interrupted = command(hub.paths, finished, tmp_path / "out")
    assert interrupted.stderr.readline()
    interrupted.send_signal(signal.SIGINT)
    _, complaints = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130 and "nothing was written" in complaints
    assert list(tmp_path.glob("*out*")) == []
