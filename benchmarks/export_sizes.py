"""What open sizes cost: writing a model as an ONNX file with a height and width that may change, and without.

Question: a trial in ONNX Runtime or OpenVINO begins with an export, which takes longer than the measurement. How much
of that is the price of image sizes that no call of a workload changes?

Method: of each model of the registry that sees images, the call of one workload is exported three ways in turn, in
another order every round: every dimension open, the usual ones (`graph_file.usual_sizes`: of images the batch alone),
none. Timed is the processor time of `torch.export` and `torch.onnx.export` with its optimizer, as the strategies call
them, in one process and one thread. The ratio is that of the medians; all samples are kept. There is no target.

    make bench-export-sizes            three rounds, a quarter of an hour
    make bench-export-sizes QUICK=1    one round
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.truth.book import environment  # noqa: E402
from benchmarks.truth.trials import subject_of  # noqa: E402
from hybrid_core.evaluation import case_from_registry  # noqa: E402
from hybrid_core.strategies.base import Situation  # noqa: E402
from hybrid_core.strategies.runtimes.call_form import record_call  # noqa: E402
from hybrid_core.strategies.runtimes.graph_file import export_call, quiet_export, usual_sizes  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "export-sizes.json"
SUBJECTS = (
    ("convnet", "forward"),
    ("vit", "forward_single"),
    ("viral_clipper", "forward_single"),
    ("brandkit", "analyse_single"),
    ("ia_generative", "forward"),
)
ROUNDS = 3


def every_size(tensor: Tensor) -> tuple[int, ...]:
    """All dimensions above one, those of images, too."""
    return tuple(i for i, n in enumerate(tensor.shape) if n > 1)


WAYS: dict[str, Callable[[Tensor], tuple[int, ...]] | None] = {"every": every_size, "usual": usual_sizes, "none": None}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round")
    rounds = 1 if parser.parse_args().quick else ROUNDS
    torch.set_num_threads(1)
    rows = [measure(model, workload, rounds) for model, workload in SUBJECTS]
    found = {"environment": environment(), "targets": [], "rows": rows}
    RESULTS.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


def measure(model: str, workload: str, rounds: int) -> dict[str, Any]:
    """Seconds of each way, and what every size costs beside the usual ones."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for i in range(rounds):
        for way in list(WAYS)[:: 1 if i % 2 == 0 else -1]:
            seconds[way].append(round(export_seconds(model, workload, WAYS[way]), 2))
    medians = {way: statistics.median(samples) for way, samples in seconds.items()}
    ratio = round(medians["every"] / medians["usual"], 2)
    told = ", ".join(f"{way} {value:.1f} s" for way, value in medians.items())
    print(f"{model:14} {workload:15} {told}; every / usual {ratio:.2f}", flush=True)
    return {"model": model, "workload": workload, "seconds": seconds, "every_over_usual": ratio}


def export_seconds(model: str, workload: str, may_change: Callable[[Tensor], tuple[int, ...]] | None) -> float:
    """Processor time of one export of the model as it comes."""
    case = case_from_registry(subject_of(model, "tiny", workload))
    built, inputs = case.build_model(), case.fresh_inputs(case.generator("example"))
    form, example, _ = record_call(built, Situation(inputs, case.call, case.workload))
    with tempfile.TemporaryDirectory() as folder, quiet_export(), torch.inference_mode(False), torch.no_grad():
        began = time.process_time()
        program, _ = export_call(built, form, example, may_change)
        written = torch.onnx.export(program, dynamo=True, verbose=False, optimize=False)
        assert written is not None, "without a file name the export returns the graph"
        written.optimize()
        written.save(Path(folder) / "graph.onnx")
        return time.process_time() - began


if __name__ == "__main__":
    main()
