"""What an answer costs in seconds: phase by phase of a trial, and what a run spends on anything but its trials.

The phases are those of the A/A trials (an untouched model: nothing compiles), by the clock of the process that asked.
Orchestration is measured on whole runs through the command line: hub, queue, spool, search and all, each in a data
folder of its own: wall time from the run's start to its end, less the seconds of its measure processes. What the run
says of itself (`cost` of its result) is kept beside it; it does not count the start of the run's own process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.truth.book import ROOT, Book, Row

PART = "cost"
MODELS = ("llama", "convnet", "vit")
TURNS, QUICK_TURNS = 2, 1
BUDGET_S = 120


def measure(book: Book, *, quick: bool) -> None:
    """Whole runs of two minutes; the start of a run is the same for longer ones."""
    for turn in range(QUICK_TURNS if quick else TURNS):
        for model in MODELS[:1] if quick else MODELS:
            key = f"{PART}/{model}/{turn}"
            if book.is_full():
                return
            if not book.has(key):
                print_row(book.add(PART, key, {"model": model, "turn": turn, **run_once(model, turn)}))


def run_once(model: str, seed: int) -> dict[str, Any]:
    """One run in a data folder of its own, and where its wall time went."""
    command = [sys.executable, "-m", "workers", "optimize", "--model", model, "--size", "tiny"]
    command += ["--budget", str(BUDGET_S), "--seed", str(seed), "--method", "tournament", "--json"]
    with tempfile.TemporaryDirectory(prefix="hybrid-bench-") as folder:
        env = {**os.environ, "HYBRID_DATA_DIR": folder}
        try:
            done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
        finally:
            subprocess.run([sys.executable, "-m", "workers", "stop"], cwd=ROOT, env=env, check=False)
    return facts_of_answer(json.loads(done.stdout))


def facts_of_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """Wall seconds of the run, of its trials, and of the process that asked which settings the model cannot have.

    An answer of that process is kept as a trial too, with its share of those seconds; it is counted once.
    """
    run = answer["run"]
    trials = [trial for trial in answer["trials"] if trial["stage"] != "survey"]
    account = (run.get("result") or {}).get("cost") or {}
    return {
        "wall_s": round(run["ended_at"] - run["started_at"], 2),
        "trials_s": round(sum(trial["seconds"] for trial in trials), 2),
        "asking_s": round(account.get("parts_s", {}).get("asking the settings", 0.0), 2),
        "trials": len(trials),
        "cost": account,
    }


def orchestration_share(row: Row) -> float:
    """Share of the wall time in which no process measured or answered; negative would be an error of the account."""
    return float(1.0 - (row["trials_s"] + row["asking_s"]) / row["wall_s"])


def print_row(row: Row) -> None:
    """One line."""
    told = f"{row['trials']} trials took {row['trials_s']:.1f} of {row['wall_s']:.1f} s"
    print(f"  run on {row['model']}: {told}; orchestration {orchestration_share(row):.1%}", flush=True)
