"""The untouched model in a process of its own: seeds come in on standard input, milliseconds go out.

Started by a measure process whose own environment changes every model in it (see `workers.twin`). The first frame
holds the request, each further one a seed and how many calls to time; the answer follows on a pipe of its own. The end
of standard input ends this process. Between questions it sleeps in `read`, so it never runs beside the candidate.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from hybrid_core.records import MeasureRequest
from workers.engines.containment import ROOFLINE_VARIABLE
from workers.measure_process import take_standard_input, write_all
from workers.protocol import MAX_REQUEST_BYTES, PeerGone, encode_frame, read_frame


def main(arguments: list[str] | None = None) -> int:
    """Answer until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m workers.twin_process", description=__doc__)
    parser.add_argument("--answer-fd", type=int, required=True)
    answer_fd = parser.parse_args(arguments).answer_fd
    os.set_inheritable(answer_fd, False)
    question_fd = take_standard_input()

    def ask() -> Any:
        return read_frame(lambda size: os.read(question_fd, size), MAX_REQUEST_BYTES)

    try:
        serve(ask, lambda answer: write_all(answer_fd, encode_frame(answer)))
    except (PeerGone, BrokenPipeError):
        pass  # the measure process has what it wanted, or is gone
    sys.stdout.flush()
    os._exit(0)


def serve(ask: Callable[[], Any], tell: Callable[[dict[str, Any]], None]) -> None:
    """Prepare the model of the first question, then time what the others ask; a failure is told as one sentence."""
    from hybrid_core.evaluation import case_from_registry, name_failure, registry_toolbox
    from hybrid_core.measurement import roofline
    from hybrid_core.measurement.latency import checked_sample
    from hybrid_core.measurement.procedure import prepare_untouched
    from hybrid_core.measurement.process_memory import resident_peak_bytes
    from hybrid_core.measurement.process_state import restored_state

    roofline.take_over(os.environ.get(ROOFLINE_VARIABLE, ""))
    registry_toolbox()  # not needed, but what the measure process has imported shapes its heap too
    request = MeasureRequest.from_json(ask()["request"])
    with restored_state(request.subject.threads):
        try:
            race = prepare_untouched(case_from_registry(request.subject), request.limits)
            tell({"ready": True})
            while True:
                question = ask()
                milliseconds = checked_sample(race, int(question["seed"]), int(question["repeats"]))
                reading = race.telemetry.read()
                tell({"ms": milliseconds, "resident_bytes": resident_peak_bytes(), "reading": reading})
        except (PeerGone, BrokenPipeError):
            raise
        except Exception as error:  # the border: whatever a model raises must reach the trial as a sentence
            tell({"failed": f"failed: {name_failure(error)[1]}"})


if __name__ == "__main__":
    sys.exit(main())
