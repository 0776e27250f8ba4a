"""The measure process's end of its twin: the untouched model in a process without the candidate's start variables.

Variables that are read once at the start of a process, like those of an allocator, change every model in it, so a
baseline timed beside the candidate would hide what they do. The twin has the same interpreter, processors and
threads, everything of the environment but these variables, and goes through the same phases with an untouched copy in
the candidate's place. Seeds go to it and milliseconds come back, as frames; it stays in the process group, keeps the
cookie, and leaves when its standard input ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hybrid_core.errors import MeasurementFailed
from hybrid_core.records import MeasureRequest, Outcome, to_json
from workers.paths import PROJECT_ROOT
from workers.protocol import MAX_REQUEST_BYTES, FrameError, encode_frame, read_frame

COMMAND = (sys.executable, "-m", "workers.twin_process")
END_GRACE_S = 2.0


class Twin:
    """Times the untouched model elsewhere; a `BaselineClock`. Waits without end: the engine has the deadlines."""

    def __init__(self, process: subprocess.Popen[bytes], answer_fd: int, variables: Mapping[str, str]) -> None:
        self._process, self._answer_fd, self._variables = process, answer_fd, dict(variables)
        self._resident_bytes = 0
        self._reading: dict[str, Any] = {}

    @classmethod
    @contextlib.contextmanager
    def started(
        cls, request: MeasureRequest, variables: Mapping[str, str], command: Sequence[str] = COMMAND
    ) -> Iterator[Twin]:
        """A twin that is ready to time; ended with the block.

        Raises:
            MeasurementFailed: it could not be started, or could not build the model.
        """
        with shared_processors(request.subject.threads), cls._running(request, variables, command) as twin:
            yield twin

    @classmethod
    @contextlib.contextmanager
    def _running(cls, request: MeasureRequest, variables: Mapping[str, str], command: Sequence[str]) -> Iterator[Twin]:
        answer_read, answer_write = os.pipe()
        try:
            process = subprocess.Popen(
                [*command, "--answer-fd", str(answer_write)],
                cwd=PROJECT_ROOT,
                env={name: value for name, value in os.environ.items() if name not in variables},
                stdin=subprocess.PIPE,
                pass_fds=(answer_write,),
            )
        except OSError as error:
            os.close(answer_read)
            raise _lost(f"could not be started ({error.strerror or error})", "build") from error
        finally:
            os.close(answer_write)
        twin = cls(process, answer_read, variables)
        try:
            twin._ask({"request": to_json(request)}, "build")
            yield twin
        finally:
            twin._end()

    def sample(self, seed: int, repeats: int) -> float:
        """Milliseconds per call there; this process sleeps meanwhile."""
        from hybrid_core.measurement.processor import add_readings  # torch, which is loaded by now

        answer = self._ask({"seed": seed, "repeats": repeats}, "timing")
        self._reading = add_readings(self._reading, answer["reading"])
        return float(answer["ms"])

    def reading(self) -> dict[str, Any]:
        """What the processors did there while it timed, since the last call."""
        reading, self._reading = self._reading, {}
        return reading

    def pid(self) -> int:
        """The twin's process."""
        return self._process.pid

    def facts(self) -> dict[str, Any]:
        """How that process differs from this one."""
        names = " and ".join(sorted(self._variables))
        return {
            "baseline_process": f"the untouched model was timed in a process of its own, started without {names}",
            "start_variables": dict(sorted(self._variables.items())),
            "baseline_resident_bytes": self._resident_bytes,
            "processors_shared": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        }

    def _ask(self, question: dict[str, Any], stage: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(encode_frame(question))
            self._process.stdin.flush()
            answer = read_frame(lambda size: os.read(self._answer_fd, size), MAX_REQUEST_BYTES)
        except (FrameError, OSError) as error:
            raise _lost(self._cause(error), stage) from error
        if not isinstance(answer, dict) or "failed" in answer:
            raise _lost(str(answer["failed"] if isinstance(answer, dict) else "gave no readable answer"), stage)
        self._resident_bytes = int(answer.get("resident_bytes", 0))
        return answer

    def _cause(self, error: Exception) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"ended with code {self._process.wait(END_GRACE_S)}"
        return f"gave no readable answer ({error})"

    def _end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # a last frame that nobody read any more
            self._process.stdin.close()
        os.close(self._answer_fd)
        try:
            self._process.wait(END_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def shared_processors(threads: int) -> Iterator[None]:
    """Keep this process, and the twin it starts, on the same few processors, as two models of one process would be.

    Else one of the two may sit beside a busy neighbour for a whole measurement: equal models then differed by two.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-max(1, threads) :])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _lost(what: str, stage: str) -> MeasurementFailed:
    sentence = f"the process that times the untouched model without the start variables {what}"
    return MeasurementFailed(sentence, outcome=Outcome.CRASHED, stage=stage)
