"""How good every shipped model is, and what the two coarsest number formats do to it.

Question: is each trained model far above the best answer that ignores the input, and is its held-out data large enough
that a loss of 1 % would be seen?

Method: every held-out row is answered by the untouched model and by a copy with bfloat16 or dynamic int8 weights, in
one process. Quality is the task's own metric; the preservation is the ratio over the same rows with a paired bootstrap
interval, and its half width says how small a loss could be told from none. Top-1 hardly feels small damage, so bits
per byte, top-1 agreement and KL stand beside it. Nothing is timed.

    make bench-models            all held-out rows
    make bench-models QUICK=1    64 rows of each model
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from hybrid_core.errors import HybridError  # noqa: E402
from hybrid_core.evaluation import Case, case_from_registry  # noqa: E402
from hybrid_core.measurement.machine import describe_versions  # noqa: E402
from hybrid_core.measurement.quality import measure_quality  # noqa: E402
from hybrid_core.models.base import ModelEntry  # noqa: E402
from hybrid_core.models.registry import ENTRIES  # noqa: E402
from hybrid_core.recipes import apply_steps  # noqa: E402
from hybrid_core.records import Recipe, Subject, to_json  # noqa: E402
from hybrid_core.strategies.base import Situation  # noqa: E402
from workers.devices import cpu_title  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "model-quality.json"
RECIPES = ("baseline", "quantization=bfloat16", "quantization=int8_dynamic")
ALL_ROWS = 10**9


def main() -> None:
    """Measure, print, and write the results file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="64 rows of each model")
    parser.add_argument("--models", nargs="*", help="measure these anew, keep the other rows of the results file")
    chosen = parser.parse_args()
    rows_wanted = 64 if chosen.quick else ALL_ROWS
    torch.set_num_threads(1)
    rows = []
    print(f"{'model':14} {'recipe':26} {'rows':>5}  {'quality':24} {'preserved':24} details")
    for entry in ENTRIES:
        if chosen.models and entry.name not in chosen.models:
            rows += kept_rows(entry.name)
        elif entry.facts("tiny")["trained"]:
            rows += [print_row(row_of(entry, key, rows_wanted)) for key in RECIPES]
    targets = [above_trivial(rows), detectable(rows)]
    for target in targets:
        print(
            f"{target['name']}: {target['value']} (target {target['target']}, {'met' if target['met'] else 'MISSED'})"
        )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    environment = {**describe_versions(), "cpu": cpu_title(), "threads": 1}
    found = {"environment": environment, "targets": targets, "rows": rows}
    RESULTS.write_text(json.dumps(found, indent=1))
    print(f"written to {RESULTS.relative_to(ROOT)}")


def kept_rows(model: str) -> list[dict[str, Any]]:
    """What an earlier call measured of a model."""
    if not RESULTS.exists():
        return []
    return [row for row in json.loads(RESULTS.read_text())["rows"] if row["model"] == model]


def row_of(entry: ModelEntry, key: str, rows_wanted: int) -> dict[str, Any]:
    """One model under one recipe; a recipe that cannot be applied keeps its reason."""
    case = case_from_registry(Subject(entry.name, "tiny", entry.workloads("tiny")[0]))
    assert case.task is not None, f"{entry.name} is trained but has no task"
    row: dict[str, Any] = {"model": entry.name, "recipe": key, "metric": case.task.metric}
    try:
        quality, preserved, warnings, _ = measure_quality(
            case, case.build_model(), changed_model(case, Recipe.from_key(key)), rows_wanted
        )
    except HybridError as refusal:
        return {**row, "refused": str(refusal)}
    trivial = entry.facts("tiny")["quality"]["trivial"]
    return {
        **row,
        "trivial": trivial,
        "quality": to_json(quality),
        "preserved": to_json(preserved),
        "warnings": warnings,
    }


def changed_model(case: Case, recipe: Recipe) -> torch.nn.Module:
    """A fresh model with the recipe applied."""
    situation = Situation(case.fresh_inputs(case.generator("transform")), case.call, case.workload, case.device)
    return apply_steps(case.build_model(), recipe, situation).model


def above_trivial(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of untouched models whose interval lies above the trivial answer."""
    untouched = [r for r in rows if r["recipe"] == "baseline"]
    value = sum(r["quality"]["value"]["low"] > r["trivial"] for r in untouched) / len(untouched)
    return {
        "name": "share of models whose interval lies above the best answer that ignores the input",
        "value": round(value, 3),
        "target": 1.0,
        "met": value == 1.0,
    }


def detectable(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The widest half interval of what int8 preserves: a larger loss would have been seen on every model."""
    halves = [
        (r["preserved"]["high"] - r["preserved"]["low"]) / 2
        for r in rows
        if "preserved" in r and r["recipe"] == "quantization=int8_dynamic"
    ]
    return {
        "name": "widest half interval of the quality that int8 preserves",
        "value": round(max(halves), 4),
        "target": 0.01,
        "met": max(halves) <= 0.01,
    }


def print_row(row: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    if "refused" in row:
        print(f"{row['model']:14} {row['recipe']:26} refused: {row['refused'][:120]}", flush=True)
        return row
    quality = row["quality"]
    details = ", ".join(f"{name} {value:.4f}" for name, value in quality["details"].items())
    print(
        f"{row['model']:14} {row['recipe']:26} {quality['samples']:>5}  {shown(quality['value']):24} "
        f"{shown(row['preserved']):24} {row['metric']}; {details}",
        flush=True,
    )
    return row


def shown(estimate: dict[str, float]) -> str:
    """A value with its interval."""
    return f"{estimate['value']:.4f} ({estimate['low']:.4f} to {estimate['high']:.4f})"


if __name__ == "__main__":
    main()
