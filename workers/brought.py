"""Models that people bring: inspected one at a time in a process of their own, kept in the database, told to everyone.

Whatever is in a folder or file from outside is opened only there: a fresh interpreter in its own session, with a
built-up environment, one thread, low priority, a deadline and caps on what it writes. The hub reads one JSON object
from it, checks every part it will hand on, and opens nothing itself. What was ready before a restart is ready after
it, from the database; what was being inspected is refused as interrupted, because nobody knows how far it came.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from hybrid_core.errors import HybridError
from storage.brought_models import (
    BroughtModel,
    BroughtState,
    brought_models,
    create_brought,
    forget_brought,
    mark_brought_ready,
    mark_brought_refused,
)
from storage.connection import Database
from workers.brought_answer import MAX_ANSWER_BYTES, Refused, read_inspection
from workers.brought_request import BringRequest
from workers.code_policy import CodePolicy
from workers.engines.containment import COOKIE_VARIABLE, kill_by_cookie, kill_group, measure_environment
from workers.paths import PROJECT_ROOT, DataPaths
from workers.run_watch import remove_scratch

log = logging.getLogger("brought")
INSPECT_TIMEOUT_S = 180.0
MAX_CPU_S = 600
MAX_FILE_BYTES = 256 << 20
NICENESS = 10
INTERRUPTED = "the inspection was interrupted because the hub ended; bring it in again"


@dataclass
class _Inspection:
    """The one process at work."""

    model: BroughtModel
    process: subprocess.Popen[bytes]
    answer: IO[bytes]
    since: float
    cookie: str
    scratch: Path


class BroughtKeeper:
    """All brought models of this data folder; `tick`, `recover` and `end` are for the hub's main thread."""

    def __init__(
        self,
        db: Database,
        paths: DataPaths,
        program: Sequence[str],
        policy: CodePolicy,
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db, self._paths, self._program, self._policy = db, paths, tuple(program), policy
        self._wake, self._clock = wake, clock
        self._lock = threading.Lock()
        self._rows: list[BroughtModel] = []
        self._running: _Inspection | None = None

    def bring(self, request: BringRequest) -> str:
        """Queue an inspection and return the model's id; the same request again is the same model."""
        with self._changed():
            model_id = create_brought(self._db, request.name, request.kind, request.path, request.labels)
        self._wake()
        return model_id

    def forget(self, name: str) -> bool:
        """Remove a model; an inspection of it ends within a tick. False when there is none of that name."""
        with self._changed():
            is_there = forget_brought(self._db, name)
        self._wake()
        return is_there

    def ready(self) -> list[dict[str, Any]]:
        """Every usable model as the catalog describes models, oldest first."""
        with self._lock:
            rows = [row for row in self._rows if row.state == BroughtState.READY and row.description]
        facts = [{"kind": row.kind, "path": row.path, "labels": row.labels, "source": row.source} for row in rows]
        return [{**(row.description or {}), **known, "brought": True} for row, known in zip(rows, facts, strict=True)]

    def recover(self) -> None:
        """After a start: end what an earlier hub left behind, and refuse what it was inspecting."""
        for process in left_over_inspections(self._paths):
            log.warning("process %d inspects a model for a hub that is gone; ending it", process.pid)
            kill_group(process.pid)
            with contextlib.suppress(psutil.Error):
                process.kill()
        with self._changed():
            for row in brought_models(self._db):
                if row.state == BroughtState.CHECKING:
                    mark_brought_refused(self._db, row.model_id, INTERRUPTED)

    def tick(self) -> None:
        """Start the next inspection, or look after the one at work."""
        if self._running is None:
            waiting = [row for row in self._rows if row.state == BroughtState.CHECKING]
            if waiting:
                self._start(waiting[0])
            return
        running, code = self._running, self._running.process.poll()
        if code is not None:
            self._settle(running, code)
        elif all(row.model_id != running.model.model_id for row in self._rows):
            self._stop(running)
        elif self._clock() - running.since > INSPECT_TIMEOUT_S:
            self._refuse(running, f"the inspection took more than {INSPECT_TIMEOUT_S:.0f} s and was ended")
        elif os.fstat(running.answer.fileno()).st_size > MAX_ANSWER_BYTES:
            self._refuse(running, f"the inspection wrote more than {MAX_ANSWER_BYTES >> 20} MiB and was ended")

    def end(self) -> None:
        """Kill the inspection at work and say so."""
        if self._running is not None:
            self._refuse(self._running, INTERRUPTED)

    def _start(self, model: BroughtModel) -> None:
        refusal = self._policy.refusal(model.kind, model.path)
        if refusal is not None:
            self._note_refusal(model, refusal)
            return
        scratch = self._paths.cache / f"inspect-{model.model_id}"
        cookie = f"{inspection_cookie(self._paths)}{model.model_id}"
        try:
            environment = measure_environment(scratch, 1, cookie)
            # Held open and read by its descriptor: what is done to the name meanwhile does not concern us.
            answer = (scratch / "answer.json").open("w+b")
            process = self._spawn(model, scratch, environment, answer)
        except (OSError, HybridError) as error:
            remove_scratch(scratch)
            self._note_refusal(model, f"it could not be inspected ({error})")
            return
        self._running = _Inspection(model, process, answer, self._clock(), cookie, scratch)
        log.info("model %s is inspected by process %d", model.name, process.pid)

    def _spawn(
        self, model: BroughtModel, scratch: Path, environment: Mapping[str, str], answer: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        asked = {"kind": model.kind, "path": model.path, "name": model.name, "labels": model.labels}
        (scratch / "request.json").write_text(json.dumps({**asked, "allowed_packages": self._policy.packages()}))
        with (scratch / "request.json").open("rb") as request, self._log_file.open("wb") as errors:
            process = subprocess.Popen(
                self._program,
                cwd=PROJECT_ROOT,
                env=dict(environment),
                stdin=request,
                stdout=answer,
                stderr=errors,
                start_new_session=True,
            )
        _limit(process.pid)
        return process

    def _settle(self, running: _Inspection, code: int) -> None:
        try:
            running.answer.seek(0)
            text = running.answer.read(MAX_ANSWER_BYTES + 1)
            source, description = read_inspection(text, running.model.name, running.model.kind, code)
        except Refused as error:
            if code != 0:
                log.warning("the inspection of %s ended with %d; see %s", running.model.name, code, self._log_file)
            self._refuse(running, str(error))
            return
        self._stop(running)
        with self._changed():
            mark_brought_ready(self._db, running.model.model_id, source, description)

    def _refuse(self, running: _Inspection, reason: str) -> None:
        self._stop(running)
        self._note_refusal(running.model, reason)

    def _stop(self, running: _Inspection) -> None:
        """Leave nothing of the process behind, wherever its children went."""
        kill_group(running.process.pid)
        kill_by_cookie(running.cookie)
        running.process.wait()
        running.answer.close()
        remove_scratch(running.scratch)
        self._running = None

    def _note_refusal(self, model: BroughtModel, reason: str) -> None:
        with self._changed():
            mark_brought_refused(self._db, model.model_id, reason)

    @contextlib.contextmanager
    def _changed(self) -> Iterator[None]:
        """Around a change of the table: whoever saw the new row there finds it in `ready` too."""
        with self._lock:
            yield
            self._rows = brought_models(self._db)

    @property
    def _log_file(self) -> Path:
        return self._paths.logs / "inspect.log"


def inspection_cookie(paths: DataPaths) -> str:
    """How the cookie of every inspection of this data folder begins."""
    return f"inspect|{paths.root}|"


def left_over_inspections(paths: DataPaths) -> list[psutil.Process]:
    """Living processes that inspect for this data folder, recognised by their cookie."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(COOKIE_VARIABLE, "").startswith(inspection_cookie(paths)):
                found.append(process)
    return found


def _limit(pid: int) -> None:
    """Bounds that hold even when the hub dies; a measurement beside it must not feel the inspection."""
    with contextlib.suppress(OSError):  # it has ended already
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
        if hasattr(resource, "prlimit"):
            resource.prlimit(pid, resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
