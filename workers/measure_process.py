"""The fresh interpreter in which one candidate is built, checked and timed.

The order arrives as one frame on standard input, which then stays open as a lifeline: when it ends, the run process
is gone and this process kills itself and its compilers, so that no orphan disturbs the next measurement. Phases and
the one result leave as frames on a pipe of their own, because a candidate may print what it likes. Everything slow
(torch) is imported after the lifeline is watched.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from hybrid_core.errors import HybridError, MeasurementFailed
from hybrid_core.records import MeasureRequest, Outcome, Trial, to_json
from hybrid_core.repetition import with_order
from workers.engines.containment import ROOFLINE_VARIABLE, SCRATCH_VARIABLE
from workers.protocol import MAX_REQUEST_BYTES, encode_frame, read_frame
from workers.twin import Twin

PhaseSink = Callable[[str], None]
MeasureFunction = Callable[[MeasureRequest, PhaseSink], Trial]


def main(arguments: list[str] | None = None, measure: MeasureFunction | None = None) -> int:
    """Measure what standard input orders; the exit code is 0 when a result was sent."""
    parser = argparse.ArgumentParser(prog="python -m workers.measure_process", description=__doc__)
    parser.add_argument("--result-fd", type=int, required=True)
    result_fd = parser.parse_args(arguments).result_fd
    # Compilers and other children must not keep the pipe open after this process ended.
    os.set_inheritable(result_fd, False)
    request = MeasureRequest.from_json(read_frame(lambda size: os.read(0, size), MAX_REQUEST_BYTES))
    leave_with_parent(take_standard_input())
    tell_phase: PhaseSink = lambda phase: write_all(result_fd, encode_frame({"phase": phase}))  # noqa: E731
    trial = with_order((measure or measure_from_registry)(request, tell_phase), request)
    write_all(result_fd, encode_frame({"trial": to_json(trial)}))
    # The result is out; a candidate's broken destructors or exit handlers must not turn it into a crash.
    sys.stdout.flush()
    os._exit(0)


def measure_from_registry(request: MeasureRequest, on_phase: PhaseSink) -> Trial:
    """Load the science, which takes seconds, and hand over to it."""
    on_phase("import")

    from hybrid_core.evaluation import case_from_registry, evaluate
    from hybrid_core.measurement import roofline
    from hybrid_core.recipes import start_variables

    roofline.take_over(os.environ.get(ROOFLINE_VARIABLE, ""))
    scratch = os.environ.get(SCRATCH_VARIABLE)
    with contextlib.ExitStack() as stack:
        try:
            variables = start_variables(request.recipe)
            # Before this process builds its models: the check of free memory then counts all three.
            twin = stack.enter_context(Twin.started(request, variables)) if variables else None
            case = case_from_registry(request.subject)
        except MeasurementFailed as error:
            return _refused(request, str(error), Outcome(error.outcome))
        except HybridError as error:
            return _refused(request, str(error))
        folder = Path(scratch) if scratch else None
        return evaluate(case, request, on_phase=on_phase, scratch=folder, baseline_clock=twin)


def _refused(request: MeasureRequest, reason: str, outcome: Outcome = Outcome.INVALID_INPUT) -> Trial:
    names = (request.trial_id, request.run_id, request.recipe, request.purpose)
    return Trial(*names, outcome, reason, stage="build")


def leave_with_parent(lifeline_fd: int) -> None:
    """Kill this whole session as soon as the other end of the lifeline is closed, however the parent ended.

    Not PR_SET_PDEATHSIG: that follows the thread that spawned us, not the process.
    """

    def wait() -> None:
        while os.read(lifeline_fd, 4096):
            pass
        if os.getpgrp() == os.getpid():  # else started by hand, and the group is somebody's shell
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def take_standard_input() -> int:
    """A private copy of standard input; what reads descriptor 0 from now on finds it empty."""
    lifeline_fd = os.dup(0)
    empty_fd = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty_fd, 0)
    os.close(empty_fd)
    return lifeline_fd


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it, however many pieces the pipe takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    sys.exit(main())
