"""Whether the time to compile stops growing with depth when one block is compiled for all.

Question: what do `compile` and `compile_regional` cost on a decoder of 4 and of 12 layers, and what are they worth?

Method: a decoder of the llama family with 4 and with 12 equal layers and random weights. Each setting is applied in a
fresh process with an empty compiler cache of its own; the cost is `apply` plus the first call. Then the compiled model
and the untouched one are called in turn, 30 pairs, and the ratio is the median of the paired ratios with its 95 %
bootstrap interval. One thread.

    make bench-compile-depth
    make bench-compile-depth QUICK=1     4 and 8 layers
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results" / "compile-depth.json"
SETTINGS = ("compile", "compile_regional")
PAIRS = 30
TOKENS = 128


def main() -> None:
    """Measure, print and write; one child process for each point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--point", nargs=2, metavar=("SETTING", "LAYERS"), help="measure one point, as JSON")
    chosen = parser.parse_args()
    if chosen.point:
        print(json.dumps(measure(chosen.point[0], int(chosen.point[1]))))
        return
    depths = (4, 8) if chosen.quick else (4, 12)
    rows = [print_row(in_fresh_process(setting, depth)) for setting in SETTINGS for depth in depths]
    growth = {s: rows_of(rows, s)[1]["prepare_s"] / rows_of(rows, s)[0]["prepare_s"] for s in SETTINGS}
    value = round(growth["compile_regional"], 2)
    name = f"cost of preparing {depths[1]} layers by that of {depths[0]}, compile_regional"
    target = {"name": name, "value": value, "target": 1.3, "met": value <= 1.3}
    print(
        f"{name}: {value} (target at most 1.3, {'met' if target['met'] else 'MISSED'}; compile {growth['compile']:.2f})"
    )
    from hybrid_core.measurement.machine import describe_versions
    from workers.devices import cpu_title

    environment = {**describe_versions(), "cpu": cpu_title(), "threads": 1}
    RESULTS.write_text(json.dumps({"environment": environment, "targets": [target], "rows": rows}, indent=1) + "\n")


def rows_of(rows: list[dict[str, Any]], setting: str) -> list[dict[str, Any]]:
    """The points of one setting, shallow first."""
    return [row for row in rows if row["setting"] == setting]


def in_fresh_process(setting: str, layers: int) -> dict[str, Any]:
    """One point with an empty cache."""
    with tempfile.TemporaryDirectory(prefix="compile-depth-") as cache:
        variables = {"TORCHINDUCTOR_CACHE_DIR": cache, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        command = [sys.executable, __file__, "--point", setting, str(layers)]
        done = subprocess.run(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, check=True)
    point: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return point


def measure(setting: str, layers: int) -> dict[str, Any]:
    """Prepare and time one setting at one depth."""
    import torch

    from hybrid_core.measurement.compiling import read_counts
    from hybrid_core.measurement.statistics import ratio_of_pairs
    from hybrid_core.models.language import DenseDecoder
    from hybrid_core.models.llama import LlamaEntry
    from hybrid_core.records import Workload, to_json
    from hybrid_core.strategies.base import Situation
    from hybrid_core.strategies.registry import get_strategy

    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = replace(LlamaEntry().shapes["tiny"], layers=layers)
    untouched, changed = (DenseDecoder(shape).eval().requires_grad_(False) for _ in range(2))
    changed.load_state_dict(untouched.state_dict())
    tokens = [torch.randint(0, shape.vocabulary, (1, TOKENS)) for _ in range(PAIRS + 1)]
    situation = Situation((tokens[0],), lambda m, i: m(*i), Workload("prefill", "prefill", 1, TOKENS))
    pairs = []
    with torch.no_grad():
        started = time.perf_counter()
        changed = get_strategy("kernel_fusion").apply(setting, changed, situation).model
        error = float((changed(tokens[0]) - untouched(tokens[0])).abs().max())
        seconds = time.perf_counter() - started
        for number, given in enumerate(tokens[1:]):
            order = (untouched, changed) if number % 2 == 0 else (changed, untouched)
            times = {model: call_ms(model, given) for model in order}
            pairs.append((times[untouched], times[changed]))
    found = {"setting": setting, "layers": layers, "prepare_s": round(seconds, 2), "graphs": read_counts().graphs}
    return found | to_json({"speed": ratio_of_pairs(tuple(pairs), 0), "max_abs_error": error, "pairs_ms": pairs})


def call_ms(model: Any, tokens: Any) -> float:
    """Milliseconds of one call."""
    started = time.perf_counter()
    model(tokens)
    return (time.perf_counter() - started) * 1000


def print_row(row: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    speed = row["speed"]
    print(
        f"{row['setting']:18} {row['layers']:3} layers: prepared in {row['prepare_s']:6.1f} s, {row['graphs']} graphs, "
        f"time {speed['value']:.2f} ({speed['low']:.2f} to {speed['high']:.2f}), error {row['max_abs_error']:.1e}",
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
