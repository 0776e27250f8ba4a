"""The life of a run as rows: submitted once, leased to one process at a time, ended once with a cause.

Three rules keep it truthful. The same submission token is the same run, so a double click starts one. The transaction
that says "running" also writes the lease of the process that works on it, so nothing runs without an owner to ask
after. A terminal state is never overwritten, and a run belongs to its newest attempt: a late word of an older process
is kept as an event and changes nothing.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from hybrid_core.config import RunConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.records import TERMINAL_STATES, RunState, Subject, to_json
from storage.connection import Database
from storage.rows import ask_one

_OPEN_STATES = "('queued', 'running')"
# Crockford's base 32: sorts like the number, no letters that look like digits.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True)
class OpenRun:
    """A run that is queued or running; `attempt` is the last one given out, 0 for none."""

    run_id: str
    state: str
    attempt: int
    config: dict[str, Any]
    subject: dict[str, Any]
    family: str
    created_at: float
    cancel_requested_at: float | None


@dataclass(frozen=True)
class Lease:
    """Who works on a run: a process, known by its id *and* start time because ids are used again."""

    run_id: str
    attempt: int
    pid: int | None
    pid_started_at: float | None
    started_at: float
    heartbeat_at: float
    current_trial: str
    current_phase: str


def create_run(
    db: Database, config: Mapping[str, Any], subject: Mapping[str, Any], token: str = "", family: str = ""
) -> str:
    """Queue a run and return its id; a token seen before returns the id it made then and writes nothing.

    `config` is a `RunConfig` as JSON, `subject` a `Subject` as JSON (the config with its defaults resolved), `family`
    the registry's family of the model, by which later runs learn from this one.

    Raises:
        InvalidInput: the config or the token is not allowed.
    """
    checked, subject_record = RunConfig.from_json(config), Subject.from_json(subject)
    if not isinstance(token, str) or len(token) > 200 or "\x00" in token:
        raise InvalidInput(f"token={token!r:.60} is not allowed; use text of at most 200 characters")
    with db.transaction() as cursor:
        known = ask_one(cursor, "select run_id from submissions where token = ?", [token]) if token else None
        if known:
            return str(known[0])
        run_id = _new_run_id(cursor, db.now())
        values = run_values(to_json(checked), to_json(subject_record), family)
        insert_run(cursor, {"run_id": run_id, "state": RunState.QUEUED.value, "created_at": db.now(), **values})
        if token:
            cursor.execute("insert into submissions values (?, ?, ?)", [token, run_id, db.now()])
    return run_id


def run_values(config: Mapping[str, Any], subject: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The columns of a run that follow from what was asked for.

    Raises:
        KeyError, TypeError, ValueError: the subject is not one.
    """
    workload = Subject.from_json(subject).workload
    texts = {name: subject[name] for name in ("model", "size", "device")}
    texts |= {"workload": workload.name, "family": family or subject["model"], "note": config.get("note", "")}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f"{name}={value!r:.60} is not text")
    method, baseline_fitness = _scoring_of(config)
    return {
        **texts,
        "workload_label": workload.label,
        "threads": min(int(subject["threads"]), 2**31 - 1),
        "method": method,
        "budget_s": float(config["budget_s"]) if "budget_s" in config else None,
        "config_json": to_text(config),
        "subject_json": to_text(subject),
        "baseline_fitness": baseline_fitness,
    }


def _scoring_of(config: Mapping[str, Any]) -> tuple[str, float | None]:
    """The selection method and the fitness of the untouched model, which is the sum of the weights."""
    try:
        options = RunConfig.from_json(config).options
    except InvalidInput:  # a spool file of another version, read for a rebuild
        return "unknown", None
    return options.selection_method, math.fsum(options.objective_weights.values())


def insert_run(cursor: duckdb.DuckDBPyConnection, values: Mapping[str, Any]) -> None:
    """Insert a run unless one of this id is there."""
    names, marks = ", ".join(values), ", ".join("?" for _ in values)
    cursor.execute("insert or ignore into runs (" + names + ") values (" + marks + ")", list(values.values()))


def open_runs(db: Database) -> list[OpenRun]:
    """Every run that is not over, oldest first; one in state running without an active lease has lost its worker."""
    rows = db.cursor().execute(
        "select run_id, state, attempt, config_json, subject_json, family, created_at, cancel_requested_at from runs "
        "where state in " + _OPEN_STATES + " order by created_at, run_id"
    )
    return [
        OpenRun(run_id, state, attempt, json.loads(config), json.loads(subject), *rest)
        for run_id, state, attempt, config, subject, *rest in rows.fetchall()
    ]


def mark_running(
    db: Database, run_id: str, attempt: int, pid: int | None = None, pid_started_at: float | None = None
) -> bool:
    """Give the run to a process: state running and its lease in one transaction; earlier leases of it end.

    May be called before the process exists (without `pid`) and again with it. False when the run is over already or a
    newer attempt has it: do not start, or stop, the process.
    """
    with db.transaction() as cursor:
        taken = ask_one(
            cursor,
            "update runs set state = 'running', attempt = $attempt, started_at = coalesce(started_at, $now) "
            "where run_id = $run_id and state in " + _OPEN_STATES + " and attempt <= $attempt returning run_id",
            {"run_id": run_id, "attempt": attempt, "now": db.now()},
        )
        if taken is None:
            return False
        _end_leases(cursor, run_id, db.now(), keep_attempt=attempt)
        cursor.execute(
            "insert into leases (run_id, attempt, pid, pid_started_at, state, started_at, heartbeat_at) "
            "values ($run_id, $attempt, $pid, $pid_started_at, 'active', $now, $now) on conflict (run_id, attempt) "
            "do update set pid = $pid, pid_started_at = $pid_started_at, heartbeat_at = $now",
            {"run_id": run_id, "attempt": attempt, "pid": pid, "pid_started_at": pid_started_at, "now": db.now()},
        )
    return True


def heartbeat(db: Database, run_id: str, attempt: int, trial_id: str = "", phase: str = "") -> bool:
    """Note that the process of this attempt lives and what it does; False when it no longer has the lease."""
    with db.transaction() as cursor:
        return beat(cursor, run_id, attempt, db.now(), trial_id, phase)


def beat(
    cursor: duckdb.DuckDBPyConnection, run_id: str, attempt: int, now: float, trial_id: str | None, phase: str | None
) -> bool:
    """`heartbeat` inside a transaction of the caller; time never runs backwards, None keeps what is shown."""
    found = ask_one(
        cursor,
        "update leases set heartbeat_at = greatest(heartbeat_at, ?), current_trial = coalesce(?, current_trial), "
        "current_phase = coalesce(?, current_phase) "
        "where run_id = ? and attempt = ? and state = 'active' returning run_id",
        [now, trial_id, phase, run_id, attempt],
    )
    return found is not None


def active_leases(db: Database) -> list[Lease]:
    """The processes that should be alive, oldest first."""
    rows = db.cursor().execute(
        "select run_id, attempt, pid, pid_started_at, started_at, heartbeat_at, current_trial, current_phase "
        "from leases where state = 'active' order by started_at, run_id"
    )
    return [Lease(*row) for row in rows.fetchall()]


def request_cancel(db: Database, run_id: str) -> str:
    """Note that somebody wants the run to end and return its state; a queued run ends at once.

    Raises:
        InvalidInput: there is no such run.
    """
    with db.transaction() as cursor:
        row = ask_one(cursor, "select state from runs where run_id = ?", [run_id])
        if row is None:
            raise InvalidInput(f"run {run_id!r:.60} does not exist; list the runs to see the ids")
        if row[0] == RunState.QUEUED:
            end_run(cursor, run_id, RunState.CANCELLED, "cancelled before it started", db.now())
            return str(RunState.CANCELLED)
        cursor.execute(
            "update runs set cancel_requested_at = coalesce(cancel_requested_at, ?) "
            "where run_id = ? and state = 'running'",
            [db.now(), run_id],
        )
        return str(row[0])


def mark_terminal(db: Database, run_id: str, state: str, cause: str) -> bool:
    """End the run with a cause and end its leases; False, and nothing changed, when it was over already.

    Call `ingest.ingest_once` first, so that what its process last wrote wins over what is assumed about it.

    Raises:
        InvalidInput: `state` is not a terminal state.
    """
    if state not in TERMINAL_STATES:
        raise InvalidInput(f"state={state!r:.60} does not end a run; use one of {', '.join(TERMINAL_STATES)}")
    with db.transaction() as cursor:
        return end_run(cursor, run_id, state, cause, db.now())


def end_run(cursor: duckdb.DuckDBPyConnection, run_id: str, state: str, cause: str, now: float) -> bool:
    """`mark_terminal` inside a transaction of the caller."""
    ended = ask_one(
        cursor,
        "update runs set state = ?, cause = ?, ended_at = ? where run_id = ? and state in "
        + _OPEN_STATES
        + " returning run_id",
        [str(state), cause, now, run_id],
    )
    if ended is None:
        return False
    _end_leases(cursor, run_id, now, keep_attempt=-1)
    return True


def to_text(value: Any) -> str:
    """JSON text that DuckDB can hold: no NaN, no lone surrogates."""
    text = json.dumps(to_json(value), allow_nan=False, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


def _end_leases(cursor: duckdb.DuckDBPyConnection, run_id: str, now: float, keep_attempt: int) -> None:
    cursor.execute(
        "update leases set state = 'ended', ended_at = ? where run_id = ? and attempt <> ? and state = 'active'",
        [now, run_id, keep_attempt],
    )


def _new_run_id(cursor: duckdb.DuckDBPyConnection, now: float) -> str:
    """Nine digits of milliseconds, which sort by time until the year 3084, and three of chance."""
    while True:
        run_id = _base32(int(now * 1000), 9) + _base32(secrets.randbelow(32**3), 3)
        if ask_one(cursor, "select 1 from runs where run_id = ?", [run_id]) is None:
            return run_id


def _base32(number: int, digits: int) -> str:
    return "".join(_ALPHABET[number >> (5 * place) & 31] for place in reversed(range(digits)))
