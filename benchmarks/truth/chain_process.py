"""The fresh process in which a chain is measured: by the project's procedure, as peers do it, or to calibrate it.

Without a task it is a measure process like any other, whose models are chains; with `--task` it reads one JSON object
of arguments and prints one of raw times.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from hybrid_core.records import MeasureRequest, Trial  # noqa: E402
from workers import measure_process  # noqa: E402
from workers.engines.containment import ROOFLINE_VARIABLE  # noqa: E402


def measure_chain(request: MeasureRequest, on_phase: Callable[[str], None]) -> Trial:
    """The project's procedure on a chain."""
    on_phase("import")
    from benchmarks.truth.chain import case_of, toolbox
    from hybrid_core.evaluation import evaluate
    from hybrid_core.measurement import roofline

    roofline.take_over(os.environ.get(ROOFLINE_VARIABLE, ""))
    return evaluate(case_of(request), request, on_phase=on_phase, toolbox=toolbox())


def run_task(name: str, arguments: str) -> None:
    """One of the other two, printed as JSON."""
    import torch

    from benchmarks.truth import chain

    torch.set_num_threads(1)
    tasks = {"peers": chain.time_as_peers_do, "calibrate": chain.calibrate}
    print(json.dumps(tasks[name](**json.loads(arguments))))  # type: ignore[operator]


if __name__ == "__main__":
    if "--task" in sys.argv:
        run_task(*sys.argv[sys.argv.index("--task") + 1 :][:2])
    else:
        sys.exit(measure_process.main(measure=measure_chain))
