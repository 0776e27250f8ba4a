"""Starts run processes, one per device, and knows at every moment what became of each.

It lives in the hub's main thread and only there: a process spawned from a short-lived thread can be tied to it. A run
process that ends without having written its end is lost; the run is then given once to a new attempt, which goes on
from the spool, and a second loss ends it with its cause. After a restart of the hub living run processes are found by
the cookie in their environment and taken over, strangers of our own making are ended, and nothing stays "running"
without somebody who works on it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from hybrid_core.config import RunConfig
from hybrid_core.errors import HybridError
from hybrid_core.records import RunState, Subject
from storage.connection import Database
from storage.runs import OpenRun, active_leases, mark_running, mark_terminal, open_runs
from storage.spool import attempts_of
from workers.earlier import rows_for
from workers.engines.containment import kill_group
from workers.orders import (
    EXIT_OTHER_ATTEMPT_ALIVE,
    EXIT_SPOOL_FAILED,
    RUN_COOKIE_VARIABLE,
    RunOrder,
    cancel_note,
    command_line,
    parse_cookie,
    run_environment,
)
from workers.paths import PROJECT_ROOT, DataPaths
from workers.repeated import stored_trial
from workers.run_watch import remove_scratch

log = logging.getLogger("supervisor")
MAX_ATTEMPTS = 2
CANCEL_GRACE_S = 5.0
STALE_AFTER_S = 60.0


@dataclass(frozen=True)
class Programs:
    """The programs the hub starts; tests bring their own, nobody can name one over the socket."""

    run: tuple[str, ...] = (sys.executable, "-m", "workers.run_process")
    measure: tuple[str, ...] = (sys.executable, "-m", "workers.measure_process")
    survey: tuple[str, ...] = (sys.executable, "-m", "workers.survey_process")
    catalog: tuple[str, ...] = (sys.executable, "-m", "workers.catalog_process")
    inspect: tuple[str, ...] = (sys.executable, "-m", "workers.inspect_process")
    export: tuple[str, ...] = (sys.executable, "-m", "workers.export_process")


@dataclass
class Worker:
    """A living run process: our own child (`process`) or one taken over from an earlier hub."""

    run_id: str
    attempt: int
    device: str
    handle: psutil.Process
    process: subprocess.Popen[bytes] | None = None
    lifeline_fd: int = -1
    cancel_sent_at: float | None = None
    last_beat: float = 0.0
    beat_seen_at: float = field(default_factory=time.monotonic)

    def exit_code(self) -> tuple[bool, int | None]:
        """(whether it ended, its exit code if it was our child)."""
        if self.process is not None:
            code = self.process.poll()
            return code is not None, code
        with contextlib.suppress(psutil.Error):
            return not self.handle.is_running() or self.handle.status() == psutil.STATUS_ZOMBIE, None
        return True, None

    def release(self) -> None:
        """Close our end of its lifeline."""
        if self.lifeline_fd >= 0:
            os.close(self.lifeline_fd)
            self.lifeline_fd = -1


class Supervisor:
    """The queue and the processes. Every method is for the hub's main thread."""

    def __init__(
        self,
        db: Database,
        paths: DataPaths,
        programs: Programs,
        drain: Callable[[], object],
        refusal: Callable[[str], str | None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`refusal` says of a subject's source why it may not be loaded by this hub, None where it may."""
        self._db, self._paths, self._programs = db, paths, programs
        self._drain, self._refusal, self._clock = drain, refusal, clock
        self.workers: dict[str, Worker] = {}

    def adopt(self) -> None:
        """Take over the run processes that an earlier hub left behind, and end those whose run is over."""
        alive = find_run_processes(self._paths)
        for run in open_runs(self._db):
            handle = alive.pop((run.run_id, run.attempt), None)
            if handle is not None and run.state == RunState.RUNNING:
                log.info("run %s goes on in process %d", run.run_id, handle.pid)
                self.workers[run.run_id] = Worker(run.run_id, run.attempt, run.subject["device"], handle)
                mark_running(self._db, run.run_id, run.attempt, handle.pid, handle.create_time())
        for (run_id, attempt), handle in alive.items():
            log.warning("process %d works on run %s attempt %d, which is over; ending it", handle.pid, run_id, attempt)
            kill_group(handle.pid)

    def tick(self) -> None:
        """One round: who ended, who is to be cancelled, who is silent, who can start."""
        for worker in list(self.workers.values()):
            ended, code = worker.exit_code()
            if ended:
                self._forget(worker)
                self._settle(worker, code)
        runs = open_runs(self._db)
        self._cancel_and_check(runs)
        self._start(runs)

    def stop_all(self, cause: str, patience_s: float = CANCEL_GRACE_S) -> None:
        """Cancel every running run and wait for the processes; waiting runs stay in the queue."""
        for worker in self.workers.values():
            self._send_cancel(worker, cause)
        deadline = self._clock() + patience_s
        while self.workers and self._clock() < deadline:
            for worker in list(self.workers.values()):
                if worker.exit_code()[0]:
                    self._forget(worker)
            time.sleep(0.05)
        for worker in list(self.workers.values()):
            kill_group(worker.handle.pid)
            self._forget(worker)
        self._drain()
        for run in open_runs(self._db):
            if run.state == RunState.RUNNING:
                mark_terminal(self._db, run.run_id, RunState.CANCELLED, cause)

    def _settle(self, worker: Worker, code: int | None) -> None:
        """Give a run whose process ended without a word a cause, or one more attempt."""
        self._drain()
        run = next((r for r in open_runs(self._db) if r.run_id == worker.run_id), None)
        if run is None or run.attempt != worker.attempt:
            return
        cause = f"worker_lost: the run's process {worker.handle.pid} {_ending(code)}"
        if run.cancel_requested_at is not None:
            self._end(run, RunState.CANCELLED, "cancelled; the process had to be ended by force")
        elif code == EXIT_SPOOL_FAILED:
            self._end(run, RunState.FAILED, f"results can no longer be written; free space in {self._paths.root}")
        elif run.attempt >= MAX_ATTEMPTS and code != EXIT_OTHER_ATTEMPT_ALIVE:
            self._end(run, RunState.FAILED, f"{cause}, {MAX_ATTEMPTS} times in all; see {self._log_file(run.run_id)}")
        else:
            log.warning("%s; starting attempt %d", cause, run.attempt + 1)

    def _end(self, run: OpenRun, state: RunState, cause: str) -> None:
        mark_terminal(self._db, run.run_id, state, cause)
        remove_scratch(self._paths.cache / run.run_id)

    def _cancel_and_check(self, runs: Sequence[OpenRun]) -> None:
        wanted = {run.run_id for run in runs if run.cancel_requested_at is not None}
        beats = {lease.run_id: lease.heartbeat_at for lease in active_leases(self._db)} if self.workers else {}
        for worker in self.workers.values():
            now = self._clock()
            if worker.run_id in wanted and worker.cancel_sent_at is None:
                self._send_cancel(worker, "cancelled by request")
            if worker.cancel_sent_at is not None and now - worker.cancel_sent_at > CANCEL_GRACE_S:
                kill_group(worker.handle.pid)
            # Counted on our clock from the last change: a suspended laptop must not make every beat look old.
            if beats.get(worker.run_id, 0.0) != worker.last_beat:
                worker.last_beat, worker.beat_seen_at = beats.get(worker.run_id, 0.0), now
            if now - worker.beat_seen_at > STALE_AFTER_S:
                log.error("run %s: no heartbeat for %.0f s; ending its process", worker.run_id, STALE_AFTER_S)
                kill_group(worker.handle.pid)

    def _send_cancel(self, worker: Worker, cause: str) -> None:
        worker.cancel_sent_at = self._clock()
        with contextlib.suppress(OSError):
            cancel_note(self._paths, worker.run_id).write_text(cause)
        with contextlib.suppress(psutil.Error):
            worker.handle.send_signal(signal.SIGTERM)

    def _start(self, runs: Sequence[OpenRun]) -> None:
        """Start what waits, oldest first, on devices nobody measures on; lost runs before new ones."""
        busy = {worker.device for worker in self.workers.values()}
        for run in sorted(runs, key=lambda r: r.state != RunState.RUNNING):
            device = str(run.subject["device"])
            if run.run_id in self.workers or device in busy:
                continue
            if run.state == RunState.RUNNING and run.cancel_requested_at is not None:
                self._end(run, RunState.CANCELLED, "cancelled")
            elif run.attempt >= MAX_ATTEMPTS:
                self._end(run, RunState.FAILED, "worker_lost: the hub and the run's process were lost together")
            else:
                busy.add(device)
                self._start_attempt(run)

    def _start_attempt(self, run: OpenRun) -> None:
        # Asked again here: a run may have waited for a hub that was started with less trust than the one that took it.
        if (reason := self._refusal(str(run.subject.get("source") or ""))) is not None:
            self._end(run, RunState.FAILED, reason)
            return
        attempt = max([run.attempt, *attempts_of(self._paths.spool, run.run_id)]) + 1
        if not mark_running(self._db, run.run_id, attempt):
            return
        try:
            order = self._order(run, attempt)
            process, lifeline_fd = self._spawn(order)
            handle = psutil.Process(process.pid)
        except (OSError, HybridError, psutil.Error) as error:
            self._end(run, RunState.FAILED, f"the run's process could not be started ({error})")
            return
        worker = Worker(run.run_id, attempt, order.subject.device, handle, process, lifeline_fd)
        self.workers[run.run_id] = worker
        mark_running(self._db, run.run_id, attempt, process.pid, handle.create_time())
        log.info("run %s attempt %d started as process %d", run.run_id, attempt, process.pid)

    def _order(self, run: OpenRun, attempt: int) -> RunOrder:
        config = RunConfig.from_json(run.config)
        return RunOrder(
            run_id=run.run_id,
            attempt=attempt,
            root=self._paths.root,
            config=config,
            subject=Subject.from_json(run.subject),
            family=run.family,
            measure_command=self._programs.measure,
            survey_command=self._programs.survey,
            repeats=stored_trial(self._db, config.repeats) if config.repeats else None,
            **rows_for(self._db, run, config),
        )

    def _spawn(self, order: RunOrder) -> tuple[subprocess.Popen[bytes], int]:
        """Start a run process with a pipe that ends when this hub does, however that happens."""
        order_file = order.write()
        read_fd, write_fd = os.pipe()
        try:
            with self._log_file(order.run_id).open("ab") as output:
                process = subprocess.Popen(
                    command_line(self._programs.run, order_file, read_fd),
                    cwd=PROJECT_ROOT,
                    env=run_environment(order),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(read_fd,),
                    start_new_session=True,
                )
        except BaseException:
            os.close(write_fd)
            raise
        finally:
            os.close(read_fd)
        return process, write_fd

    def _forget(self, worker: Worker) -> None:
        worker.release()
        self.workers.pop(worker.run_id, None)

    def _log_file(self, run_id: str) -> Path:
        return self._paths.logs / f"{run_id}.log"


def find_run_processes(paths: DataPaths) -> dict[tuple[str, int], psutil.Process]:
    """Living run processes of this data folder by (run_id, attempt), recognised by their cookie."""
    found: dict[tuple[str, int], psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            owner = parse_cookie(process.environ().get(RUN_COOKIE_VARIABLE, ""), paths.root)
            if owner and process.status() != psutil.STATUS_ZOMBIE:
                found[owner] = process
    return found


def _ending(code: int | None) -> str:
    if code is None:
        return "ended without a result"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code} and no result"
