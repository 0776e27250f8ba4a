"""Runs one survey in a process of its own and takes what it answered, however it ends.

The same containment as for a candidate: a session and a cookie of its own, a built-up environment, a lifeline, a
deadline, and afterwards nothing left behind. Answers arrive one by one, so a crash or a deadline costs only the
questions that were still open; the run then tries those settings.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from hybrid_core.records import Recipe, Step, Subject, to_json
from hybrid_core.search.hints import Surveyed
from workers.engines.containment import EXIT_GRACE_S, kill_by_cookie, kill_group, measure_environment
from workers.paths import PROJECT_ROOT
from workers.protocol import FrameBuffer, FrameError, encode_frame

MAX_ANSWER_BYTES = 1 << 16
MAX_REASON_CHARACTERS = 400


def run_survey(
    command: Sequence[str], subject: Subject, steps: Sequence[Step], limit_s: float, scratch: Path, log_file: Path
) -> Surveyed:
    """Ask the steps within `limit_s` seconds; never raises for what the survey's process does."""
    started = time.monotonic()
    keys = [Recipe((step,)).key for step in steps]
    cookie = f"survey/{os.getpid()}/{time.time_ns()}"
    answers: dict[str, str | None] = {}
    problem = ""
    try:
        with log_file.open("ab") as log, _started(command, subject.threads, scratch, cookie, log) as (process, result):
            _send(process, {"subject": to_json(subject), "steps": keys})
            problem = _listen(result, set(keys), answers, started + limit_s, limit_s)
    except OSError as error:
        problem = f"the survey could not be started ({error.strerror or error})"
    unsupported = {Recipe.from_key(key).steps[0]: reason for key, reason in answers.items() if reason is not None}
    return Surveyed(unsupported, len(answers), time.monotonic() - started, problem)


@contextlib.contextmanager
def _started(command: Sequence[str], threads: int, scratch: Path, cookie: str, log: IO[bytes]) -> Any:
    """The process and our end of its result pipe; at the end nothing of it is left."""
    environment = measure_environment(scratch, threads, cookie)
    result_read, result_write = os.pipe()
    try:
        process = subprocess.Popen(
            [*command, "--result-fd", str(result_write)],
            cwd=PROJECT_ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(result_write,),
            start_new_session=True,
        )
    except BaseException:
        os.close(result_read)
        raise
    finally:
        os.close(result_write)
    try:
        yield process, result_read
    finally:
        os.close(result_read)
        kill_group(process.pid)
        kill_by_cookie(cookie)
        with contextlib.suppress(subprocess.TimeoutExpired):  # uninterruptible sleep: nobody can do more
            process.wait(EXIT_GRACE_S)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()


def _send(process: subprocess.Popen[bytes], order: Any) -> None:
    """Write the order; standard input then stays open as the lifeline."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once, and the silence will tell
        process.stdin.write(encode_frame(order))
        process.stdin.flush()


def _listen(result: int, asked: set[str], answers: dict[str, str | None], deadline: float, limit_s: float) -> str:
    """Take answers until all were asked, the process ended or time is up; why the rest is missing, or ""."""
    frames, poller = FrameBuffer(MAX_ANSWER_BYTES), select.poll()
    poller.register(result, select.POLLIN)
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poller.poll(1000 * left_s):
            return f"the survey took more than {limit_s:.0f} s and was ended"
        piece = os.read(result, 1 << 16)
        if not piece:
            return "the survey's process ended before it had asked everything; see the run's log of candidates"
        try:
            for frame in frames.feed(piece):
                if "done" in frame:
                    # A question that raised was not told: it is open, and its trial will show what is wrong.
                    return "" if len(answers) == len(asked) else _unanswered(len(asked) - len(answers))
                if frame["step"] in asked:
                    reason = frame["unsupported"]
                    answers[frame["step"]] = None if reason is None else str(reason)[:MAX_REASON_CHARACTERS]
        except (FrameError, KeyError, TypeError) as error:
            return f"an answer of the survey could not be read ({str(error)[:200]})"


def _unanswered(count: int) -> str:
    return f"{count} setting{'s' if count > 1 else ''} could not be asked; see the run's log of candidates"
