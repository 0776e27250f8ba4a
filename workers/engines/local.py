"""Measures one candidate in a fresh interpreter on this machine and contains whatever it does.

A candidate may crash the interpreter, hang in a compiler, exhaust memory, print a gigabyte or leave processes behind.
So each gets its own process in its own session; the result travels over a pipe of its own as length-prefixed JSON
(never pickle, never standard output), output is kept only up to a cap, each phase has a deadline, and afterwards the
process group and everything that carries the trial's cookie in its environment is killed. While a candidate is
measured this side sleeps in `poll`: a busy neighbour was seen to slow a measurement up to 16 times.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hybrid_core.records import MeasureLimits, MeasureRequest, Outcome, Trial, to_json
from workers.engines.claims import judged
from workers.engines.containment import (
    EXIT_GRACE_S,
    count_oom_kills,
    kill_by_cookie,
    kill_group,
    measure_environment,
)
from workers.paths import PROJECT_ROOT
from workers.protocol import FrameBuffer, FrameError, encode_frame

# The phases in which compilers run and may hang.
TRANSFORM_PHASES = ("transform", "compile")
MAX_RESULT_BYTES = 16 << 20
MAX_LOG_BYTES = 4 << 20
MAX_OUTPUT_BYTES = 1 << 18
LOG_TAIL_BYTES = 4000


@dataclass
class _Watch:
    """What is known about a measure process while it runs."""

    request: MeasureRequest
    started: float
    phase: str = "start"
    phase_started: float = 0.0
    phases_s: dict[str, float] = field(default_factory=dict)
    answer: Trial | None = None
    broken: str = ""
    timed_out: str = ""
    output: bytearray = field(default_factory=bytearray)

    def enter(self, phase: str, now: float) -> None:
        """Close the running phase's account and open the next."""
        self.phases_s[self.phase] = self.phases_s.get(self.phase, 0.0) + now - self.phase_started
        self.phase, self.phase_started = phase, now

    def deadline(self) -> tuple[float, str]:
        """The next moment at which patience ends, and the sentence for it."""
        limits: MeasureLimits = self.request.limits
        end = self.started + limits.total_timeout_s
        sentence = f"timed out in {self.phase}: the whole measurement took more than {limits.total_timeout_s:.0f} s"
        phase_end = self.phase_started + limits.transform_timeout_s
        if self.phase in TRANSFORM_PHASES and phase_end < end:
            return phase_end, f"timed out in {self.phase} after {limits.transform_timeout_s:.0f} s"
        return end, sentence


class LocalEngine:
    """Runs measure processes one after the other; `kill` may be called from another thread at any time."""

    def __init__(self, command: Sequence[str], scratch: Path, log_file: Path) -> None:
        self._command = tuple(command)
        self._scratch = scratch
        self._log_file = log_file
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._cookie = ""

    def measure(
        self,
        request: MeasureRequest,
        on_phase: Callable[[str], None] = lambda _: None,
        variables: Mapping[str, str] | None = None,
    ) -> Trial:
        """Measure one candidate; every fault of the candidate comes back as a trial that names it.

        `variables`: what the recipe's settings want its process to start with.
        """
        cookie = f"{request.trial_id}/{os.getpid()}/{time.time_ns()}"
        environment = measure_environment(self._scratch, request.subject.threads, cookie, variables)
        wall, kills_before = time.time(), count_oom_kills()
        watch = _Watch(request, time.monotonic(), phase_started=time.monotonic())
        try:
            process, result_fd = self._start(environment, cookie)
        except OSError as error:
            watch.broken = f"the measure process could not be started ({error.strerror or error})"
            return _stamped(_failed_trial(watch, None, False), wall, watch)
        code = None
        try:
            _send(process, request)
            self._watch_until_over(process, result_fd, watch, on_phase)
        finally:
            os.close(result_fd)
            code = self._finish(process, 0.0 if watch.answer or watch.timed_out else EXIT_GRACE_S)
        trial = watch.answer or _failed_trial(watch, code, count_oom_kills() > kills_before)
        self._write_log(watch)
        return _stamped(trial, wall, watch)

    def kill(self) -> None:
        """Kill the running measure process with everything it started."""
        with self._lock:
            process, cookie = self._process, self._cookie
        if process is not None:
            kill_group(process.pid)
            kill_by_cookie(cookie)

    def _start(self, environment: Mapping[str, str], cookie: str) -> tuple[subprocess.Popen[bytes], int]:
        result_read, result_write = os.pipe()
        try:
            with self._lock:
                self._cookie = cookie
                self._process = process = subprocess.Popen(
                    [*self._command, "--result-fd", str(result_write)],
                    cwd=PROJECT_ROOT,
                    env=dict(environment),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(result_write,),
                    start_new_session=True,
                )
        except BaseException:
            os.close(result_read)
            raise
        finally:
            os.close(result_write)
        return process, result_read

    def _watch_until_over(
        self, process: subprocess.Popen[bytes], result_fd: int, watch: _Watch, on_phase: Callable[[str], None]
    ) -> None:
        """Sleep until the result, the end of the process or a deadline, whichever is first."""
        assert process.stdout is not None
        frames, output_fd = FrameBuffer(MAX_RESULT_BYTES), process.stdout.fileno()
        with _exit_descriptor(process.pid) as exit_fd:
            poller = select.poll()
            for descriptor in (result_fd, output_fd, exit_fd):
                if descriptor >= 0:
                    poller.register(descriptor, select.POLLIN)
            while watch.answer is None and not watch.broken:
                end, sentence = watch.deadline()
                left_s = end - time.monotonic()
                if left_s <= 0:
                    watch.timed_out = sentence
                    return
                # Without a descriptor for the exit (no Linux) look twice a second.
                ready = {fd for fd, _ in poller.poll(1000 * (left_s if exit_fd >= 0 else min(left_s, 0.5)))}
                over = process.poll() is not None
                if output_fd in ready and not _take_output(output_fd, watch):
                    poller.unregister(output_fd)
                if (result_fd in ready or over) and not _take_frames(result_fd, frames, watch, on_phase, over):
                    return

    def _finish(self, process: subprocess.Popen[bytes], patience_s: float) -> int | None:
        """Leave nothing of the process behind; its own exit code, None where it had to be killed.

        Patience is for a process that has closed its result pipe and is still dying: killing it now would hide why.
        """
        assert process.stdin is not None and process.stdout is not None
        try:
            own_code = process.wait(patience_s)
        except subprocess.TimeoutExpired:
            own_code = None
        kill_group(process.pid)
        kill_by_cookie(self._cookie)
        with contextlib.suppress(subprocess.TimeoutExpired):  # uninterruptible sleep: nobody can do more
            process.wait(EXIT_GRACE_S)
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                stream.close()
        with self._lock:
            self._process = None
        return own_code

    def _write_log(self, watch: _Watch) -> None:
        # The end of a failed trial's output is also in its row, so a full or missing log loses nothing that matters.
        with contextlib.suppress(OSError), self._log_file.open("ab") as log:
            if watch.output and log.tell() < MAX_LOG_BYTES:
                log.write(f"--- {watch.request.trial_id}\n".encode() + bytes(watch.output) + b"\n")


@contextlib.contextmanager
def _exit_descriptor(pid: int) -> Iterator[int]:
    """A descriptor that becomes readable when the process ends, or -1 where the system has none."""
    descriptor = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
    try:
        yield descriptor
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _send(process: subprocess.Popen[bytes], request: MeasureRequest) -> None:
    """Write the order; standard input then stays open as the lifeline whose end tells the child to leave."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once; its exit code tells more
        process.stdin.write(encode_frame(to_json(request)))
        process.stdin.flush()


def _take_output(output_fd: int, watch: _Watch) -> bool:
    """Keep the end of what the candidate prints; False when the stream ended."""
    piece = os.read(output_fd, 1 << 16)
    watch.output += piece
    del watch.output[:-MAX_OUTPUT_BYTES]
    return bool(piece)


def _take_frames(
    result_fd: int, frames: FrameBuffer, watch: _Watch, on_phase: Callable[[str], None], over: bool
) -> bool:
    """Read what waits in the result pipe; False when nothing more can come."""
    os.set_blocking(result_fd, False)
    while True:
        try:
            piece = os.read(result_fd, 1 << 16)
        except BlockingIOError:
            return not over
        if not piece:
            return False
        try:
            for frame in frames.feed(piece):
                _take_frame(frame, watch, on_phase)
        except (FrameError, KeyError, TypeError, ValueError, AttributeError) as error:
            watch.broken = watch.broken or f"its answer could not be read ({str(error)[:200]})"
        if watch.answer is not None or watch.broken:
            return True


def _take_frame(frame: Any, watch: _Watch, on_phase: Callable[[str], None]) -> None:
    if "phase" in frame:
        watch.enter(str(frame["phase"])[:40], time.monotonic())
        on_phase(watch.phase)
    elif watch.answer is None:  # the first answer counts
        trial = Trial.from_json(frame["trial"])
        request = watch.request
        if (trial.trial_id, trial.recipe.key) != (request.trial_id, request.recipe.key):
            raise ValueError(f"it answers {trial.trial_id!r:.80}, which nobody asked")
        watch.enter("end", time.monotonic())
        watch.answer = judged(trial, watch.phases_s)


def _failed_trial(watch: _Watch, code: int | None, oom_killer_was_here: bool) -> Trial:
    outcome, reason = _cause(watch, code, oom_killer_was_here)
    request, tail = watch.request, watch.output[-LOG_TAIL_BYTES:].decode(errors="replace")
    return Trial(
        request.trial_id, request.run_id, request.recipe, request.purpose, outcome, reason, watch.phase, log_tail=tail
    )


def _cause(watch: _Watch, code: int | None, oom_killer_was_here: bool) -> tuple[Outcome, str]:
    where = f"while in {watch.phase}"
    if watch.timed_out:
        return Outcome.TIMEOUT, watch.timed_out
    if watch.broken:
        return Outcome.CRASHED, watch.broken
    if code is None:
        return Outcome.CRASHED, f"closed its result pipe {where} and did not end; it was killed"
    if code == -signal.SIGKILL and oom_killer_was_here:
        return Outcome.OUT_OF_MEMORY, f"the system ran out of memory and killed it (SIGKILL) {where}"
    if code == -signal.SIGKILL:
        return Outcome.CRASHED, f"killed by SIGKILL {where}, perhaps by the out-of-memory killer"
    if code < 0:
        return Outcome.CRASHED, f"crashed with {_signal_name(-code)} {where}"
    return Outcome.CRASHED, f"ended with exit code {code} {where} without a result"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _stamped(trial: Trial, wall: float, watch: _Watch) -> Trial:
    """The trial with this side's clock, whose phases add up to all its seconds.

    A candidate's own claim about its duration is not trusted, and its process cannot know how long it took to start.
    """
    ended = time.monotonic()
    watch.enter("", ended)
    return replace(trial, started_at=wall, seconds=ended - watch.started, phases_s=dict(watch.phases_s))
