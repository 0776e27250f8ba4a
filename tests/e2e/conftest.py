"""A real hub, a real dashboard and a real browser on this machine, with a data folder that the test throws away."""

import os
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from workers.client import Client
from workers.paths import DataPaths

ROOT = Path(__file__).parents[2]
# The resolver rule makes every name outside this machine unknown, so a page that phones home fails its test.
BROWSER_FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@dataclass(frozen=True)
class Installation:
    """A running dashboard: its address, its data folder, and the environment its commands need."""

    address: str
    data_dir: Path
    env: dict[str, str]

    def run(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "workers", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def runs(self) -> list[dict[str, Any]]:
        return Client(DataPaths(self.data_dir)).query("runs")

    def events(self, run_id: str) -> list[dict[str, Any]]:
        return Client(DataPaths(self.data_dir)).query("events", run_id=run_id, limit=5000)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    data_dir = tmp_path_factory.mktemp("data")
    env = {**os.environ, "HYBRID_DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1"}
    port = free_port()
    command = [sys.executable, "-m", "workers", "dashboard", "--port", str(port)]
    dashboard = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    there = Installation(f"http://127.0.0.1:{port}", data_dir, env)
    try:
        assert dashboard.stdout is not None
        line = dashboard.stdout.readline()
        assert there.address in line, line + dashboard.stdout.read()
        yield there
    finally:
        there.run("stop")  # ends the dashboard too, by its record; nothing is left behind when a test failed
        dashboard.wait(timeout=30)


def browser_path() -> str:
    recorded = ROOT / ".venv" / "browser-path"
    if recorded.exists() and recorded.read_text().strip():
        return recorded.read_text().strip()
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    path = browser_path()
    if not path:
        warnings.warn("NO CHROMIUM: the pages were not tested in a real browser", stacklevel=1)
        pytest.skip("no Chromium could be found or installed; 'apt install chromium' and run 'make test' again")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield chromium
        chromium.close()
