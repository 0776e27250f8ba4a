"""Models from the command line: bring waits and tells the card or the reason, models lists, forget forgets."""

import io
import os
import signal
import subprocess
import sys

import pytest

from hybrid_core.errors import InvalidInput
from workers.__main__ import main
from workers.model_commands import card_lines, printable, request_of
from workers.paths import PROJECT_ROOT


def test_bring_waits_prints_the_card_and_the_model_is_listed_until_it_is_forgotten(hub, capsys):
    assert main(["bring", "/models/ok", "--kind", "huggingface", "--name", "mine"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[:2] == ["mine: Brought mine", "A toy."] and "mine is being inspected, 0 s" in printed.err
    assert lines[3].split() == "size parameters float32 bfloat16 int8 cache per token fits on".split()
    assert lines[4].split() == "full 1,000 3.9 KiB 2.0 KiB 1,000.0 B - cpu".split()
    assert "workloads of full: forward, batch 1 x 8" in lines
    assert "quality of full: agreement with the untouched model" in lines and "- none" in lines
    assert main(["models"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows] == [["name", "from"], ["toy", "registry"], ["mine", "huggingface"]]
    assert main(["bring", "/models/ok", "--kind", "huggingface", "--name", "mine"]) == 0
    assert "mine was brought in before; forget it to have it read anew" in capsys.readouterr().err
    assert main(["forget", "mine"]) == 0
    assert capsys.readouterr().out.startswith("Model mine was forgotten.")
    assert main(["forget", "mine"]) == 2
    assert "no model 'mine' was brought in" in capsys.readouterr().err


def test_a_refused_model_is_its_reason_with_exit_code_1_and_stays_listed(hub, capsys):
    assert main(["bring", "/models/refuse", "--kind", "huggingface", "--name", "mine"]) == 1
    printed = capsys.readouterr()
    assert "mine was not brought in: config.json has the key 'auto_map', which is not allowed\n" in printed.err
    assert printed.out == ""
    assert main(["models"]) == 0
    assert "mine is refused: config.json has the key 'auto_map'" in capsys.readouterr().out
    for bad, sentence in (
        (["/models/ok", "--kind", "pickle"], "kind='pickle' is unknown"),
        (["/models/ok", "--kind", "exported", "--name", "toy"], "belongs to a model of the registry"),
        (["my_package:make"], "importing it is off"),
    ):
        assert main(["bring", *bad]) == 2
        complaint = capsys.readouterr().err
        assert sentence in complaint and complaint.count("\n") == 1


def test_interrupting_the_wait_leaves_the_inspection_going(hub, wait_for):
    hub.hold()
    command = subprocess.Popen(
        [sys.executable, "-m", "workers", "bring", "/models/slow", "--kind", "huggingface", "--name", "mine"],
        cwd=PROJECT_ROOT, env={**os.environ, "HYBRID_DATA_DIR": str(hub.paths.root)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: (hub.paths.root / "inspected").exists())
    assert command.stderr.readline() == "mine is being inspected, 0 s\n"
    command.send_signal(signal.SIGINT)
    assert "the inspection goes on" in command.communicate(timeout=30)[1] and command.returncode == 130
    hub.release()
    wait_for(lambda: hub.brought("mine")["state"] == "ready")


def test_a_flag_that_a_running_hub_does_not_have_is_refused_in_one_sentence(hub, capsys, monkeypatch):
    monkeypatch.setenv("HYBRID_ALLOW_CODE", "")  # so that what the command sets is undone
    assert main(["hub", "--allow-code"]) == 2
    assert "a hub without --allow-code runs already; end it with" in capsys.readouterr().err
    hub.client.stop()
    hub.process.wait(20)
    hub.paths.allowed_packages.write_text("my_package\n")
    assert main(["hub", "--allow-code"]) == 0
    assert "Models may be Python code of these packages: my_package" in capsys.readouterr().out
    # The first thing a hub does is to take away the sign that the one before it was stopped.
    hub.wait_for(lambda: not hub.paths.stopped.exists(), 30)
    assert hub.bring("pkg:ok", kind="huggingface")["state"] == "ready"


def test_kind_and_name_are_read_from_the_path(tmp_path, monkeypatch):
    folder = tmp_path / "My Llama 3.1"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    assert request_of("My Llama 3.1") == {
        "kind": "huggingface", "path": str(folder), "name": "my-llama-3-1", "labels": "",
    }  # fmt: skip
    assert request_of("net.pt2", labels="rows.json") == {
        "kind": "exported", "path": str(tmp_path / "net.pt2"), "name": "net", "labels": str(tmp_path / "rows.json"),
    }  # fmt: skip
    assert request_of("a.b:Make_Net")["name"] == "make_net"
    with pytest.raises(InvalidInput, match="is no folder, no .pt2 file and no module:function"):
        request_of("/no/such/folder")


def test_a_card_shows_published_figures_cache_quality_and_nothing_a_terminal_obeys():
    quality = {"metric": "next-byte accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "trivial": 0.1}
    facts = {
        "parameters": 100, "published_parameters": 101, "weights_bytes": {"float32": 400 * 2**30},
        "kv_cache_bytes_per_token": {"float32": 2048}, "quality": quality, "limits": ["red \x1b[31m text"],
        "fits": {"cpu": {"fits": False}},
    }  # fmt: skip
    model = {"name": "m", "title": "T\x1b]0;own\x07", "description": "D", "sizes": ["full"], "facts": {"full": facts}}
    lines = list(card_lines({**model, "workloads": {"full": [{"label": "w"}]}}))
    assert lines[0] == "m: T ]0;own" and lines[-1] == "- red [31m text"
    assert "100 (published 101)" in lines[4] and "400.0 GiB" in lines[4] and "2.0 KiB" in lines[4]
    assert lines[4].endswith("no device here")
    assert "quality of full: next-byte accuracy 0.500 [0.400, 0.600], trivial 0.100" in lines
    assert printable("a\nb\u202ec") == "a b c"


def test_waiting_says_so_now_and_then_and_ends_when_the_model_is_forgotten(monkeypatch):
    from workers import model_commands

    class Forgetful:
        left = 3

        def query(self, name):
            self.left -= 1
            return [{"name": "mine", "state": "checking"}] if self.left >= 0 else []

    clock = iter([0.0, 0.1, 2.0, 7.0])
    monkeypatch.setattr(model_commands.time, "monotonic", lambda: next(clock))
    said = io.StringIO()
    assert model_commands.wait_for_inspection(Forgetful(), "mine", said, sleep=lambda _: None) is None
    assert said.getvalue() == "mine is being inspected, 0 s\nmine is being inspected, 7 s\n"
