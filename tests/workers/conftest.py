"""A data folder and a real hub with fake programs for each test that wants one; nothing is left running."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from workers import client as client_module
from workers.client import Client
from workers.paths import DataPaths

FAKES = Path(__file__).parent / "fakes"
FAKE_HUB = (sys.executable, str(FAKES / "fake_hub.py"))


def wait_until(what, timeout_s=30.0, every_s=0.03):
    """The first truthy answer of `what`; fails the test when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(every_s)
    raise AssertionError("waited in vain")


def processes_of(root):
    """Every process that belongs to the data folder: by its environment or by its arguments."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = [*process.cmdline(), *process.environ().values()]
            if any(str(root) in word for word in words):
                found.append(process)
    return found


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(client_module, "HUB_COMMAND", FAKE_HUB)
    folder = DataPaths(tmp_path / "data").prepare()
    yield folder
    for process in processes_of(tmp_path):
        with contextlib.suppress(psutil.Error):
            process.kill()


class HubUnderTest:
    """Starts, kills and asks the hub of one data folder."""

    def __init__(self, paths):
        self.paths, self.client, self.process = paths, Client(paths), None

    def start(self):
        log = self.paths.hub_log.open("ab")
        environment = {**os.environ, "HYBRID_DATA_DIR": str(self.paths.root)}
        self.process = subprocess.Popen(FAKE_HUB, env=environment, stdout=log, stderr=log, start_new_session=True)
        wait_until(self.client.is_reachable)
        return self

    wait_for = staticmethod(wait_until)

    def successor(self):
        """The next hub on the same data folder."""
        return HubUnderTest(self.paths).start()

    def processes(self):
        """The pids of everything alive that belongs to the data folder."""
        return {process.pid for process in processes_of(self.paths.root)}

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def submit(self, **changes):
        options = {"optimization_strategies": ["quantization"], "enable_rl_optimization": False}
        return self.client.submit({"model": "toy", "options": options, **changes})

    def run(self, run_id):
        return self.client.query("run", run_id=run_id)[0]

    def wait_over(self, run_id):
        return wait_until(lambda: (row := self.run(run_id))["ended_at"] and row)

    def worker(self, run_id):
        """The pid of the active run process once it has one."""
        rows = self.client.query("workers")
        return next((row["pid"] for row in rows if row["run_id"] == run_id and row["state"] == "active"), None)

    def wait_measuring(self, run_id, trial="search:quantization=two"):
        """The run process and its measure process, once the named trial is being measured."""
        ledger = self.paths.root / "measured"
        wait_until(lambda: ledger.exists() and f"{run_id}:{trial}" in ledger.read_text())
        run_process = psutil.Process(wait_until(lambda: self.worker(run_id)))
        return run_process, wait_until(run_process.children)[0]

    def brought(self, name):
        """The row of a brought model, None where there is none."""
        return next((row for row in self.client.query("brought_models") if row["name"] == name), None)

    def bring(self, what="ok", name="mine", kind="huggingface", **labels):
        """Bring a model in and wait until it was inspected; its row."""
        self.client.bring_model(kind, f"/models/{what}", name, **labels)
        return wait_until(lambda: (row := self.brought(name))["state"] != "checking" and row)

    def hold(self):
        (self.paths.root / "hold").touch()

    def release(self):
        (self.paths.root / "hold").unlink()


@pytest.fixture
def hub(paths):
    return HubUnderTest(paths).start()


@pytest.fixture(scope="module")
def hub_for_all(tmp_path_factory):
    """One hub for the tests of a file that do not disturb each other, started with a secret in its environment."""
    root = tmp_path_factory.mktemp("shared") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_SECRET", "token")
        shared = HubUnderTest(DataPaths(root).prepare()).start()
    yield shared
    for process in processes_of(root):
        with contextlib.suppress(psutil.Error):
            process.kill()


@pytest.fixture
def wait_for():
    return wait_until


@pytest.fixture
def processes():
    return processes_of
