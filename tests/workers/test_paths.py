"""The data folder: where it is, that it is private, and what is said when it cannot be used."""

import os
import stat
import subprocess
import sys

import pytest

from hybrid_core.errors import InvalidInput
from workers.paths import PROJECT_ROOT, SOCKET_PATH_LIMIT_BYTES, DataPaths, data_paths, make_private_folder


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_environment_names_the_folder_before_the_xdg_rule_does(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    both = {"HYBRID_DATA_DIR": str(tmp_path), "XDG_DATA_HOME": "/xdg"}
    assert data_paths(both).root == tmp_path
    assert str(data_paths({"XDG_DATA_HOME": "/xdg"}).root) == "/xdg/hybrid-optimization"
    assert str(data_paths({}).root) == "/home/somebody/.local/share/hybrid-optimization"
    assert str(data_paths({"XDG_DATA_HOME": "relative"}).root) == "/home/somebody/.local/share/hybrid-optimization"
    assert str(data_paths({"HYBRID_DATA_DIR": "~/here"}).root) == "/home/somebody/here"
    assert data_paths({"HYBRID_DATA_DIR": "here"}).root.is_absolute()


def test_every_folder_is_private_even_if_the_data_folder_was_open_before(tmp_path):
    root = tmp_path / "data"
    root.mkdir(mode=0o755)
    paths = DataPaths(root).prepare()
    assert {mode(folder) for folder in (root, paths.spool, paths.logs, paths.cache, paths.runs)} == {0o700}


def test_a_long_folder_name_gets_a_short_private_socket_of_its_own(tmp_path):
    one, other = (DataPaths(tmp_path / (letter * 120)).prepare() for letter in "ab")
    assert len(os.fsencode(one.socket)) <= SOCKET_PATH_LIMIT_BYTES and one.socket != other.socket
    assert mode(one.socket.parent) == 0o700
    for paths in (one, other):
        paths.socket.parent.rmdir()
    assert DataPaths(tmp_path).socket == tmp_path / "hub.sock"


def test_a_folder_somebody_prepared_as_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match="is a link or belongs to another user"):
        make_private_folder(tmp_path / "cache")


@pytest.mark.parametrize("command", [("workers.hub",), ("workers", "hub"), ("workers", "optimize", "--model", "llama")])
def test_an_unusable_data_folder_is_one_sentence_and_exit_code_2(tmp_path, command):
    (tmp_path / "file").touch()
    environment = {**os.environ, "HYBRID_DATA_DIR": str(tmp_path / "file")}
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "set HYBRID_DATA_DIR to a folder you may write to" in done.stderr
