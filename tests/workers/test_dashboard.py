"""Starting the dashboard: a second start finds the first, a taken port and an unusable folder are one sentence."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hybrid_core.errors import InvalidInput
from workers import dashboard
from workers.paths import DataPaths


def record(paths: DataPaths, pid: int, started: float, port: int = 8501) -> None:
    (paths.root / "dashboard.json").write_text(json.dumps({"pid": pid, "started": started, "port": port}))


def test_a_second_start_finds_the_first_and_says_where(paths: DataPaths) -> None:
    """It also makes sure that there is a hub, which the fixture ends again."""
    record(paths, os.getpid(), psutil.Process().create_time(), port=8777)
    said: list[str] = []
    assert dashboard.serve(8501, said.append, paths) == 0
    assert said == ["The dashboard is already running: http://127.0.0.1:8777"]


def test_a_reused_process_id_is_not_taken_for_the_dashboard(tmp_path: Path) -> None:
    paths = DataPaths(tmp_path).prepare()
    record(paths, os.getpid(), psutil.Process().create_time() - 5000)
    assert dashboard.running_port(paths) is None
    (tmp_path / "dashboard.json").write_text("{ torn")
    assert dashboard.running_port(paths) is None


def test_a_taken_port_is_one_sentence_with_the_next_step(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"port {port} is taken by another program; choose another"):
            dashboard.serve(port, print, DataPaths(tmp_path))


def test_an_impossible_port_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="port=80 is not allowed"):
        dashboard.serve(80, print, DataPaths(tmp_path))


def test_an_unusable_data_folder_is_one_sentence(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    with pytest.raises(InvalidInput, match="HYBRID_DATA_DIR"):
        dashboard.serve(8501, print, DataPaths(blocker / "data"))


def test_stop_ends_only_the_recorded_process(tmp_path: Path) -> None:
    paths = DataPaths(tmp_path).prepare()
    assert dashboard.stop(paths) == "No dashboard was running."
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    record(paths, sleeper.pid, psutil.Process(sleeper.pid).create_time())
    assert dashboard.stop(paths) == "The dashboard was stopped."
    assert not psutil.pid_exists(sleeper.pid)
