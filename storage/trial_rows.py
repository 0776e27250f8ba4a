"""From spool records to table rows: pure functions, so that ingesting is only reading, this, and inserting.

A trial becomes one row whose columns are the numbers that queries sort and draw, plus the whole measurement with its
raw samples as JSON. The event that announced it keeps everything but those raw samples, which would be stored twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hybrid_core.records import Estimate, Measurement, Trial
from storage.runs import to_text
from storage.spool import TRIAL_KINDS, SpoolRecord

# Kept once, in the trial's own row.
_ONLY_IN_TRIAL_ROW = ("pairs_ms", "environment")


def trial_row(record: SpoolRecord) -> dict[str, Any]:
    """The row of a `trial_finished` record.

    Raises:
        KeyError, TypeError, ValueError: the record does not hold a trial of its own run.
    """
    data = record.data
    trial = Trial.from_json(data["trial"])
    if trial.run_id != record.run_id:
        raise ValueError(f"trial of run {trial.run_id!r:.60} in the file of run {record.run_id}")
    iteration = data.get("iteration")
    return {
        "trial_id": clean(trial.trial_id),
        "run_id": record.run_id,
        "attempt": record.attempt,
        "seq": record.seq,
        "recipe_key": clean(trial.recipe.key),
        "recipe_json": to_text(trial.recipe),
        "purpose": str(trial.purpose),
        "outcome": str(trial.outcome),
        "reason": clean(trial.reason),
        "stage": clean(trial.stage),
        "iteration": None if iteration is None else int(iteration),
        "verdict": _text_or_none(data.get("verdict")),
        "infeasible_reason": _text_or_none(data.get("infeasible_reason")),
        "started_at": float(trial.started_at),
        "seconds": float(trial.seconds),
        "phases_json": to_text(trial.phases_s),
        "log_tail": clean(trial.log_tail),
        **_interval("fitness", _estimate_or_none(data.get("fitness"))),
        **_measurement_columns(trial.measurement),
    }


def event_row(record: SpoolRecord) -> dict[str, Any]:
    """The row of any record in the table of events."""
    data = without_raw_samples(record.data) if record.kind in TRIAL_KINDS else record.data
    return {
        "run_id": record.run_id,
        "attempt": record.attempt,
        "seq": record.seq,
        "time": float(record.time),
        "kind": clean(record.kind),
        "data_json": to_text(data),
    }


def without_raw_samples(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data of such an event less what only the trial's row keeps; a round's samples are in its trial's."""
    trial = data.get("trial")
    if not isinstance(trial, Mapping) or not isinstance(trial.get("measurement"), Mapping):
        return dict(data)
    kept = {name: value for name, value in trial["measurement"].items() if name not in _ONLY_IN_TRIAL_ROW}
    return {**data, "trial": {**trial, "measurement": kept}}


def clean(text: str) -> str:
    """Text that is UTF-8: a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _measurement_columns(measured: Measurement | None) -> dict[str, Any]:
    if measured is None:
        return {}
    return {
        **_interval("speed", measured.speed_improvement),
        **_interval("memory", measured.memory_efficiency),
        **_interval("accuracy", measured.accuracy_preservation),
        "latency_ms": _finite(measured.latency_ms.value),
        "baseline_latency_ms": _finite(measured.baseline_latency_ms.value),
        "peak_bytes": measured.peak_bytes,
        "baseline_peak_bytes": measured.baseline_peak_bytes,
        "weight_bytes": measured.weight_bytes,
        "baseline_weight_bytes": measured.baseline_weight_bytes,
        "first_call_s": _finite(measured.first_call_s),
        "break_even_calls": measured.break_even_calls,
        "pairs": len(measured.pairs_ms),
        "stop_reason": clean(measured.stop_reason),
        "max_abs_error": _finite(measured.max_abs_error),
        "quality_metric": clean(measured.quality.metric),
        "quality_value": _finite(measured.quality.value.value),
        "quality_baseline": _finite(measured.quality.baseline_value.value),
        "quality_samples": measured.quality.samples,
        "warnings_json": to_text(measured.warnings),
        "changes_json": to_text(measured.changes),
        "measurement_json": to_text(measured),
    }


def _interval(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {
        name: _finite(estimate.value),
        f"{name}_low": _finite(estimate.low),
        f"{name}_high": _finite(estimate.high),
    }


def _estimate_or_none(value: Any) -> Estimate | None:
    return None if value is None else Estimate.from_json(value)


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _text_or_none(value: Any) -> str | None:
    return None if value is None else clean(str(value))
