"""What pages and the command line call: find or start the hub, then submit, cancel and ask.

The hub is started by whoever needs it first. Any number of simultaneous starters is harmless: each may spawn a hub
process, the one that gets the file lock lives and the others exit at once, and every starter waits for the same
socket. All requests may be repeated (a submission carries a token), so a broken connection is tried once more and a
hub that died is started again. Light to import: no torch, no duckdb.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid_core.errors import HubUnavailable, InvalidInput
from workers.code_policy import allow_code_in_children
from workers.paths import PROJECT_ROOT, DataPaths, data_paths
from workers.protocol import FrameError, encode_frame, read_answer

START_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 30.0
CATALOG_TIMEOUT_S = 90.0
MAX_IDLE_CONNECTIONS = 8
MAX_HUB_LOG_BYTES = 5 << 20
EXIT_INVALID, EXIT_ALREADY_RUNNING = 2, 3
HUB_COMMAND = (sys.executable, "-m", "workers.hub")


def ensure_hub(
    paths: DataPaths | None = None, timeout_s: float = START_TIMEOUT_S, *, allow_code: bool = False
) -> Client:
    """A client of the running hub; starts one where there is none.

    Raises:
        InvalidInput: the data folder cannot be used, or `allow_code` is asked of a hub that was started without it.
        HubUnavailable: the hub does not come up; the sentence names its log.
    """
    paths = paths or data_paths()
    client = Client(paths)
    if allow_code:
        allow_code_in_children()
    if not client.is_reachable():
        start_hub(paths.prepare(), timeout_s)
    if allow_code and not client.status()["allow_code"]:
        raise InvalidInput(
            "a hub without --allow-code runs already; end it with `python -m workers stop` and start it again"
        )
    return client


def start_hub(paths: DataPaths, timeout_s: float = START_TIMEOUT_S) -> None:
    """Spawn a hub and wait until one answers: the spawned one, or whoever was faster."""
    paths.stopped.unlink(missing_ok=True)
    process = _spawn_hub(paths)
    probe, deadline = Client(paths), time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if probe.is_reachable():
            probe.close()
            return
        code = process.poll()
        if code == EXIT_ALREADY_RUNNING:
            # The holder of the lock may have been on its way out when it refused us; then nobody comes up by itself.
            time.sleep(0.5)
            process = process if probe.is_reachable() else _spawn_hub(paths)
        elif code is not None:
            raise HubUnavailable(f"the hub ended with exit code {code}: {_last_line(paths)}; see {paths.hub_log}")
        time.sleep(0.05)
    raise HubUnavailable(f"the hub did not answer within {timeout_s:.0f} s; see {paths.hub_log}")


class Client:
    """A thread-safe client; each request borrows a connection of its own, so a slow one never blocks the others."""

    def __init__(self, paths: DataPaths | None = None) -> None:
        self.paths = paths or data_paths()
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()

    def submit(self, config: Mapping[str, Any], token: str = "") -> str:
        """Queue a run and return its id; the same token gives the same run, however often it is sent.

        Raises:
            InvalidInput: the configuration is not allowed; the sentence names the field.
        """
        return str(self._ask({"op": "submit", "config": dict(config), "token": token or uuid.uuid4().hex}))

    def cancel(self, run_id: str) -> str:
        """Ask a run to stop; the answer is a sentence for the person who asked."""
        return str(self._ask({"op": "cancel", "run_id": run_id}))

    def query(self, name: str, **params: Any) -> list[dict[str, Any]]:
        """The rows of one named query of `storage.queries`."""
        table = self.query_arrow(name, **params)
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def query_arrow(self, name: str, **params: Any) -> Any:
        """The same as a `pyarrow.Table`, for exports and large charts."""
        import pyarrow as pa  # here, because submitting and cancelling need no Arrow

        _, body = self._exchange({"op": "query", "name": name, "params": params}, REQUEST_TIMEOUT_S)
        return pa.ipc.open_stream(body).read_all()

    def catalog(self) -> dict[str, Any]:
        """Models, strategies, selection methods, devices and environment; waits while the hub still builds it."""
        return dict(self._ask({"op": "catalog"}, CATALOG_TIMEOUT_S))

    def bring_model(self, kind: str, path: str, name: str, labels: str = "") -> str:
        """Have a model from this machine inspected and return its id; `query("brought_models")` tells its state.

        The same request again is the same model, until that is forgotten.

        Raises:
            InvalidInput: something in the request is not allowed; the sentence names the field.
        """
        request = {"op": "bring_model", "kind": kind, "path": path, "name": name, "labels": labels}
        return str(self._ask(request, CATALOG_TIMEOUT_S))

    def forget_model(self, name: str) -> str:
        """Take a brought model out of every form; the answer is a sentence for the person who asked."""
        return str(self._ask({"op": "forget_model", "name": name}))

    def forget_conflict(self, conflict_id: str) -> str:
        """Let a combination that failed together be tried again; the answer is a sentence for the person who asked."""
        return str(self._ask({"op": "forget_conflict", "conflict_id": conflict_id}))

    def recommend(self, model: str, workload: str = "", device: str = "cpu") -> list[dict[str, Any]]:
        """What to try first on this model, with the evidence it rests on."""
        return list(self._ask({"op": "recommend", "model": model, "workload": workload, "device": device}))

    def handover(self, run_id: str) -> dict[str, Any]:
        """The winner to take away: {"recipe_json", "code"}."""
        return dict(self._ask({"op": "handover", "run_id": run_id}))

    def export(self, run_id: str) -> dict[str, Any]:
        """Have the winner's folder made for download; asking again changes nothing. Where it stands: see below."""
        return dict(self._ask({"op": "export", "run_id": run_id}))

    def export_state(self, run_id: str) -> dict[str, Any]:
        """Where a download stands: {"state", "phase", "reason", "bytes", "max_bytes", "path"}; state "" for none.

        States are waiting, working, ready, too_large and failed.
        """
        return dict(self._ask({"op": "export_state", "run_id": run_id}))

    def read_export(self, run_id: str) -> bytes:
        """The finished download, a zip.

        Raises:
            HubUnavailable: it is not there.
        """
        found = self.export_state(run_id)
        try:
            return Path(found["path"] or "/nonexistent").read_bytes()
        except OSError as error:
            raise HubUnavailable(f"the download of run {run_id} is not there; prepare it again") from error

    def status(self) -> dict[str, Any]:
        """Health of the hub: pid, uptime, queue, catalog state and a banner sentence or ""."""
        return dict(self._ask({"op": "status"}))

    def stop(self) -> str:
        """Cancel what runs and end the hub."""
        return str(self._ask({"op": "stop"}))

    def is_reachable(self) -> bool:
        """Whether a hub answers right now; never starts one."""
        try:
            return bool(self._exchange_once({"op": "ping"}, 5.0, fresh=True)[0] == "pong")
        except HubUnavailable:
            return True  # a hub that has no room now is a hub
        except (OSError, FrameError):
            return False

    def close(self) -> None:
        """Close the idle connections; the client can still be used and opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _ask(self, request: dict[str, Any], timeout_s: float = REQUEST_TIMEOUT_S) -> Any:
        return self._exchange(request, timeout_s)[0]

    def _exchange(self, request: dict[str, Any], timeout_s: float) -> tuple[Any, bytes | None]:
        """One request; a broken connection is tried once more, with a new hub if the old one is gone."""
        try:
            return self._exchange_once(request, timeout_s)
        except TimeoutError as error:
            raise self._unavailable(f"did not answer '{request['op']}' within {timeout_s:.0f} s") from error
        except (OSError, FrameError):
            self.close()
        if self.paths.stopped.exists():
            raise self._unavailable("was stopped; start it with `python -m workers hub` or `make run`")
        ensure_hub(self.paths).close()
        try:
            return self._exchange_once(request, timeout_s, fresh=True)
        except (OSError, FrameError) as error:
            raise self._unavailable(f"broke the connection twice during '{request['op']}' ({error})") from error

    def _exchange_once(
        self, request: dict[str, Any], timeout_s: float, *, fresh: bool = False
    ) -> tuple[Any, bytes | None]:
        frame = _encode_request(request)
        connection = self._connect() if fresh else self._borrow()
        try:
            connection.settimeout(timeout_s)
            with contextlib.suppress(BrokenPipeError):  # refused for want of room: the sentence is waiting to be read
                connection.sendall(frame)
            answer = read_answer(connection)
        except InvalidInput:
            self._give_back(connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._give_back(connection)
        return answer

    def _borrow(self) -> socket.socket:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _give_back(self, connection: socket.socket) -> None:
        with self._lock:
            if len(self._idle) < MAX_IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(5.0)
            connection.connect(str(self.paths.socket))
        except BaseException:
            connection.close()
            raise
        return connection

    def _unavailable(self, what: str) -> HubUnavailable:
        return HubUnavailable(f"the hub {what}; see {self.paths.hub_log}")


def _encode_request(request: dict[str, Any]) -> bytes:
    try:
        return encode_frame(request)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the request is not plain JSON ({error}); use text and finite numbers") from error


def _spawn_hub(paths: DataPaths) -> subprocess.Popen[bytes]:
    """Start a detached hub whose output goes to the log; it survives the page or command that started it."""
    with paths.hub_log.open("ab") as log:
        if log.tell() > MAX_HUB_LOG_BYTES:
            log.truncate(0)
        return subprocess.Popen(
            HUB_COMMAND,
            cwd=PROJECT_ROOT,
            env={**os.environ, "HYBRID_DATA_DIR": str(paths.root)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _last_line(paths: DataPaths) -> str:
    lines = paths.hub_log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it wrote nothing"
