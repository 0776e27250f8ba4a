"""The fresh interpreter in which a model is built once and every setting is asked whether the model can have it.

Order, lifeline and answers travel as in `workers.measure_process`: one frame in on standard input, which stays open;
one frame out for each answer, on a pipe of its own, as soon as it is known.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from hybrid_core.records import Recipe, Step, Subject
from workers.engines.containment import SCRATCH_VARIABLE
from workers.measure_process import leave_with_parent, take_standard_input, write_all
from workers.protocol import MAX_REQUEST_BYTES, encode_frame, read_frame


def main(arguments: list[str] | None = None) -> int:
    """Ask what standard input orders; a last frame says that all questions were asked."""
    parser = argparse.ArgumentParser(prog="python -m workers.survey_process", description=__doc__)
    parser.add_argument("--result-fd", type=int, required=True)
    result_fd = parser.parse_args(arguments).result_fd
    os.set_inheritable(result_fd, False)
    order = read_frame(lambda size: os.read(0, size), MAX_REQUEST_BYTES)
    leave_with_parent(take_standard_input())
    steps = [Recipe.from_key(key).steps[0] for key in order["steps"]]

    def tell(step: Step, reason: str | None, seconds: float) -> None:
        key = f"{step.strategy}={step.setting}"
        write_all(result_fd, encode_frame({"step": key, "unsupported": reason, "seconds": seconds}))

    from hybrid_core.evaluation import case_from_registry
    from hybrid_core.survey import survey

    scratch = os.environ.get(SCRATCH_VARIABLE)
    survey(case_from_registry(Subject.from_json(order["subject"])), steps, tell, Path(scratch) if scratch else None)
    write_all(result_fd, encode_frame({"done": True}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
