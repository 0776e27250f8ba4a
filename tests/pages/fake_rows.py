"""Runs, trials and models as the hub sends them, built from the project's own records.

The columns are those of the named queries, produced from `Trial` and `Measurement`, so a renamed record field breaks
here first.
"""

from __future__ import annotations

import json
import math
import random
import time
from dataclasses import replace
from typing import Any

from hybrid_core.config import RunConfig
from hybrid_core.records import (
    Estimate,
    Measurement,
    Outcome,
    Purpose,
    Quality,
    Recipe,
    RunState,
    Trial,
    to_json,
)
from tests.pages.fake_catalog import ENVIRONMENT, FORWARD, PREFILL, size_facts

NOW = time.time()
WEIGHTS = {"speed": 0.4, "memory": 0.3, "accuracy": 0.3}


def measurement(speed: float, memory: float, accuracy: float, *, spread: float = 0.015, seed: int = 0) -> Measurement:
    """A measurement with consistent raw pairs: baseline about 84 ms."""
    rng = random.Random(seed)
    base_ms, base_peak, base_weights = 84.0, 21 * 2**20, 12 * 2**20
    pairs = tuple(
        (base_ms * math.exp(rng.gauss(0, 0.02)), base_ms / speed * math.exp(rng.gauss(0, 0.02))) for _ in range(48)
    )
    first_call = 0.11 if speed < 1.1 else 7.9
    return Measurement(
        speed_improvement=Estimate(speed, speed * (1 - spread), speed * (1 + spread)),
        memory_efficiency=Estimate.exact(memory),
        accuracy_preservation=Estimate(accuracy, accuracy - 0.006, accuracy + 0.006),
        latency_ms=Estimate(base_ms / speed, base_ms / speed * 0.985, base_ms / speed * 1.015),
        baseline_latency_ms=Estimate(base_ms, base_ms * 0.985, base_ms * 1.015),
        peak_bytes=round(base_peak / memory),
        baseline_peak_bytes=base_peak,
        weight_bytes=round(base_weights / memory),
        baseline_weight_bytes=base_weights,
        resident_bytes=412 * 2**20,
        first_call_s=first_call,
        baseline_first_call_s=0.1,
        break_even_calls=None if speed <= 1 else round((first_call - 0.1) * 1000 / (base_ms - base_ms / speed)),
        quality=Quality(
            "next-byte accuracy",
            64,
            Estimate(0.561 * accuracy, 0.552 * accuracy, 0.57 * accuracy),
            Estimate(0.561, 0.552, 0.57),
            {"top1_agreement": 0.98, "kl_nats": 0.0012, "bits_per_byte": 2.21, "baseline_bits_per_byte": 2.2},
        ),
        max_abs_error=3.1e-5,
        stop_reason="95 % interval narrower than 2 % after 48 pairs",
        pairs_ms=pairs,
        changes=("replaced 4 of 4 eager attentions by scaled_dot_product_attention (layers.0.attention.core, ...)",),
        warnings=("another process used 40 % of the processor during the timed phase",) if seed % 3 == 2 else (),
        environment=ENVIRONMENT,
    )


def trial(run_id: str, recipe: dict[str, str], at: float, purpose: Purpose = Purpose.SEARCH, **kw: Any) -> Trial:
    """One finished trial; `numbers=(speed, memory, accuracy)` or `outcome=` and `reason=`."""
    made, numbers = Recipe.from_dict(recipe), kw.pop("numbers", None)
    outcome = kw.pop("outcome", Outcome.OK)
    return Trial(
        trial_id=f"{run_id}:{purpose}:{made.key}",
        run_id=run_id,
        recipe=made,
        purpose=purpose,
        outcome=outcome,
        measurement=measurement(*numbers, seed=int(at) % 97) if numbers else None,
        started_at=at,
        seconds=kw.pop("seconds", 11.0),
        **kw,
    )


def fitness(m: Measurement) -> Estimate:
    """The weighted sum and its ends."""
    parts = ((WEIGHTS["speed"], m.speed_improvement), (WEIGHTS["memory"], m.memory_efficiency))
    parts = (*parts, (WEIGHTS["accuracy"], m.accuracy_preservation))
    return Estimate(
        sum(w * e.value for w, e in parts), sum(w * e.low for w, e in parts), sum(w * e.high for w, e in parts)
    )


def three(name: str, estimate: Estimate | None) -> dict[str, Any]:
    """A value and its interval as the three columns of a query."""
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def trial_row(t: Trial) -> dict[str, Any]:
    """The columns of the `trials` query."""
    m = t.measurement
    score = fitness(m) if m else None
    bad = (
        "accuracy 0.941 [0.935, 0.947] may lie below the bound 0.98"
        if m and score and m.accuracy_preservation.low < 0.95
        else None
    )
    return {
        "trial_id": t.trial_id,
        "recipe_key": t.recipe.key,
        "recipe_json": json.dumps(to_json(t.recipe)),
        "purpose": str(t.purpose),
        "outcome": str(t.outcome),
        "reason": t.reason,
        "stage": t.stage,
        "iteration": 1,
        "verdict": None if m is None else "better" if m.speed_improvement.low > 1.02 else "tie",
        "infeasible_reason": bad,
        "started_at": t.started_at,
        "seconds": t.seconds,
        **three("fitness", score),
        **three("speed", m and m.speed_improvement),
        **three("memory", m and m.memory_efficiency),
        **three("accuracy", m and m.accuracy_preservation),
        "latency_ms": m and m.latency_ms.value,
        "baseline_latency_ms": m and m.baseline_latency_ms.value,
        "peak_bytes": m and m.peak_bytes,
        "baseline_peak_bytes": m and m.baseline_peak_bytes,
        "weight_bytes": m and m.weight_bytes,
        "baseline_weight_bytes": m and m.baseline_weight_bytes,
        "first_call_s": m and m.first_call_s,
        "break_even_calls": m and m.break_even_calls,
        "pairs": m and len(m.pairs_ms),
        "stop_reason": m and m.stop_reason,
        "max_abs_error": m and m.max_abs_error,
        "quality_metric": m and m.quality.metric,
        "quality_value": m and m.quality.value.value,
        "quality_baseline": m and m.quality.baseline_value.value,
        "quality_samples": m and m.quality.samples,
        "warnings_json": json.dumps(list(m.warnings) if m else []),
        "changes_json": json.dumps(list(m.changes) if m else []),
        "log_tail": t.log_tail,
    }


def llama_trials(run_id: str, start: float) -> list[Trial]:
    """A believable search: some win, one ties, one is too inaccurate, three fail with different causes."""
    s, q, k, m = "attention_fusion", "quantization", "kernel_fusion", "memory_pooling"
    plan: list[tuple[dict[str, str], Any, dict[str, Any]]] = [
        ({}, (1.003, 1.0, 1.0), {"purpose": Purpose.BASELINE}),
        ({s: "sdpa"}, (1.12, 1.31, 1.0), {}),
        ({s: "sdpa_causal"}, (1.21, 1.36, 1.0), {}),
        (
            {k: "fold"},
            None,
            {
                "outcome": Outcome.UNSUPPORTED,
                "reason": "no norm is followed by a linear layer whose weights could take its scale",
                "stage": "transform",
                "seconds": 3.0,
            },
        ),
        ({q: "int8_dynamic"}, (0.83, 1.92, 0.941), {}),
        ({q: "bfloat16"}, (0.41, 1.52, 0.997), {}),
        ({k: "compile"}, (1.18, 1.12, 1.0), {"seconds": 31.0}),
        (
            {m: "micro_batch"},
            None,
            {
                "outcome": Outcome.UNSUPPORTED,
                "reason": "the batch is 1, so there is nothing to slice",
                "stage": "transform",
                "seconds": 2.0,
            },
        ),
        ({s: "sdpa_causal", k: "compile"}, (1.34, 1.37, 1.0), {"seconds": 33.0}),
        (
            {q: "float16_weights", k: "compile_freezing"},
            None,
            {
                "outcome": Outcome.CRASHED,
                "reason": "the compiler ended with signal 11 while lowering a half precision matmul",
                "stage": "compile",
                "seconds": 24.0,
                "log_tail": "loading inductor\nfatal: signal 11",
            },
        ),
        ({s: "sdpa", m: "in_place"}, (1.13, 1.42, 1.0), {}),
        ({s: "sdpa_causal", k: "compile", m: "in_place"}, (1.33, 1.37, 0.9996), {"seconds": 34.0}),
        ({s: "sdpa_causal", k: "compile"}, (1.35, 1.37, 1.0), {"purpose": Purpose.FINAL, "seconds": 36.0}),
        ({}, (0.998, 1.0, 1.0), {"purpose": Purpose.FINAL}),
    ]
    trials, at = [], start + 2
    rounds = [{"ratio": r, "low": r - 0.01, "high": r + 0.01, "pairs": 16, "seconds": 12.0} for r in (1.33, 1.35, 1.37)]
    for recipe, numbers, kw in plan:
        made = trial(run_id, recipe, at, numbers=numbers, **kw)
        if made.measurement and recipe and made.purpose is Purpose.FINAL:
            environment = {**made.measurement.environment, "rounds": rounds}
            made = replace(made, measurement=replace(made.measurement, environment=environment))
        trials.append(made)
        at += made.seconds + 0.5
    return trials


def run_row(run_id: str, state: RunState, trials: list[Trial], **kw: Any) -> dict[str, Any]:
    """The columns of the `runs` query; the winner is the last ok FINAL trial that is no baseline."""
    rows = [trial_row(t) for t in trials]
    finals = [r for r in rows if r["purpose"] == "final" and r["outcome"] == "ok" and r["recipe_key"] != "baseline"]
    winner = finals[0] if finals and state is RunState.FINISHED else None
    names = [f"{n}{e}" for n in ("fitness", "speed", "memory", "accuracy") for e in ("", "_low", "_high")]
    config = RunConfig(model=kw.get("model", "llama"), workload=kw.get("workload", "prefill"), budget_s=240.0)
    row: dict[str, Any] = {
        "run_id": run_id,
        "state": str(state),
        "cause": "",
        "note": "",
        "created_at": NOW - 300,
        "started_at": NOW - 298,
        "ended_at": NOW - 20 if state in (RunState.FINISHED, RunState.FAILED, RunState.CANCELLED) else None,
        "model": "llama",
        "size": "tiny",
        "workload": "prefill",
        "workload_label": PREFILL.label,
        "device": "cpu",
        "threads": 1,
        "method": "rl",
        "budget_s": 240.0,
        "config_json": json.dumps(to_json(config)),
        "progress_json": None,
        "winner_key": winner["recipe_key"] if winner else None,
        "baseline_fitness": 1.0 if rows else None,
        **{n: (winner[n] if winner else None) for n in names},
        "trials": len(rows),
        "trials_ok": sum(r["outcome"] == "ok" for r in rows),
        "trials_failed": sum(r["outcome"] != "ok" for r in rows),
    }
    return {**row, **kw}


def progress(trials: list[Trial], **kw: Any) -> str:
    """A `progress` event's data as JSON."""
    best = max((fitness(t.measurement).value for t in trials if t.measurement), default=None)
    data = {
        "stage": "pairs",
        "iteration": 1,
        "done": len(trials),
        "planned": 14,
        "elapsed_s": 128.0,
        "remaining_s": 112.0,
        "best_key": "attention_fusion=sdpa_causal",
        "best_fitness": best,
        "sentence": "Measuring pairs of the settings that won alone.",
    }
    return json.dumps({**data, **kw})


def brought_model(name: str = "my-bert", **changes: Any) -> dict[str, Any]:
    """A model somebody brought, as the catalog tells it once it is ready."""
    facts = {**size_facts(4_385_920), "quality": None, "limits": ["No labelled file was given."], "sources": []}
    return {
        "name": name,
        "family": "bert",
        "title": "BERT encoder",
        "description": "2 layers of width 128, read from a folder of this machine.",
        "sizes": ["full"],
        "workloads": {"full": [{**to_json(FORWARD), "label": FORWARD.label}]},
        "facts": {"full": facts},
        "brought": True,
        "kind": "huggingface",
        "path": f"/home/me/{name}",
        "labels": "",
        "source": "{}",
        **changes,
    }


def brought_row(name: str, state: str, **changes: Any) -> dict[str, Any]:
    """The columns of the `brought_models` query."""
    return {
        "name": name,
        "model_id": f"id-{name}",
        "kind": "huggingface",
        "path": f"/home/me/{name}",
        "labels": "",
        "state": state,
        "reason": "",
        "created_at": NOW - 100,
        "ended_at": None if state == "checking" else NOW - 90,
        **changes,
    }


def recommendation(key: str = "attention_fusion=sdpa_causal", **kw: Any) -> dict[str, Any]:
    """One recommendation as the hub sends it."""
    said = "Measured 7 times on llama models on cpu: 1.21x speed (95 % interval 1.17 to 1.26)."
    row = {"recipe": Recipe.from_key(key).to_dict(), "source": "history", "n": 7, "sentence": said, "device": "cpu"}
    return {**row, "speed": to_json(Estimate(1.21, 1.17, 1.26)), "failure_share": 0.0, **kw}
