"""A realistic run as spool events, made from real records: for tests of storage, the hub and the pages.

Every number follows from the seed. `make_run_events` returns plain dictionaries {"kind", "data"} in the order a run
process writes them; `spool_events` writes them to a spool folder, or to any open writer.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from hybrid_core.config import HybridOptimizationConfig, RunConfig
from hybrid_core.records import (
    Estimate,
    Measurement,
    Outcome,
    Purpose,
    Quality,
    Recipe,
    Subject,
    Trial,
    Workload,
    to_json,
)
from storage.spool import SpoolWriter

START_TIME = 1_790_000_000.0
WEIGHTS = (0.4, 0.3, 0.3)
FAILURES = (
    (Outcome.UNSUPPORTED, "transform", "no C++ compiler was found; install g++ to use compile"),
    (Outcome.WRONG, "correctness", "max error 3.1e-1 > 1e-2 on input 2 of 3"),
    (Outcome.TIMEOUT, "compile", "compile did not end within 120 s"),
)
RECIPES = (
    {"attention_fusion": "sdpa"},
    {"quantization": "int8_dynamic"},
    {"kernel_fusion": "compile"},
    {"quantization": "bfloat16"},
    {"memory_pooling": "in_place"},
    {"attention_fusion": "sdpa", "quantization": "int8_dynamic"},
    {"attention_fusion": "sdpa", "kernel_fusion": "compile"},
    {"attention_fusion": "sdpa", "memory_pooling": "in_place"},
    {"kernel_fusion": "compile", "quantization": "bfloat16"},
)


def make_subject(model: str = "llama", device: str = "cpu") -> Subject:
    """What the sample runs optimize."""
    return Subject(model, "tiny", Workload("prefill", "prefill", 1, 512), device, threads=2, seed=0)


def make_config(model: str = "llama", device: str = "cpu", note: str = "") -> RunConfig:
    """What a person asked for."""
    options = HybridOptimizationConfig(enable_rl_optimization=False)
    return RunConfig(model, workload="prefill", device=device, threads=2, budget_s=120.0, note=note, options=options)


def make_measurement(rng: random.Random, speed: float, memory: float, accuracy: float) -> Measurement:
    """A measurement around the given ratios, with raw samples that belong to them."""
    pairs = tuple((12.0 * rng.uniform(0.97, 1.03), 12.0 / speed * rng.uniform(0.97, 1.03)) for _ in range(24))
    value = round(0.41 * accuracy, 6)
    return Measurement(
        speed_improvement=Estimate(speed, speed * 0.98, speed * 1.02),
        memory_efficiency=Estimate.exact(memory),
        accuracy_preservation=Estimate(accuracy, accuracy - 0.005, accuracy + 0.005),
        latency_ms=Estimate(12.0 / speed, 11.8 / speed, 12.2 / speed),
        baseline_latency_ms=Estimate(12.0, 11.8, 12.2),
        peak_bytes=int(40_000_000 / memory),
        baseline_peak_bytes=40_000_000,
        weight_bytes=int(26_000_000 / memory),
        baseline_weight_bytes=26_000_000,
        resident_bytes=410_000_000,
        first_call_s=0.02,
        baseline_first_call_s=0.015,
        break_even_calls=3 if speed > 1 else None,
        quality=Quality(
            "next-byte accuracy",
            64,
            Estimate(value, value - 0.01, value + 0.01),
            Estimate(0.41, 0.40, 0.42),
            {"bits_per_byte": 2.31, "top1_agreement": 0.993, "kl_nats": math.nan},
        ),
        max_abs_error=1e-6,
        stop_reason="interval narrower than ±2 %",
        pairs_ms=pairs,
        changes=("replaced 4 of 4 eager attentions by scaled_dot_product_attention",),
        warnings=(),
        environment={"torch": "2.13.0", "cpu": "Example CPU", "threads": 2, "seed": 0},
    )


def make_trial(run_id: str, recipe: Recipe, purpose: Purpose, rng: random.Random, started_at: float) -> Trial:
    """One trial; about one in four of the searched ones fails with a named cause."""
    common = {"trial_id": f"{run_id}:{purpose}:{recipe.key}", "run_id": run_id, "recipe": recipe, "purpose": purpose}
    if purpose is Purpose.SEARCH and rng.random() < 0.25:
        outcome, stage, reason = rng.choice(FAILURES)
        return Trial(**common, outcome=outcome, stage=stage, reason=reason, started_at=started_at, seconds=4.0)
    ratios = (
        [1.0, 1.0, 1.0] if recipe.is_baseline else [rng.uniform(0.7, 1.6), rng.uniform(0.8, 2.0), rng.uniform(0.96, 1)]
    )
    phases = {"build": 0.4, "transform": 0.2, "correctness": 0.3, "timing": 3.0}
    return Trial(
        **common,
        outcome=Outcome.OK,
        measurement=make_measurement(rng, *(round(r, 6) for r in ratios)),
        started_at=started_at,
        seconds=5.5,
        phases_s=phases,
    )


def fitness_of(trial: Trial) -> Estimate | None:
    """The weighted sum under the default weights, worked out here and not by the code under test."""
    if trial.measurement is None:
        return None
    m = trial.measurement
    ratios = (m.speed_improvement, m.memory_efficiency, m.accuracy_preservation)
    ends = [
        math.fsum(w * getattr(r, end) for w, r in zip(WEIGHTS, ratios, strict=True)) for end in ("value", "low", "high")
    ]
    return Estimate(*ends)


def make_run_events(run_id: str, seed: int, trials: int = 8) -> list[dict[str, Any]]:
    """The events of a whole finished run: start, baseline, `trials` searched candidates, final race, end."""
    rng = random.Random(seed)
    start = {"pid": 4321, "config": make_config(), "subject": make_subject(), "space": {"available": len(RECIPES)}}
    events = [("run_started", start)]
    moment = START_TIME + 1.0
    recipes = [Recipe.from_dict(RECIPES[k % len(RECIPES)]) for k in range(min(trials, len(RECIPES)))]
    planned = [(Recipe(), Purpose.BASELINE), *((recipe, Purpose.SEARCH) for recipe in recipes)]
    measured: list[Trial] = []
    for recipe, purpose in planned:
        measured.append(_race(events, make_trial(run_id, recipe, purpose, rng, moment), len(planned), len(measured)))
        moment += 6.0
    good = [t for t in measured if t.is_ok and not t.recipe.is_baseline]
    finalists = sorted(good, key=lambda t: fitness_of(t).value, reverse=True)[:2]  # type: ignore[union-attr]
    finals = [
        _race(events, make_trial(run_id, recipe, Purpose.FINAL, rng, moment + 6.0 * k), len(planned), len(measured))
        for k, recipe in enumerate([*(t.recipe for t in finalists), Recipe()])
    ]
    best = max(finals, key=lambda t: fitness_of(t).value)  # type: ignore[union-attr]
    winner = {"recipe": best.recipe, "key": best.recipe.key}
    stop = "every recipe of the space was measured"
    result = {
        "winner": winner,
        "fitness": fitness_of(best),
        "front": [best.recipe.key],
        "stop_reason": stop,
        "noise_floor": 0.012,
    }
    events.append(("result", result))
    events.append(("run_finished", {"state": "finished", "cause": stop, "winner": winner}))
    return [{"kind": kind, "data": to_json(data)} for kind, data in events]


def _race(events: list[tuple[str, dict[str, Any]]], trial: Trial, planned: int, done: int) -> Trial:
    fitness, key = fitness_of(trial), trial.recipe.key
    told = {"trial_id": trial.trial_id, "recipe": trial.recipe, "key": key, "purpose": trial.purpose, "iteration": 0}
    events.append(("trial_started", {**told, "expected_s": 6.0}))
    events.append(("phase", {"trial_id": trial.trial_id, "phase": "timing"}))
    events.append(("heartbeat", {"trial_id": trial.trial_id, "phase": "timing"}))
    verdict = None if fitness is None else "better" if fitness.low > 1.0 else "tie"
    reason = trial.reason or None
    finished = {"trial": trial, "fitness": fitness, "verdict": verdict, "infeasible_reason": reason, "iteration": 0}
    events.append(("trial_finished", finished))
    progress = {
        "stage": str(trial.purpose),
        "iteration": 0,
        "done": done + 1,
        "planned": planned,
        "elapsed_s": 6.0 * (done + 1),
    }
    events.append(("progress", {**progress, "remaining_s": 30.0, "best_key": key, "sentence": f"measured {key}"}))
    return trial


class StepClock:
    """A clock that moves by a fixed step each time it is read, so that no test waits."""

    def __init__(self, now: float = START_TIME, step: float = 0.25) -> None:
        self.now, self.step = now, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def spool_events(spool_dir: Path, run_id: str, events: list[dict[str, Any]], attempt: int = 1) -> Path:
    """Write the events to a new spool file and return it."""
    with SpoolWriter(spool_dir, run_id, attempt, clock=StepClock()) as writer:
        for event in events:
            writer.write(event["kind"], event["data"])
    return writer.path
