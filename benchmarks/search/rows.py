"""What a table keeps of a trial, and the Parquet file that keeps it.

One row is one attempt to measure one recipe in one pass, or what was inferred without an attempt. Times are rounded to
four digits, which is finer than any of them is known. The environment, the subject and the limits stand in the metadata
of the schema, so that a table can be judged without this repository.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hybrid_core.records import Estimate, Measurement, Outcome, Trial

RESULTS = Path(__file__).resolve().parents[1] / "results" / "search"
ABOUT = b"hybrid_search_table"
# What searchers see, and what judges them: further passes make the judgement quieter.
SEEN, JUDGES = "A", "BCDEFGHIJKLM"
RATIOS = ("speed", "memory", "accuracy")
PHASES = ("start", "import", "build", "transform", "compile", "correctness", "warmup", "timing", "memory", "quality")

Row = dict[str, Any]

_TEXT, _NUMBER = pa.string(), pa.float64()
SCHEMA = pa.schema(
    [
        ("recipe", _TEXT),
        ("pass", _TEXT),
        ("attempt", pa.int32()),
        ("outcome", _TEXT),
        ("reason", _TEXT),
        ("stage", _TEXT),
        ("inferred_from", _TEXT),
        *((f"{name}{end}", _NUMBER) for name in RATIOS for end in ("", "_low", "_high")),
        ("quality_samples", pa.int32()),
        ("latency_ms", _NUMBER),
        ("baseline_latency_ms", _NUMBER),
        ("peak_bytes", pa.int64()),
        ("baseline_peak_bytes", pa.int64()),
        ("first_call_s", _NUMBER),
        ("stop_reason", _TEXT),
        ("baseline_ms", pa.list_(pa.float32())),
        ("candidate_ms", pa.list_(pa.float32())),
        ("seconds", _NUMBER),
        *((f"{name}_s", pa.float32()) for name in PHASES),
        ("started_at", _NUMBER),
        ("place", pa.int32()),
        ("block", pa.int32()),
        ("forked", pa.bool_()),
        ("load", pa.float32()),
        ("flagged", pa.bool_()),
        ("conditions", _TEXT),
        ("warnings", pa.list_(_TEXT)),
        ("processor", _TEXT),
        ("versions", _TEXT),
    ]
)


def facts_of(trial: Trial, phases_s: Mapping[str, float], *, with_quality: bool) -> Row:
    """The columns that a trial fills; of pass B neither memory nor quality, which it did not measure for keeps."""
    facts: Row = {
        "outcome": str(trial.outcome),
        "reason": trial.reason,
        "stage": trial.stage,
        "seconds": round(trial.seconds, 3),
        "started_at": round(trial.started_at, 2),
        **{f"{name}_s": round(phases_s[name], 3) for name in PHASES if name in phases_s},
    }
    return facts if trial.measurement is None else facts | _figures_of(trial.measurement, with_quality)


def _figures_of(found: Measurement, with_quality: bool) -> Row:
    conditions = found.environment.get("conditions") or {}
    kept = {name: value for name, value in conditions.items() if not name.startswith("block_") and name != "others"}
    figures: Row = {
        **_ends("speed", found.speed_improvement),
        "latency_ms": _rounded(found.latency_ms.value),
        "baseline_latency_ms": _rounded(found.baseline_latency_ms.value),
        "first_call_s": round(found.first_call_s, 3),
        "stop_reason": found.stop_reason,
        "baseline_ms": [_rounded(pair[0]) for pair in found.pairs_ms],
        "candidate_ms": [_rounded(pair[1]) for pair in found.pairs_ms],
        "flagged": bool(conditions.get("flagged")),
        "conditions": json.dumps(kept, separators=(",", ":")),
        "warnings": list(found.warnings),
    }
    if with_quality:
        figures |= {
            **_ends("memory", found.memory_efficiency),
            **_ends("accuracy", found.accuracy_preservation),
            "quality_samples": found.quality.samples,
            "peak_bytes": found.peak_bytes,
            "baseline_peak_bytes": found.baseline_peak_bytes,
        }
    return figures


def inferred(recipe: str, because: str, outcome: str, reason: str, seconds: float = 0.0) -> Row:
    """A recipe that was not tried, because the single step `because` in it cannot be had or failed."""
    told = reason if recipe == because else f"{because} was {outcome}: {reason}".rstrip(": ")
    facts = {"recipe": recipe, "pass": "A", "attempt": 0, "seconds": seconds, "inferred_from": because}
    return {
        **facts,
        "outcome": str(Outcome.UNSUPPORTED),
        "reason": told,
        "stage": "survey" if not seconds else "single",
    }


def write_table(path: Path, rows: Iterable[Row], about: Mapping[str, Any]) -> None:
    """One compressed file, replaced at once."""
    table = pa.Table.from_pylist([{name: row.get(name) for name in SCHEMA.names} for row in rows], schema=SCHEMA)
    table = table.replace_schema_metadata({ABOUT: json.dumps(about, allow_nan=False).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd", compression_level=19)
    partial.replace(path)


def read_table(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """The rows and what the metadata says about them."""
    table = pq.read_table(path)
    about = json.loads((table.schema.metadata or {}).get(ABOUT, b"null"))
    if about is None:
        raise ValueError(f"{path.name} is no table of the bake-off: its metadata lacks {ABOUT.decode()!r}")
    return table.to_pylist(), about


def estimate_of(row: Row, name: str) -> Estimate:
    """One of the three ratios of a row; what is unknown is NaN."""
    ends = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    return Estimate(*(math.nan if end is None else float(end) for end in ends))


def last_attempts(rows: Sequence[Row], which: str) -> dict[str, Row]:
    """Recipe -> its last row of that pass; one that worked is not replaced by one that did not, and counts as last."""
    found: dict[str, Row] = {}
    for row in (row for row in rows if row["pass"] == which):
        before = found.get(row["recipe"], row)
        if row["attempt"] >= before["attempt"]:
            keeps = before["outcome"] == Outcome.OK != row["outcome"]
            found[row["recipe"]] = {**before, "attempt": row["attempt"]} if keeps else row
    return found


def _ends(name: str, estimate: Estimate) -> Row:
    ends = zip(("", "_low", "_high"), (estimate.value, estimate.low, estimate.high), strict=True)
    return {f"{name}{end}": _rounded(value, 6) for end, value in ends}


def _rounded(value: float, digits: int = 4) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
