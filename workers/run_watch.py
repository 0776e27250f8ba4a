"""The second thread of a run process: heartbeats, the cancel signal, and the question whether the hub still lives.

It sleeps in `select` and acts within milliseconds even while the search thread is inside a measurement or a long
computation, because a signal wakes it through a descriptor (`signal.set_wakeup_fd`). A run survives a short absence
of the hub: results go to the spool anyway. Only when the pipe from the hub has ended and `hub.alive` has not been
touched for a minute does the run end by itself, so that no process works for ever for nobody.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from workers.engines.local import LocalEngine
from workers.orders import RunOrder, cancel_note
from workers.run_report import RunReport

HEARTBEAT_S = 2.0
HUB_GRACE_S = 60.0


class HubSilence:
    """How long the hub's file has not been touched, counted on our own clock from when we saw it change.

    The wall clock would be wrong here: it jumps, and after a suspended laptop every file looks old.
    """

    def __init__(self, alive_file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._file, self._clock = alive_file, clock
        self._seen, self._changed_at = self._touched(), clock()

    def seconds(self) -> float:
        """Seconds since the file was last seen to change."""
        touched = self._touched()
        if touched != self._seen:
            self._seen, self._changed_at = touched, self._clock()
        return self._clock() - self._changed_at

    def _touched(self) -> int:
        try:
            return self._file.stat().st_mtime_ns
        except OSError:
            return 0


class RunWatch:
    """Watches over one run process; `start` must be called in the main thread."""

    def __init__(self, order: RunOrder, report: RunReport, engine: LocalEngine, hub_fd: int) -> None:
        self._order, self._report, self._engine = order, report, engine
        self._hub_fd = hub_fd
        self._silence: HubSilence | None = None

    def start(self) -> None:
        """Take over SIGTERM and begin to watch."""
        self._wake_fd, written_fd = os.pipe()
        os.set_blocking(written_fd, False)
        signal.set_wakeup_fd(written_fd, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # the byte on the descriptor is the message
        threading.Thread(target=self._loop, name="watch", daemon=True).start()

    def _loop(self) -> None:
        watched = [self._wake_fd] + ([self._hub_fd] if self._hub_fd >= 0 else [])
        if self._hub_fd < 0:
            self._silence = HubSilence(self._order.paths.alive)
        while True:
            self._report.heartbeat()
            ready, _, _ = select.select(watched, [], [], HEARTBEAT_S)
            if self._wake_fd in ready and os.read(self._wake_fd, 64):
                self._end(self._cancel_sentence())
            if self._hub_fd in ready and not os.read(self._hub_fd, 64):
                watched.remove(self._hub_fd)
                self._silence = HubSilence(self._order.paths.alive)
            if self._silence is not None and self._silence.seconds() > HUB_GRACE_S:
                self._end(f"worker_lost: the hub was gone for {HUB_GRACE_S:.0f} s; start the run again")

    def _cancel_sentence(self) -> str:
        try:
            return cancel_note(self._order.paths, self._order.run_id).read_text().strip() or "cancelled"
        except OSError:
            return "cancelled by a signal"

    def _end(self, cause: str) -> None:
        """Write the end, kill the measurement, leave.

        In this order: the search thread would report a candidate that we killed as one that crashed.
        """
        self._report.finish("cancelled", cause, patience_s=0.0)
        self._engine.kill()
        remove_scratch(self._order.scratch)
        sys.stderr.flush()
        os._exit(0)


def remove_scratch(folder: Path) -> None:
    """Delete a run's caches; whatever cannot be deleted is left to the hub's retention."""
    shutil.rmtree(folder, ignore_errors=True)
