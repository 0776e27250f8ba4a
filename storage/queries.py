"""Every question that pages and the command line may ask, by name, with its parameters; answers are Arrow tables.

Nobody outside this folder writes SQL: the hub takes a name and values, both are checked here, and values reach DuckDB
as bound parameters only. The columns of each query are a contract (docs/storage.md lists them, a test holds them).
Times are UTC epoch seconds, unknown is null, an interval is `<name>_low` to `<name>_high`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from hybrid_core.errors import InvalidInput
from storage.connection import Database, DatabaseUnavailable, first_line

MAX_ROWS = 5000
_REQUIRED = object()


@dataclass(frozen=True)
class Parameter:
    """What a query takes: a type, a default unless it is required, and bounds for numbers."""

    kind: type
    default: Any = _REQUIRED
    low: float = 0
    high: float = MAX_ROWS


@dataclass(frozen=True)
class NamedQuery:
    """SQL with `$name` parameters."""

    sql: str
    parameters: dict[str, Parameter] = field(default_factory=dict)


def run_query(db: Database, name: str, params: Mapping[str, Any] | None = None) -> pa.Table:
    """Answer one named query.

    Raises:
        InvalidInput: unknown name, unknown, missing or impossible parameter; the message lists what is allowed.
        DatabaseUnavailable: DuckDB could not answer.
    """
    if not isinstance(name, str) or name not in NAMED:
        raise InvalidInput(f"query {name!r:.60} is unknown; choose one of {', '.join(NAMED)}")
    query = NAMED[name]
    values = _checked(name, query, params or {})
    for attempt in (1, 2):
        try:
            return db.cursor().sql(query.sql, params=values).to_arrow_table()
        except duckdb.Error as error:
            db.note_failure(error)
            # The file may have been opened again under this thread's feet after a fatal error: ask once more.
            if attempt == 2:
                raise DatabaseUnavailable(f"{db.path} could not be read: {first_line(error)}") from error
    raise AssertionError("the loop above returns or raises")


def _checked(name: str, query: NamedQuery, params: Mapping[str, Any]) -> dict[str, Any]:
    allowed = ", ".join(query.parameters) or "none"
    for key in params:
        if key not in query.parameters:
            raise InvalidInput(f"parameter {key!r:.60} of query {name} is unknown; allowed: {allowed}")
    values = {}
    for key, parameter in query.parameters.items():
        if key not in params and parameter.default is _REQUIRED:
            raise InvalidInput(f"query {name} needs the parameter {key}; allowed: {allowed}")
        values[key] = _checked_value(name, key, parameter, params.get(key, parameter.default))
    return values


def _checked_value(name: str, key: str, parameter: Parameter, value: Any) -> Any:
    where = f"{key}={value!r:.60} of query {name} is not allowed"
    if parameter.kind is str:
        if not isinstance(value, str) or len(value) > 500 or not _is_plain(value):
            raise InvalidInput(f"{where}; give text of at most 500 characters")
        return value
    whole = parameter.kind is int
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not math.isfinite(value):
        raise InvalidInput(f"{where}; give {'a whole number' if whole else 'a number'}")
    if not parameter.low <= value <= parameter.high:
        raise InvalidInput(f"{where}; give {parameter.low:g} to {parameter.high:g}")
    return value


def _is_plain(text: str) -> bool:
    # NUL ends a C string somewhere on the way, lone surrogates are not UTF-8.
    return "\x00" not in text and text.encode("utf-8", "ignore").decode() == text


def _interval(alias: str, *names: str) -> str:
    return ", ".join(f"{alias}{n}, {alias}{n}_low, {alias}{n}_high" for n in names)


_RATIOS = _interval("", "speed", "memory", "accuracy")
_RUN_COLUMNS = (
    "r.run_id, r.state, r.cause, r.note, r.created_at, r.started_at, r.ended_at, r.model, r.size, r.workload, "
    "r.workload_label, r.device, r.threads, r.method, r.budget_s, r.config_json, r.progress_json, r.winner_key, "
    + _interval("r.", "fitness")
    + ", r.baseline_fitness, "
    + _interval("r.", "speed", "memory", "accuracy")
    + ", coalesce(t.trials, 0) as trials, coalesce(t.trials_ok, 0) as trials_ok, "
    "coalesce(t.trials_failed, 0) as trials_failed"
)
_RUN_TRIALS = (
    " left join (select run_id, count(*) as trials, count(*) filter (outcome = 'ok') as trials_ok, "
    "count(*) filter (outcome <> 'ok') as trials_failed from trials group by run_id) t on t.run_id = r.run_id "
)
_SAMPLE = "utilization_percent, memory_used_bytes, memory_total_bytes, power_w, temperature_c, clock_mhz, detail_json"

_TRIALS = (
    "select trial_id, recipe_key, recipe_json, purpose, outcome, reason, stage, iteration, verdict, "
    "infeasible_reason, started_at, seconds, "
    + _interval("", "fitness")
    + ", "
    + _RATIOS
    + ", latency_ms, baseline_latency_ms, peak_bytes, baseline_peak_bytes, weight_bytes, baseline_weight_bytes, "
    "first_call_s, break_even_calls, pairs, stop_reason, max_abs_error, quality_metric, quality_value, "
    "quality_baseline, quality_samples, warnings_json, changes_json, log_tail "
    "from trials where run_id = $run_id order by attempt, seq limit 5000"
)

_TRIAL = (
    "select measurement_json, json_extract(measurement_json, '$.environment')::varchar as environment_json "
    "from trials where trial_id = $trial_id"
)

_LEADERBOARD = (
    "select r.run_id, r.ended_at, r.model, r.size, r.workload, r.workload_label, r.device, r.threads, r.winner_key, "
    + _interval("r.", "fitness")
    + ", r.baseline_fitness, "
    + _interval("r.", "speed", "memory", "accuracy")
    + ", w.latency_ms, w.baseline_latency_ms, w.peak_bytes, w.baseline_peak_bytes, r.method, "
    "(select count(*) from trials t where t.run_id = r.run_id) as trials "
    "from runs r join trials w on w.trial_id = r.winner_trial_id "
    "where r.state = 'finished' and ($model = '' or r.model = $model) and ($device = '' or r.device = $device) "
    "order by r.fitness desc nulls last, r.ended_at, r.run_id limit $limit"
)

# Few samples come back as they are; many are averaged in equal slices of time, so a chart never gets more points.
_DEVICE_SAMPLES = """
with chosen as (
    select *, row_number() over (order by time) - 1 as number, count(*) over () as total,
           min(time) over () as first_time, max(time) over () as last_time
    from device_samples where device = $device and time >= $since
), placed as (
    select *, case when total <= $max_points then number
                   else least(floor((time - first_time) / ((last_time - first_time) / $max_points)), $max_points - 1)
              end as slice
    from chosen
)
select max(time) as time, avg(utilization_percent) as utilization_percent,
       avg(memory_used_bytes)::bigint as memory_used_bytes, max(memory_total_bytes) as memory_total_bytes,
       avg(power_w) as power_w, max(temperature_c) as temperature_c, avg(clock_mhz) as clock_mhz,
       arg_max(detail_json, time) as detail_json
from placed group by slice order by time
"""

_DEVICES = (
    "select d.device, d.kind, d.title, d.last_time, "
    + ", ".join("s." + column.strip() for column in _SAMPLE.split(","))
    + ", d.processes_json from devices d left join device_samples s on s.device = d.device and s.time = d.last_time "
    "qualify row_number() over (partition by d.device order by s.bucket_s) = 1 order by d.device"
)

# One row per run and recipe; the final race counts where there was one, because those numbers were published.
# Repetitions do not count: nothing becomes more likely to be proposed because somebody checked it twice.
_HISTORY = (
    "select t.recipe_key, r.model, r.family, r.size, r.workload, r.device, t.outcome, "
    + _interval("t.", "speed", "memory", "accuracy")
    + " from trials t join runs r on r.run_id = t.run_id where t.recipe_key <> 'baseline' and t.purpose <> 'repeat' "
    "and ($family = '' or r.family = $family) and ($model = '' or r.model = $model) "
    "and ($workload = '' or r.workload = $workload) and ($device = '' or r.device = $device) "
    "qualify row_number() over (partition by t.run_id, t.recipe_key order by t.purpose = 'final' desc, "
    "t.attempt desc, t.seq desc) = 1 order by r.created_at desc, t.run_id desc, t.recipe_key limit 5000"
)

# What tells how far processes differ: the untouched model against itself, and finals of several processes.
_NOISE = (
    "select t.trial_id, t.run_id, t.recipe_key, t.purpose, r.model, r.size, r.workload_label, r.threads, t.started_at, "
    "coalesce(t.measurement_json ->> '$.environment.gpu', t.measurement_json ->> '$.environment.cpu_model', '') "
    "as processor, json_extract(t.measurement_json, '$.environment.rounds')::varchar as rounds_json, "
    "coalesce((t.measurement_json ->> '$.environment.conditions.flagged')::boolean, false) as flagged, "
    + _interval("t.", "speed")
    + " from trials t join runs r on r.run_id = t.run_id where r.device = $device and t.started_at >= $since "
    "and t.outcome = 'ok' and (t.purpose in ('final', 'repeat') or t.recipe_key = 'baseline') "
    "order by t.started_at desc, t.trial_id limit $limit"
)

_SYNERGIES = (
    "select s.run_id, r.model, r.family, r.workload, r.workload_label, r.device, r.ended_at, s.recipe_key, "
    "s.objective, s.steps, "
    + _interval("s.", "measured", "product", "synergy")
    + ", s.verdict, s.trials_json from synergies s join runs r on r.run_id = s.run_id "
    "where ($run_id = '' or s.run_id = $run_id) and ($model = '' or r.model = $model) "
    "and ($device = '' or r.device = $device) "
    "order by r.created_at desc, s.run_id desc, s.steps, s.recipe_key, s.objective desc limit $limit"
)

_CONFLICTS = (
    "select conflict_id, recipe_key, family, model, device, versions, outcome, reason, stage, run_id, trial_id, "
    "started_at, seconds, evidence from conflicts where ($family = '' or family = $family) "
    "and ($device = '' or device = $device) order by started_at desc, conflict_id limit $limit"
)

NAMED: dict[str, NamedQuery] = {
    "runs": NamedQuery(
        "select "
        + _RUN_COLUMNS
        + " from runs r"
        + _RUN_TRIALS
        + "order by r.created_at desc, r.run_id desc limit $limit",
        {"limit": Parameter(int, 50, 1)},
    ),
    "run": NamedQuery(
        "select "
        + _RUN_COLUMNS
        + ", r.result_json, r.subject_json from runs r"
        + _RUN_TRIALS
        + "where r.run_id = $run_id",
        {"run_id": Parameter(str)},
    ),
    "trials": NamedQuery(_TRIALS, {"run_id": Parameter(str)}),
    "trial": NamedQuery(_TRIAL, {"trial_id": Parameter(str)}),
    "events": NamedQuery(
        "select event_id, time, kind, data_json from events where run_id = $run_id and event_id > $after "
        "order by event_id limit $limit",
        {
            "run_id": Parameter(str),
            "after": Parameter(int, 0, 0, 2**62),
            "limit": Parameter(int, 500, 1),
        },
    ),
    "leaderboard": NamedQuery(
        _LEADERBOARD,
        {"model": Parameter(str, ""), "device": Parameter(str, ""), "limit": Parameter(int, 200, 1)},
    ),
    "device_samples": NamedQuery(
        _DEVICE_SAMPLES,
        {
            "device": Parameter(str),
            "since": Parameter(float, high=2.0**40),
            "max_points": Parameter(int, 600, 1),
        },
    ),
    "devices": NamedQuery(_DEVICES),
    "history": NamedQuery(_HISTORY, {name: Parameter(str, "") for name in ("family", "model", "workload", "device")}),
    "noise": NamedQuery(
        _NOISE,
        {"device": Parameter(str), "since": Parameter(float, high=2.0**40), "limit": Parameter(int, 200, 1)},
    ),
    "synergies": NamedQuery(
        _SYNERGIES,
        {**{name: Parameter(str, "") for name in ("run_id", "model", "device")}, "limit": Parameter(int, 500, 1)},
    ),
    "conflicts": NamedQuery(
        _CONFLICTS,
        {**{name: Parameter(str, "") for name in ("family", "device")}, "limit": Parameter(int, 500, 1)},
    ),
    "workers": NamedQuery(
        "select run_id, pid, attempt, state, heartbeat_at, current_trial, current_phase, started_at from leases "
        "order by state = 'active' desc, started_at desc, run_id, attempt limit 200"
    ),
    "brought_models": NamedQuery(
        "select name, model_id, kind, path, labels, state, reason, created_at, ended_at "
        "from brought_models order by name"
    ),
    "ingest_errors": NamedQuery(
        'select file, "offset", text, error, time from ingest_errors order by time desc, file, "offset" limit $limit',
        {"limit": Parameter(int, 100, 1)},
    ),
}
