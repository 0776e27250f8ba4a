"""A hub made of rows: `FakeClient` for page tests and the preview.

It counts submissions by token as the real hub does and refuses the same configurations.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from typing import Any

from hybrid_core.config import HybridOptimizationConfig, RunConfig
from hybrid_core.errors import HubUnavailable, InvalidInput
from hybrid_core.records import (
    Estimate,
    Purpose,
    Recipe,
    RunState,
    Trial,
    to_json,
)
from tests.pages.fake_catalog import FORWARD, catalog
from tests.pages.fake_learning import told
from tests.pages.fake_rows import (
    NOW,
    brought_model,
    brought_row,
    llama_trials,
    progress,
    recommendation,
    run_row,
    three,
    trial,
    trial_row,
)

WEIGHTS = {"speed": 0.4, "memory": 0.3, "accuracy": 0.3}


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
