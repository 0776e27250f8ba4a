"""One export at work: the process that builds the model, watched from outside, with a deadline and nothing left behind.

The process gets a built-up environment like a measurement's, low priority and a session of its own. Its lines of
progress go to a file in its scratch folder, so that nobody has to read a pipe in time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.engines.containment import kill_by_cookie, kill_group, measure_environment
from workers.paths import PROJECT_ROOT

TIMEOUT_S, END_GRACE_S = 600.0, 5.0
MAX_LINES_BYTES = 1 << 20
NICENESS = 10


# A recipe file may come from a stranger, so only these names reach the environment of a process from it.
START_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "PYTORCH_ALLOC_CONF")


@dataclass(frozen=True)
class Ended:
    """How an export ended: `bytes` and `zipped` when it is there, else `reason` in one sentence."""

    reason: str = ""
    bytes: int = 0
    zipped: bool = False


class Exporting:
    """A started export; ask `poll` now and then, and call `cancel` to end it."""

    def __init__(
        self,
        request: Mapping[str, Any],
        scratch: Path,
        *,
        threads: int = 1,
        program: Sequence[str] = (sys.executable, "-m", "workers.export_process"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._scratch, self._clock, self._since = Path(request["folder"]), scratch, clock, clock()
        self._cookie = f"export|{scratch}"
        environment = measure_environment(scratch, threads, self._cookie, start_variables_in(request.get("recipe")))
        (scratch / "request.json").write_text(json.dumps(dict(request)), encoding="utf-8")
        self._lines, self._errors = scratch / "lines.jsonl", scratch / "errors.log"
        with (
            (scratch / "request.json").open("rb") as given,
            self._lines.open("wb") as out,
            self._errors.open("wb") as errors,
        ):
            self._process = subprocess.Popen(
                tuple(program),
                cwd=PROJECT_ROOT,
                env=environment,
                stdin=given,
                stdout=out,
                stderr=errors,
                start_new_session=True,
            )
        with contextlib.suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)

    @property
    def phase(self) -> str:
        """What it does now."""
        return next((str(line["phase"]) for line in reversed(self._said()) if "phase" in line), "starting")

    def poll(self) -> Ended | None:
        """How it ended, None while it works; past the deadline it is ended."""
        code = self._process.poll()
        if code is None and self._clock() - self._since <= TIMEOUT_S:
            return None
        said = self._said()
        self.cancel()
        if code is None:
            return Ended(f"the export took more than {TIMEOUT_S:.0f} s and was ended")
        answer = said[-1] if said and "ok" in said[-1] else None
        if answer is None:
            return Ended(f"the export process ended with exit code {code} and without an answer")
        if answer["ok"] is not True:
            return Ended(str(answer.get("reason") or "the export was refused without a reason"))
        return Ended(bytes=int(answer["bytes"]), zipped=answer["zipped"] is True)

    def cancel(self) -> None:
        """End it wherever it is, and remove its scratch and its unfinished folder."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_GRACE_S)
        kill_group(self._process.pid)
        kill_by_cookie(self._cookie)
        self._process.wait()
        for left in self._folder.parent.glob(f".*.partial-{self._process.pid}-*"):
            shutil.rmtree(left, ignore_errors=True)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _said(self) -> list[dict[str, Any]]:
        """The whole lines so far; the one that is being written is left for later."""
        with contextlib.suppress(OSError, ValueError):
            with self._lines.open("rb") as file:
                lines = file.read(MAX_LINES_BYTES).split(b"\n")[:-1]
            return [line for line in map(json.loads, lines) if isinstance(line, dict)]
        return []


def start_variables_in(recipe: Any) -> dict[str, str]:
    """The environment in which an exported recipe was measured, as far as settings can ask for one."""
    environment = recipe.get("environment") if isinstance(recipe, Mapping) else None
    asked = environment.get("start_variables") if isinstance(environment, Mapping) else None
    found = {name: asked.get(name) for name in START_VARIABLES} if isinstance(asked, Mapping) else {}
    return {name: value for name, value in found.items() if isinstance(value, str) and value.isprintable()}
