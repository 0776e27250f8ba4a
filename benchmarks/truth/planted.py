"""Planted effects: is a candidate found that is exactly 0, 1, 2, 5 or 10 % faster, and is its figure right.

The model is a chain of equal blocks (`chain.py`); the truth is the number of blocks, confirmed by a long calibration
of its own in several processes. The part "planted" measures every effect once a turn by the project's procedure, the
part "peers" the way others do it: a stretch of calls of one model, then a stretch of the other.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.truth import chain
from benchmarks.truth.book import ROOT, Book, Row
from benchmarks.truth.trials import facts_of, runner_of
from workers.engines.containment import measure_environment

PART, PEERS = "planted", "peers"
EFFECTS = (0, 1, 2, 5, 10)
TURNS, QUICK_TURNS = 40, 2
PEER_CALLS = 100
CALIBRATIONS, CALIBRATION_ROUNDS = 5, 300
COMMAND = (sys.executable, "benchmarks/truth/chain_process.py")


def measure(book: Book, *, quick: bool) -> None:
    """Calibrate, then turn by turn through all effects."""
    for seed in range(1 if quick else CALIBRATIONS):
        key = f"{PART}/calibration/{seed}"
        if not (book.has(key) or book.is_full()):
            arguments = {"seed": seed, "rounds": CALIBRATION_ROUNDS, "lengths": [100 + effect for effect in EFFECTS]}
            print_calibration(book.add(PART, key, {"kind": "calibration", **run_task("calibrate", arguments)}))
    with runner_of(COMMAND) as runner:
        for turn in range(QUICK_TURNS if quick else TURNS):
            for percent in EFFECTS:
                key = f"{PART}/{percent}/{turn}"
                if book.is_full():
                    return
                if not book.has(key):
                    subject, recipe = chain.subject_of(percent, turn), chain.recipe_of(percent)
                    facts = facts_of(runner.measure(subject, recipe, variables={}))
                    print_row(book.add(PART, key, {"kind": "trial", "percent": percent, "turn": turn, **facts}))


def measure_as_peers(book: Book, *, quick: bool) -> None:
    """The same effects by stretches of 100 calls each, in a fresh process."""
    for turn in range(QUICK_TURNS if quick else TURNS):
        for percent in EFFECTS:
            key = f"{PEERS}/{percent}/{turn}"
            if book.is_full():
                return
            if not book.has(key):
                facts = run_task("peers", {"percent": percent, "seed": turn, "calls": PEER_CALLS})
                row = book.add(PEERS, key, {"percent": percent, "turn": turn, **facts})
                ratio = sum(row["baseline_ms"]) / sum(row["candidate_ms"])
                print(f"  {percent:3} % planted, mean of {PEER_CALLS} unpaired: {ratio:.4f}", flush=True)


def run_task(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the chain's process prints, started in the environment of a measure process."""
    with tempfile.TemporaryDirectory(prefix="bench-truth-") as folder:
        started = measure_environment(Path(folder), 1, f"truth/{name}")
        command = [*COMMAND, "--task", name, json.dumps(arguments)]
        done = subprocess.run(command, cwd=ROOT, env=started, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def print_calibration(row: Row) -> None:
    """What each length took, over the shortest."""
    shortest = row["low_ms"][0]
    told = ", ".join(f"{length}: {ms / shortest:.4f}" for length, ms in zip(row["lengths"], row["low_ms"], strict=True))
    print(f"  calibration, time over {row['lengths'][0]} blocks ({shortest:.2f} ms): {told}", flush=True)


def print_row(row: Row) -> None:
    """One line."""
    if "speed" not in row:
        print(f"  {row['percent']:3} % planted: {row['outcome']}: {row['reason'][:90]}", flush=True)
        return
    speed = row["speed"]
    told = f"{speed['value']:.4f} ({speed['low']:.4f} to {speed['high']:.4f})"
    print(f"  {row['percent']:3} % planted: {told}  {len(row['pairs_ms'])} pairs, {row['seconds']:.1f} s", flush=True)
