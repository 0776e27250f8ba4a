"""What a two-minute search finds on this machine, and whether its published numbers hold.

Question: does `optimize --model llama --budget 120` end with a recipe that the final race measures as faster than the
untouched model, with the whole 95 % interval above 1 and within the accuracy bound?

Method: several whole runs through the command line, each with another seed and an empty history, so that none
learns from an earlier one. Every number is a ratio measured beside the untouched model in one process (paired,
ABBA, median, bootstrap interval); a run counts only by its final race, which is another process than the one that
chose the recipe. Each answer holds the empty recipe raced the same way, which should be a tie. The results file
keeps every trial's figures and the raw samples of the final race.

    make bench-first-path            three runs of 120 s for each model
    make bench-first-path QUICK=1    one run of 120 s on llama
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from workers.client import Client  # noqa: E402
from workers.paths import DataPaths  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "first-path.json"


def optimize(model: str, budget_s: int, seed: int, data_dir: str) -> dict[str, Any]:
    """One whole run in a data folder of its own; the object that `--json` prints."""
    command = [sys.executable, "-m", "workers", "optimize", "--model", model, "--size", "tiny"]
    command += ["--budget", str(budget_s), "--seed", str(seed), "--method", "tournament", "--json"]
    env = {**os.environ, "HYBRID_DATA_DIR": data_dir}
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
        answer = dict(json.loads(done.stdout))
        answer["final_race"] = raw_samples(Client(DataPaths(Path(data_dir))), answer["trials"])
        for trial in answer["trials"]:
            del trial["log_tail"]  # traces name folders of this machine; outcome, stage and reason stay
        return answer
    finally:
        subprocess.run([sys.executable, "-m", "workers", "stop"], cwd=ROOT, env=env, check=False, capture_output=True)


def raw_samples(client: Client, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Recipe key to the [untouched ms, candidate ms] pairs of its final race."""
    finals = {t["recipe_key"]: t["trial_id"] for t in trials if t["purpose"] == "final" and t["outcome"] == "ok"}
    found = {key: client.query("trial", trial_id=trial_id)[0] for key, trial_id in finals.items()}
    return {key: json.loads(row["measurement_json"])["pairs_ms"] for key, row in found.items()}


def environment() -> dict[str, Any]:
    """Machine, versions and devices, as the hub's catalog states them."""
    command = [sys.executable, "-m", "workers.catalog_process"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    catalog = json.loads(done.stdout)
    return {
        **catalog["environment"],
        "devices": catalog["devices"],
        "threads_per_measurement": catalog["devices"][0]["threads"],
    }


def row_of(model: str, seed: int, answer: dict[str, Any]) -> dict[str, Any]:
    """The few numbers of one run that the table shows, beside the whole answer."""
    winner = answer["winner"]
    return {
        "model": model,
        "seed": seed,
        "recipe": winner["recipe"],
        "speed_improvement": winner["speed_improvement"],
        "memory_efficiency": winner["memory_efficiency"],
        "accuracy_preservation": winner["accuracy_preservation"],
        "faster": bool(winner["recipe"]) and winner["speed_improvement"]["low"] > 1.0,
        "trials": len(answer["trials"]),
        "answer": answer,
    }


def shown(estimate: dict[str, float]) -> str:
    """A ratio with its interval, as every table of this project writes it."""
    return f"{estimate['value']:5.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"


def print_row(row: dict[str, Any]) -> None:
    """One line of the table."""
    recipe = ", ".join(f"{k}: {v}" for k, v in row["recipe"].items()) or "the untouched model"
    figures = " ".join(
        f"{shown(row[k]):22}" for k in ("speed_improvement", "memory_efficiency", "accuracy_preservation")
    )
    print(f"{row['model']:11}{row['seed']:>4}  {figures} {row['trials']:>6}  {recipe}", flush=True)


def main() -> None:
    """Run, print, and write the results file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one run on llama only")
    parser.add_argument("--budget", type=int, default=120, help="seconds per run")
    arguments = parser.parse_args()
    models, seeds = (("llama",), (0,)) if arguments.quick else (("llama", "convnet"), (0, 1, 2))
    rows = []
    print(f"{'model':11}{'seed':>4}  {'speed':22} {'memory':22} {'accuracy':22} {'trials':>6}  winner")
    for model in models:
        for seed in seeds:
            with tempfile.TemporaryDirectory(prefix="hybrid-bench-") as data_dir:
                rows.append(row_of(model, seed, optimize(model, arguments.budget, seed, data_dir)))
            print_row(rows[-1])
    llama = [r for r in rows if r["model"] == "llama"]
    share = sum(r["faster"] for r in llama) / len(llama)
    target = {
        "name": "share of llama runs won by a recipe whose speed interval lies above 1",
        "value": share,
        "target": 1.0,
    }
    target["met"] = share >= 1.0
    print(f"{target['name']}: {share:.2f} (target 1.00, {'met' if target['met'] else 'MISSED'})")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"environment": environment(), "targets": [target], "rows": rows}, indent=None))
    print(f"written to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
