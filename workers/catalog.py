"""Keeps what `workers.catalog_process` printed: spawned by the main thread, awaited by any other.

A failed or hanging process is told as a reason instead of leaving pages to wait for ever, and is tried again later.
"""

from __future__ import annotations

import json
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from hybrid_core.errors import HubUnavailable
from workers.engines.containment import kill_group
from workers.paths import PROJECT_ROOT, DataPaths

log = logging.getLogger("catalog")
BUILD_TIMEOUT_S = 180.0
WAIT_S = 60.0
RETRY_AFTER_S = 60.0


class CatalogKeeper:
    """The catalog, or why there is none yet."""

    def __init__(self, program: Sequence[str], paths: DataPaths, clock: Callable[[], float] = time.monotonic) -> None:
        self._program, self._clock = tuple(program), clock
        self._output, self._errors = paths.cache / "catalog.json", paths.logs / "catalog.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._since = -RETRY_AFTER_S
        self._told = threading.Event()
        self._catalog: dict[str, Any] | None = None
        self.problem = ""

    @property
    def state(self) -> str:
        """`ready`, `building`, or the sentence of what went wrong."""
        return "ready" if self._catalog is not None else self.problem or "building"

    def get(self, wait_s: float = WAIT_S) -> dict[str, Any]:
        """The catalog; waits while it is being built.

        Raises:
            HubUnavailable: building failed or takes longer than `wait_s`.
        """
        self._told.wait(wait_s)
        if self._catalog is None:
            raise HubUnavailable(self.problem or f"the catalog is not built after {wait_s:.0f} s; see {self._errors}")
        return self._catalog

    def get_if_ready(self) -> dict[str, Any] | None:
        """The catalog if it is there, without waiting."""
        return self._catalog

    def tick(self) -> None:
        """Start, finish or give up building; for the hub's main thread, which alone spawns."""
        if self._catalog is not None:
            return
        now = self._clock()
        if self._process is None:
            if now - self._since >= RETRY_AFTER_S:
                self._since, self._process = now, self._spawn()
        elif self._process.poll() is not None:
            self._take(self._process.returncode)
        elif now - self._since > BUILD_TIMEOUT_S:
            self.end()
            self._fail(f"building the catalog took more than {BUILD_TIMEOUT_S:.0f} s")

    def end(self) -> None:
        """Kill a process that is still building."""
        if self._process is not None and self._process.poll() is None:
            kill_group(self._process.pid)
            self._process.wait()
        self._process = None

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        try:
            with self._output.open("wb") as output, self._errors.open("wb") as errors:
                return subprocess.Popen(
                    self._program,
                    cwd=PROJECT_ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,
                )
        except OSError as error:
            self._fail(f"the catalog process could not be started ({error})")
            return None

    def _take(self, code: int) -> None:
        self._process = None
        try:
            if code != 0:
                raise ValueError(f"exit code {code}: {self._last_line()}")
            self._catalog = json.loads(self._output.read_text())
            self.problem = ""
            self._told.set()
        except (OSError, ValueError) as error:
            self._fail(f"the catalog could not be built ({error})")

    def _fail(self, sentence: str) -> None:
        self._since = self._clock()
        self.problem = f"{sentence}; it is tried again every {RETRY_AFTER_S:.0f} s, see {self._errors}"
        log.error("%s", self.problem)
        self._told.set()

    def _last_line(self) -> str:
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it wrote nothing"
