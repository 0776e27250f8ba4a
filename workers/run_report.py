"""What a run process says: thread-safe lines in the spool, each once, even over restarts and a full disk.

The search thread reports what it does, the watch thread reports that it lives, and exactly one of them reports the
end. A second attempt of a run repeats the search from its beginning with the finished trials answered from the spool;
`Replay` keeps its account of what was already said from being written a second time.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from hybrid_core.records import Trial
from hybrid_core.search.hints import Surveyed
from storage.spool import SpoolWriteFailed, SpoolWriter, attempts_of, read_all, replay_trials, spool_path

log = logging.getLogger("run")
RETRY_S = 2.0
DISK_PATIENCE_S = 120.0
# Events without a trial id: the search repeats them in the same order, so counting recognises them.
COUNTED_KINDS = ("selection", "skipped", "survey", "starting_points", "synergy")


class RunOver(BaseException):
    """The end was already written; whoever gets this has nothing left to say."""


class Replay:
    """What earlier attempts of a run left in the spool: finished trials to answer, and events not to repeat."""

    def __init__(self, spool_dir: Path, run_id: str) -> None:
        self.trials: dict[str, Trial] = {t.trial_id: t for t in replay_trials(spool_dir, run_id)}
        self._told: Counter[str] = Counter()
        self.survey: Surveyed | None = None
        for attempt in attempts_of(spool_dir, run_id):
            records = read_all(spool_path(spool_dir, run_id, attempt))
            self._told.update(record.kind for record in records if record.kind in COUNTED_KINDS)
            for record in records:
                if record.kind == "survey":
                    self.survey = Surveyed.from_event(record.data)

    def was_told(self, kind: str, data: Mapping[str, Any]) -> bool:
        """Whether an earlier attempt has written this event; a counted kind is used up by asking."""
        if kind in ("trial_started", "round_started"):
            return data.get("trial_id") in self.trials
        if kind in ("trial_finished", "round_finished"):
            trial = data["trial"]
            return (trial.trial_id if isinstance(trial, Trial) else trial["trial_id"]) in self.trials
        if self._told[kind] > 0:
            self._told[kind] -= 1
            return True
        return False


class RunReport:
    """The one writer of this attempt's spool file."""

    def __init__(
        self,
        writer: SpoolWriter,
        replay: Replay,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._writer, self._replay, self._clock, self._sleep = writer, replay, clock, sleep
        self._lock = threading.Lock()
        self._is_over = False
        self._trial_id = self._phase = ""
        self.last_trial_id = ""

    def started(self, facts: Mapping[str, Any]) -> None:
        """Say who works on the run; a reused process id is told apart by the start time."""
        me = psutil.Process(os.getpid())
        self._write("run_started", {"pid": me.pid, "pid_started_at": me.create_time(), **facts}, DISK_PATIENCE_S)

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        """Write one event of the search, unless an earlier attempt did."""
        if not self._replay.was_told(kind, data):
            self._write(kind, data, DISK_PATIENCE_S)

    def enter_phase(self, trial_id: str, phase: str) -> None:
        """Say what the running measurement does now; an empty trial id means that none runs."""
        self._trial_id, self._phase = trial_id, phase
        if trial_id:
            self._write("phase", {"trial_id": trial_id, "phase": phase}, DISK_PATIENCE_S)

    def heartbeat(self) -> None:
        """Say that the process lives; on a full disk silently not, the search thread reports that."""
        try:
            self._write("heartbeat", {"trial_id": self._trial_id, "phase": self._phase}, 0.0)
        except (SpoolWriteFailed, RunOver):
            return

    def finish(
        self, state: str, cause: str, facts: Mapping[str, Any] | None = None, patience_s: float = DISK_PATIENCE_S
    ) -> None:
        """Write the end; the first caller wins, later ones are ignored."""
        try:
            self._write("run_finished", {"state": state, "cause": cause, "winner": None, **(facts or {})}, patience_s)
        except RunOver:
            return
        except SpoolWriteFailed as error:
            if patience_s:
                raise
            log.error("the end of the run could not be written: %s", error)

    def _write(self, kind: str, data: Mapping[str, Any], patience_s: float) -> None:
        """One line; a full disk is waited for, with a line in the log each time."""
        deadline = self._clock() + patience_s
        act: Callable[[], object] = lambda: self._writer.write(kind, data)  # noqa: E731
        while True:
            with self._lock:
                if self._is_over:
                    raise RunOver
                try:
                    act()
                    self._is_over = kind == "run_finished"
                    return
                except SpoolWriteFailed as error:
                    if error.line_written:
                        act = self._writer.sync
                    if self._clock() >= deadline:
                        raise
                    log.error("%s; trying again in %.0f s", error, RETRY_S)
            self._sleep(RETRY_S)
