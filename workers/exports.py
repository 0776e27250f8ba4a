"""Downloads of finished runs: folders that the hub has made by a process of its own, one at a time, and keeps as zips.

A request to make one returns at once; the page asks how far it is. What is larger than the limit is not kept, because
a browser would have to hold it whole: the page then shows the command that writes it to a folder. Zips are made anew
after a restart of the hub; they are copies of what the run and this package know anyway.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hybrid_core.errors import HybridError
from workers.exporting import Ended, Exporting
from workers.paths import DataPaths, make_private_folder

log = logging.getLogger("exports")
MAX_ZIP_BYTES = 64 << 20
MAX_KEPT = 8
WAITING, WORKING, READY, TOO_LARGE, FAILED = "waiting", "working", "ready", "too_large", "failed"
INTERRUPTED = "the export was interrupted because the hub ended; ask for it again"


@dataclass(frozen=True)
class Download:
    """Where one download stands; `path` is the zip's when it is ready, `bytes` the size of the folder's files."""

    run_id: str
    state: str = WAITING
    phase: str = ""
    reason: str = ""
    bytes: int = 0
    path: str = ""


class ExportKeeper:
    """All downloads of this data folder; `tick` and `end` are for the hub's main thread."""

    def __init__(
        self,
        paths: DataPaths,
        program: Sequence[str],
        wake: Callable[[], None] = lambda: None,
        max_zip_bytes: int = MAX_ZIP_BYTES,
    ) -> None:
        self._root, self._program, self._wake, self._most = paths.cache / "exports", tuple(program), wake, max_zip_bytes
        self._lock = threading.Lock()
        self._asked: dict[str, dict[str, Any]] = {}
        self._downloads: dict[str, Download] = {}
        self._running: tuple[str, Exporting] | None = None
        shutil.rmtree(self._root, ignore_errors=True)  # of an earlier hub

    def ask(self, run_id: str, recipe: Mapping[str, Any], *, allow_code: bool) -> dict[str, Any]:
        """Have a download made, unless it is there or under way; a failed one is tried again."""
        with self._lock:
            known = self._downloads.get(run_id)
            if known is None or known.state == FAILED or (known.path and not Path(known.path).is_file()):
                self._downloads[run_id] = Download(run_id)
                self._asked[run_id] = {"recipe": dict(recipe), "allow_code": allow_code}
        self._wake()
        return self.state(run_id)

    def state(self, run_id: str) -> dict[str, Any]:
        """Where a download stands, as plain values; state "" where none was asked for."""
        with self._lock:
            found = self._downloads.get(run_id, Download(run_id, state=""))
            running = self._running
        if running is not None and running[0] == run_id and found.state == WORKING:
            found = replace(found, phase=running[1].phase)
        return {**found.__dict__, "max_bytes": self._most}

    def tick(self) -> None:
        """Start the next one, or look after the one at work."""
        if self._running is not None:
            run_id, work = self._running
            ended = work.poll()
            if ended is not None:
                self._settle(run_id, ended)
        if self._running is None:
            with self._lock:
                run_id = next((name for name, found in self._downloads.items() if found.state == WAITING), "")
                request = self._asked.pop(run_id, None)
            if request is not None:
                self._start(run_id, request)

    def end(self) -> None:
        """End the one at work and say so."""
        if self._running is not None:
            run_id, work = self._running
            work.cancel()
            self._settle(run_id, Ended(INTERRUPTED))

    def _start(self, run_id: str, request: Mapping[str, Any]) -> None:
        folder, scratch = self._root / "folder", self._root / "scratch"
        try:
            make_private_folder(self._root)
            shutil.rmtree(folder, ignore_errors=True)
            order = {**request, "folder": str(folder), "zip": str(self._zip(run_id)), "max_zip_bytes": self._most}
            work = Exporting(order, scratch, program=self._program)
        except (OSError, HybridError) as error:
            self._put(Download(run_id, FAILED, reason=f"it could not be started ({error})"))
            return
        with self._lock:
            self._running = (run_id, work)
            self._downloads[run_id] = Download(run_id, WORKING)
        log.info("run %s is exported", run_id)

    def _settle(self, run_id: str, ended: Ended) -> None:
        path = self._zip(run_id)
        if ended.reason:
            found = Download(run_id, FAILED, reason=ended.reason)
        elif ended.zipped and path.is_file():
            found = Download(run_id, READY, bytes=ended.bytes, path=str(path))
        else:
            found = Download(run_id, TOO_LARGE, bytes=ended.bytes)
        with self._lock:
            self._running = None
        self._put(found)

    def _put(self, found: Download) -> None:
        """Keep it as the newest, and forget the oldest files beyond the cap."""
        with self._lock:
            self._downloads.pop(found.run_id, None)
            self._downloads[found.run_id] = found
            ready = [known for known in self._downloads.values() if known.state == READY]
            for old in ready[:-MAX_KEPT]:
                del self._downloads[old.run_id]
                with contextlib.suppress(OSError):
                    Path(old.path).unlink()

    def _zip(self, run_id: str) -> Path:
        return self._root / f"{run_id}.zip"
