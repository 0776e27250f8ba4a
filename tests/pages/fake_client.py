"""A hub made of rows: realistic runs built from the project's own records, for page tests and the preview.

The columns are those of the named queries, produced from `Trial` and `Measurement`, so a renamed record field breaks
here first. `FakeClient` counts submissions by token as the real hub does and refuses the same configurations.
"""

from __future__ import annotations

import json
import math
import random
import time
from dataclasses import dataclass, field, replace
from typing import Any

from hybrid_core.config import HybridOptimizationConfig, RunConfig
from hybrid_core.errors import HubUnavailable, InvalidInput
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
from tests.pages.fake_catalog import ENVIRONMENT, FORWARD, PREFILL, catalog, size_facts
from tests.pages.fake_learning import told

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


@dataclass
class FakeClient:
    """Answers like `workers.client.Client`, from memory."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    trials: dict[str, list[Trial]] = field(default_factory=dict)
    extra_rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    recommendations: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    submissions: dict[str, dict[str, Any]] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    brought: dict[str, dict[str, Any]] = field(default_factory=dict)
    exports: dict[str, dict[str, Any]] = field(default_factory=dict)
    conflicts: list[dict[str, Any]] = field(default_factory=list)
    told: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)
    allows_code: bool = False
    gpus: int = 0
    is_down: bool = False
    loses_answers: int = 0
    the_catalog: dict[str, Any] = field(default_factory=catalog)

    def add_run(self, run_id: str, state: RunState, trials: list[Trial], **kw: Any) -> None:
        self.trials[run_id] = trials
        self.runs[run_id] = run_row(run_id, state, trials, **kw)

    def submit(self, config: dict[str, Any], token: str = "") -> str:
        self._check()
        checked = RunConfig.from_json(config)
        if checked.model not in {m["name"] for m in self.the_catalog["models"]}:
            raise InvalidInput(f"model {checked.model!r} is unknown; choose one of convnet, llama, sequential")
        if token not in self.submissions:
            self.submissions[token] = config
            run_id = f"run-{len(self.submissions)}"
            self.add_run(run_id, RunState.QUEUED, [], started_at=None, model=checked.model)
        if self.loses_answers:
            self.loses_answers -= 1
            raise HubUnavailable("the hub closed the connection before it answered; press start again")
        return f"run-{list(self.submissions).index(token) + 1}"

    def cancel(self, run_id: str) -> str:
        self._check()
        self.cancelled.append(run_id)
        return f"Run {run_id} stops as soon as the current candidate is put away."

    def query(self, name: str, **params: Any) -> list[dict[str, Any]]:
        self._check()
        if name in self.extra_rows:
            return self.extra_rows[name]
        return getattr(self, f"_{name}")(**params)

    def catalog(self) -> dict[str, Any]:
        self._check()
        return self.the_catalog

    def bring_model(self, kind: str, path: str, name: str, labels: str = "") -> str:
        self._check()
        if not name.replace("-", "").isalnum() or not path.startswith("/"):
            raise InvalidInput(f"name={name!r:.60} or path={path!r:.60} is not allowed; use a full path")
        known = self.brought.get(name)
        if known is None or known["state"] == "refused":
            self.brought[name] = brought_row(name, "checking", kind=kind, path=path, labels=labels)
        return str(self.brought[name]["model_id"])

    def finish_inspection(self, name: str, reason: str = "") -> None:
        self.brought[name].update(state="refused" if reason else "ready", reason=reason, ended_at=NOW)
        if not reason:
            self.the_catalog = {**self.the_catalog, "models": [*self.the_catalog["models"], brought_model(name)]}

    def forget_model(self, name: str) -> str:
        self._check()
        self.brought.pop(name)
        models = [m for m in self.the_catalog["models"] if m["name"] != name]
        self.the_catalog = {**self.the_catalog, "models": models}
        return f"Model {name} was forgotten. Its files and the runs that measured it are untouched."

    def recommend(self, model: str, workload: str = "", device: str = "cpu") -> list[dict[str, Any]]:
        self._check()
        return self.recommendations.get(model, [])

    def handover(self, run_id: str) -> dict[str, Any]:
        self._check()
        if not self.runs[run_id]["winner_key"]:
            raise InvalidInput(f"run {run_id} has no winner to hand over; wait until it is finished")
        recipe = Recipe.from_key(self.runs[run_id]["winner_key"]).to_dict()
        code = f"from hybrid_core import apply_recipe\n\nrecipe = {recipe!r}\nprint(apply_recipe, recipe)\n"
        return {"recipe_json": json.dumps({"format": 1, "recipe": recipe}, indent=2), "code": code}

    def export(self, run_id: str) -> dict[str, Any]:
        self._check()
        self.exports[run_id] = {"state": "working", "phase": "building"}
        return self.export_state(run_id)

    def export_state(self, run_id: str) -> dict[str, Any]:
        self._check()
        nothing = {"state": "", "phase": "", "reason": "", "bytes": 0, "path": "", "max_bytes": 64 << 20}
        return {**nothing, "run_id": run_id, **self.exports.get(run_id, {})}

    def read_export(self, run_id: str) -> bytes:
        self._check()
        return b"zip of " + run_id.encode()

    def status(self) -> dict[str, Any]:
        self._check()
        code = {"allow_code": self.allows_code, "allowed_packages": ["my_package"] if self.allows_code else []}
        return {"pid": 4242, "uptime_s": 3600.0, "queued": 0, "banner": "", **code}

    def _check(self) -> None:
        if self.is_down:
            raise HubUnavailable("the hub did not answer within 60 s; see the log at /data/logs/hub.log")

    def _runs(self, limit: int = 50) -> list[dict[str, Any]]:
        return sorted(self.runs.values(), key=lambda r: -r["created_at"])[:limit]

    def _run(self, run_id: str) -> list[dict[str, Any]]:
        row = self.runs.get(run_id)
        return [{**row, "result_json": json.dumps(self.results.get(run_id))}] if row else []

    def _trials(self, run_id: str) -> list[dict[str, Any]]:
        return [trial_row(t) for t in self.trials.get(run_id, [])]

    def _trial(self, trial_id: str) -> list[dict[str, Any]]:
        for trials in self.trials.values():
            for t in trials:
                if t.trial_id == trial_id and t.measurement:
                    data = to_json(t.measurement)
                    return [{"measurement_json": json.dumps(data), "environment_json": json.dumps(data["environment"])}]
        return []

    def _events(self, run_id: str, after: int = 0, limit: int = 500) -> list[dict[str, Any]]:
        rows = []
        for i, t in enumerate(self.trials.get(run_id, []), 1):
            data = {"trial_id": t.trial_id, "recipe": to_json(t.recipe), "key": t.recipe.key, "trial": to_json(t)}
            rows.append(
                {
                    "event_id": i,
                    "time": t.started_at + t.seconds,
                    "kind": "trial_finished",
                    "data_json": json.dumps(data),
                }
            )
        for i, (kind, data) in enumerate(self.told.get(run_id, []), len(rows) + 1):
            rows.append({"event_id": i, "time": NOW - 30, "kind": kind, "data_json": json.dumps(data)})
        return [r for r in rows if r["event_id"] > after][:limit]

    def _leaderboard(self, model: str = "", device: str = "", limit: int = 200) -> list[dict[str, Any]]:
        rows = [r for r in self.runs.values() if r["state"] == "finished" and r["winner_key"]]
        rows = [r for r in rows if (not model or r["model"] == model) and (not device or r["device"] == device)]
        more = {
            "latency_ms": 62.7,
            "baseline_latency_ms": 84.0,
            "peak_bytes": 16_000_000,
            "baseline_peak_bytes": 22_000_000,
        }
        return [{**r, **more} for r in sorted(rows, key=lambda r: -(r["fitness"] or 0))][:limit]

    def _device_samples(self, device: str, since: float, max_points: int = 600) -> list[dict[str, Any]]:
        rng, is_gpu = random.Random(len(device)), device != "cpu"
        rows, level = [], 55.0
        for i in range(180):
            level = min(100.0, max(2.0, level + rng.gauss(0, 6)))
            rows.append(
                {
                    "time": NOW - 10 * (180 - i),
                    "utilization_percent": level,
                    "memory_used_bytes": int((3.1 + 0.004 * level) * 2**30),
                    "memory_total_bytes": (80 if is_gpu else 8) * 2**30,
                    "power_w": 90 + 3 * level if is_gpu else math.nan,
                    "temperature_c": 41 + level / 6 if is_gpu else None,
                    "clock_mhz": 1755.0 if is_gpu else None,
                    "detail_json": "{}",
                }
            )
        return [r for r in rows if r["time"] >= since][-max_points:]

    def _devices(self) -> list[dict[str, Any]]:
        ids = ["cpu"] + [f"GPU-{i}d3c9a7e-0000-1111-2222-{i:012d}" for i in range(self.gpus)]
        rows = []
        for name in ids:
            latest = self._device_samples(name, 0.0)[-1]
            latest["last_time"] = latest.pop("time")
            title = "Processor, 2 cores" if name == "cpu" else "NVIDIA H100 80GB HBM3"
            held = [] if name == "cpu" else [{"pid": 311, "name": "python", "memory_bytes": 2**31}]
            rows.append(
                {
                    "device": name,
                    "kind": "cpu" if name == "cpu" else "gpu",
                    "title": title,
                    **latest,
                    "processes_json": json.dumps(held),
                }
            )
        return rows

    def _brought_models(self) -> list[dict[str, Any]]:
        return [dict(row) for _, row in sorted(self.brought.items())]

    def _synergies(self, run_id: str = "", **_: Any) -> list[dict[str, Any]]:
        pair = "attention_fusion=sdpa_causal+kernel_fusion=compile"
        if run_id != "r-done":
            return []
        shared = {"run_id": run_id, "recipe_key": pair, "steps": 2, "trials_json": "[]"}
        ratios = {"measured": Estimate(1.35, 1.33, 1.37), "product": Estimate(1.43, 1.4, 1.46)}
        speed = {**ratios, "synergy": Estimate(0.944, 0.92, 0.968)}
        memory = {name: Estimate.exact(1.0) for name in ratios} | {"synergy": Estimate.exact(1.0)}
        rows = (("speed", speed, "worse together"), ("memory", memory, "as expected"))
        return [
            {**shared, "objective": objective, "verdict": verdict}
            | {key: value for name, estimate in found.items() for key, value in three(name, estimate).items()}
            for objective, found, verdict in rows
        ]

    def _conflicts(self, **_: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in self.conflicts]

    def forget_conflict(self, conflict_id: str) -> str:
        self._check()
        self.conflicts = [row for row in self.conflicts if row["conflict_id"] != conflict_id]
        return "The recipe may be tried again; if it fails again, that is remembered again."

    def _workers(self) -> list[dict[str, Any]]:
        rows = []
        for run_id, row in self.runs.items():
            if row["state"] == "running":
                current = f"{run_id}:search:attention_fusion=sdpa_causal+kernel_fusion=compile"
                rows.append(
                    {
                        "run_id": run_id,
                        "pid": 900,
                        "attempt": 1,
                        "state": "active",
                        "heartbeat_at": NOW - 1,
                        "current_trial": current,
                        "current_phase": "timing",
                        "started_at": row["started_at"],
                    }
                )
        return rows


def recommendation(key: str = "attention_fusion=sdpa_causal", **kw: Any) -> dict[str, Any]:
    """One recommendation as the hub sends it."""
    said = "Measured 7 times on llama models on cpu: 1.21x speed (95 % interval 1.17 to 1.26)."
    row = {"recipe": Recipe.from_key(key).to_dict(), "source": "history", "n": 7, "sentence": said, "device": "cpu"}
    return {**row, "speed": to_json(Estimate(1.21, 1.17, 1.26)), "failure_share": 0.0, **kw}


def busy_client() -> FakeClient:
    """One of everything: a running run, a queued one, finished, failed and cancelled ones, and recommendations."""
    client = FakeClient()
    running = llama_trials("r-live", NOW - 130)[:9]
    client.add_run(
        "r-live", RunState.RUNNING, running, started_at=NOW - 130, created_at=NOW - 131, progress_json=progress(running)
    )
    client.add_run(
        "r-queued",
        RunState.QUEUED,
        [],
        started_at=None,
        created_at=NOW - 60,
        model="convnet",
        workload="forward",
        workload_label=FORWARD.label,
    )
    client.add_run(
        "r-done",
        RunState.FINISHED,
        llama_trials("r-done", NOW - 4000),
        created_at=NOW - 4000,
        started_at=NOW - 3998,
        ended_at=NOW - 3760,
    )
    nothing = [
        trial("r-none", {}, NOW - 9000, Purpose.BASELINE, numbers=(1.0, 1.0, 1.0)),
        trial("r-none", {"quantization": "bfloat16"}, NOW - 8980, numbers=(0.4, 1.5, 0.99)),
        trial("r-none", {}, NOW - 8960, Purpose.FINAL, numbers=(1.001, 1.0, 1.0)),
    ]
    client.add_run(
        "r-none",
        RunState.FINISHED,
        nothing,
        model="sequential",
        workload="forward",
        workload_label=FORWARD.label,
        winner_key="baseline",
        created_at=NOW - 9001,
        started_at=NOW - 9000,
        ended_at=NOW - 8900,
        fitness=1.0,
        fitness_low=0.99,
        fitness_high=1.01,
        speed=1.001,
        speed_low=0.985,
        speed_high=1.016,
        memory=1.0,
        memory_low=1.0,
        memory_high=1.0,
        accuracy=1.0,
        accuracy_low=0.99,
        accuracy_high=1.01,
    )
    client.add_run(
        "r-failed",
        RunState.FAILED,
        [],
        cause="the worker ended with signal 9 three times in a row",
        created_at=NOW - 20_000,
        started_at=NOW - 19_990,
    )
    client.add_run(
        "r-cancelled",
        RunState.CANCELLED,
        llama_trials("r-cancelled", NOW - 30_000)[:3],
        cause="cancelled on request",
        created_at=NOW - 30_001,
        started_at=NOW - 30_000,
    )
    client.brought = {
        "my-bert": brought_row("my-bert", "ready"),
        "my-new": brought_row("my-new", "checking"),
        "my-odd": brought_row("my-odd", "refused", reason="config.json has the key 'auto_map', which is not allowed"),
    }
    client.the_catalog["models"].append(brought_model())
    client.told = {"r-live": told(7), "r-done": told()}
    client.results["r-done"] = {
        "winner": {"attention_fusion": "sdpa_causal", "kernel_fusion": "compile"},
        "sentence": "The final race measured it as 1.35 times as fast, with the same accuracy.",
        "stop_reason": "Fitness grew by less than 1 % in the last iteration.",
        "verdicts": {"speed": "better", "memory": "better", "accuracy": "tie"},
        "noise_floor": 0.012,
        "iterations": 2,
        "front": [],
        "noise": {"sentence": "two measurements of the same thing differ by up to 1.2 % on this device today"},
        "detectable": 0.021,
        "cost": {
            "wall_s": 200.0,
            "processes": 19,
            "orchestration_share": 0.03,
            "parts_s": {"measuring": 120.0, "process start and imports": 74.0, "orchestration": 6.0},
        },
    }
    client.results["r-none"] = {
        "winner": {},
        "sentence": "Nothing was faster than the untouched model within the accuracy bound, so it stays as it is.",
        "verdicts": {"speed": "tie", "memory": "tie", "accuracy": "tie"},
        "stop_reason": "All recipes were tried.",
        "noise_floor": 0.02,
        "iterations": 1,
        "front": [],
    }
    client.recommendations = {
        "llama": [
            recommendation(),
            recommendation("quantization=int8_dynamic", speed=to_json(Estimate(0.84, 0.8, 0.88))),
        ],
        "convnet": [
            recommendation(
                "kernel_fusion=fold",
                source="document",
                n=0,
                speed=None,
                sentence="The document lists kernel fusion first for this family.",
            )
        ],
    }
    return client


DEFAULT_OPTIONS = HybridOptimizationConfig()
