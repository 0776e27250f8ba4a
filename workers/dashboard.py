"""Starts the dashboard for a person at a terminal: one hub, one Streamlit server, one address.

A second start finds the first by the record it left in the data folder (process id and its start time, so that a
reused id is never mistaken for it) and says where it is. A port that something else holds is a sentence, not a trace.
Ctrl-C ends the dashboard only: runs belong to the hub and go on; `python -m workers stop` ends both.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

from hybrid_core.errors import HubUnavailable, InvalidInput
from workers.client import ensure_hub
from workers.paths import PROJECT_ROOT, DataPaths, data_paths

HOST = "127.0.0.1"
START_TIMEOUT_S = 90.0


def serve(port: int, say: Callable[[str], None], paths: DataPaths | None = None, *, allow_code: bool = False) -> int:
    """Run the dashboard in the foreground until it ends; the exit code of the command.

    Raises:
        InvalidInput: the port or the data folder cannot be used, or a hub without `allow_code` runs already.
        HubUnavailable: the hub does not start.
    """
    if not 1024 <= port <= 65535:
        raise InvalidInput(f"port={port} is not allowed; give a number from 1024 to 65535")
    paths = (paths or data_paths()).prepare()
    running = running_port(paths)
    if running is not None:
        ensure_hub(paths, allow_code=allow_code)
        say(f"The dashboard is already running: http://{HOST}:{running}")
        return 0
    if is_taken(port):
        raise InvalidInput(f"port {port} is taken by another program; choose another: make run PORT={port + 1}")
    ensure_hub(paths, allow_code=allow_code)
    return _run_server(port, paths, say)


def stop(paths: DataPaths | None = None) -> str:
    """End the dashboard that this data folder's record names; a sentence that says what was done."""
    paths = paths or data_paths()
    process = _recorded_process(paths)
    if process is None:
        return "No dashboard was running."
    process.terminate()
    psutil.wait_procs([process], timeout=10)
    return "The dashboard was stopped."


def running_port(paths: DataPaths) -> int | None:
    """The port of the dashboard that runs on this data folder, None where there is none."""
    process = _recorded_process(paths)
    return None if process is None else int(_read_record(paths)["port"])


def is_taken(port: int) -> bool:
    """True when something already listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _run_server(port: int, paths: DataPaths, say: Callable[[str], None]) -> int:
    command = [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={port}", f"--server.address={HOST}"]
    environment = {**os.environ, "HYBRID_DATA_DIR": str(paths.root)}
    with (paths.logs / "dashboard.log").open("ab") as log:
        server = subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, stdout=log, stderr=log)
    try:
        _write_record(paths, server.pid, port)
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        _wait_until_healthy(server, port, paths)
        say(f"The dashboard is ready: http://{HOST}:{port}   (Ctrl-C ends it; runs go on in the background)")
        return 0 if server.wait() in (0, -signal.SIGTERM) else 1
    except KeyboardInterrupt:
        say("\nThe dashboard has ended. Runs go on in the background; 'make stop' ends them too.")
        return 0
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait(timeout=10)
        _record_path(paths).unlink(missing_ok=True)


def _wait_until_healthy(server: subprocess.Popen[bytes], port: int, paths: DataPaths) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise HubUnavailable(f"the dashboard ended at once; see {paths.logs / 'dashboard.log'}")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/_stcore/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise HubUnavailable(f"the dashboard did not answer in {START_TIMEOUT_S:.0f} s; see {paths.logs / 'dashboard.log'}")


def _record_path(paths: DataPaths) -> Path:
    return paths.root / "dashboard.json"


def _write_record(paths: DataPaths, pid: int, port: int) -> None:
    started = psutil.Process(pid).create_time()
    _record_path(paths).write_text(json.dumps({"pid": pid, "started": started, "port": port}))


def _read_record(paths: DataPaths) -> dict[str, float]:
    try:
        return dict(json.loads(_record_path(paths).read_text()))
    except (OSError, ValueError):
        return {}


def _recorded_process(paths: DataPaths) -> psutil.Process | None:
    """The recorded server process if it is alive and really the one that was recorded."""
    record = _read_record(paths)
    try:
        process = psutil.Process(int(record["pid"]))
        is_same = abs(process.create_time() - record["started"]) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except (KeyError, psutil.Error):
        return None
    return process if is_same else None
