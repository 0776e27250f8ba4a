"""What the events of a run process change about its run: started, how far, with what result, ended.

Runs in the transaction of the ingest. A terminal state is never overwritten, and only the newest attempt of a run may
speak for it: what a process says after another one took over, or after the hub declared the run over, stays in the
events and changes nothing. The winner's numbers are taken from its trial in the final race, never from the message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import duckdb

from hybrid_core.records import TERMINAL_STATES, Recipe
from storage.rows import ask_one
from storage.runs import beat, end_run, insert_run, run_values, to_text
from storage.spool import TRIAL_KINDS, SpoolRecord
from storage.trial_rows import clean

_ESTIMATES = tuple(name + end for name in ("fitness", "speed", "memory", "accuracy") for end in ("", "_low", "_high"))
_COPY_WINNER = (
    "update runs set winner_trial_id = t.trial_id, "
    + ", ".join(name + " = t." + name for name in _ESTIMATES)
    + " from trials t where runs.run_id = $run_id and t.run_id = $run_id and t.recipe_key = $key "
    "and t.purpose = 'final' and t.outcome = 'ok'"
)
_MAY_SPEAK = " where run_id = $run_id and attempt <= $attempt and state in ('queued', 'running')"


def change_runs(
    cursor: duckdb.DuckDBPyConnection,
    records: Sequence[SpoolRecord],
    newest_attempts: Mapping[str, int],
    refuse: Callable[[SpoolRecord, Exception], None],
) -> list[str]:
    """Apply the records to their runs and return the runs that ended by them.

    `newest_attempts` maps run to the newest attempt known in the spool folder. A record that cannot be used is given to
    `refuse` and skipped.
    """
    ended: list[str] = []
    for record in _worth_applying(records):
        try:
            if _APPLY[record.kind](cursor, record, newest_attempts.get(record.run_id, 0)):
                ended.append(record.run_id)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            refuse(record, error)
    _beat_all(cursor, records)
    return ended


def _worth_applying(records: Sequence[SpoolRecord]) -> list[SpoolRecord]:
    """The last of each kind per attempt, but every end, because one that is refused must not hide a good one."""
    chosen: dict[tuple[str, int, str, int], SpoolRecord] = {}
    for record in records:
        if record.kind in _APPLY:
            number = record.seq if record.kind == "run_finished" else 0
            chosen[record.run_id, record.attempt, record.kind, number] = record
    order = list(_APPLY)
    return sorted(chosen.values(), key=lambda r: (r.run_id, order.index(r.kind), r.attempt, r.seq))


def _start(cursor: duckdb.DuckDBPyConnection, record: SpoolRecord, newest_attempt: int) -> bool:
    # The row is missing only when the database is being rebuilt from the spool.
    if ask_one(cursor, "select 1 from runs where run_id = ?", [record.run_id]) is None:
        data = record.data
        values = run_values(data["config"], data["subject"], str(data.get("family", "")))
        values = {name: clean(value) if isinstance(value, str) else value for name, value in values.items()}
        insert_run(cursor, {"run_id": record.run_id, "state": "queued", "created_at": record.time, **values})
    cursor.execute(
        "update runs set state = 'running', started_at = least(coalesce(started_at, $time), $time), "
        "attempt = greatest($attempt, $newest), space_json = coalesce(space_json, $space), "
        "versions = coalesce(versions, $versions)" + _MAY_SPEAK,
        {
            "run_id": record.run_id,
            "attempt": record.attempt,
            "newest": newest_attempt,
            "time": record.time,
            "space": to_text(record.data["space"]) if "space" in record.data else None,
            "versions": clean(str(record.data["versions"])) if record.data.get("versions") else None,
        },
    )
    return False


def _progress(cursor: duckdb.DuckDBPyConnection, record: SpoolRecord, newest_attempt: int) -> bool:
    _set_text(cursor, record, "update runs set progress_json = $text" + _MAY_SPEAK)
    return False


def _result(cursor: duckdb.DuckDBPyConnection, record: SpoolRecord, newest_attempt: int) -> bool:
    _set_text(cursor, record, "update runs set result_json = $text" + _MAY_SPEAK)
    return False


def _finish(cursor: duckdb.DuckDBPyConnection, record: SpoolRecord, newest_attempt: int) -> bool:
    state, winner = record.data["state"], record.data.get("winner")
    if state not in TERMINAL_STATES:
        raise ValueError(f"state={state!r:.60} does not end a run")
    key = None if winner is None else clean(winner.get("key") or Recipe.from_dict(winner["recipe"]).key)
    row = ask_one(cursor, "select attempt, result_json from runs where run_id = ?", [record.run_id])
    if row is None or row[0] > record.attempt or newest_attempt > record.attempt:
        return False
    if not end_run(cursor, record.run_id, state, clean(str(record.data.get("cause") or "")), record.time):
        return False
    result = {**json.loads(row[1] or "{}"), **record.data}
    cursor.execute(
        "update runs set winner_key = $key, result_json = $text where run_id = $run_id",
        {"key": key, "text": to_text(result), "run_id": record.run_id},
    )
    cursor.execute(_COPY_WINNER, {"run_id": record.run_id, "key": key})
    return True


def _set_text(cursor: duckdb.DuckDBPyConnection, record: SpoolRecord, statement: str) -> None:
    cursor.execute(statement, {"run_id": record.run_id, "attempt": record.attempt, "text": to_text(record.data)})


def _beat_all(cursor: duckdb.DuckDBPyConnection, records: Sequence[SpoolRecord]) -> None:
    """Any line proves life; the trial and phase shown are the last ones named."""
    seen: dict[tuple[str, int], tuple[float, str | None, str | None]] = {}
    for record in records:
        _, trial, phase = seen.get((record.run_id, record.attempt), (0.0, None, None))
        if "trial_id" in record.data:
            trial, phase = str(record.data["trial_id"]), str(record.data.get("phase") or "")
        elif record.kind in TRIAL_KINDS:
            trial, phase = "", ""
        seen[record.run_id, record.attempt] = (record.time, trial, phase)
    for (run_id, attempt), (time, trial, phase) in seen.items():
        beat(cursor, run_id, attempt, time, trial, phase)


_APPLY: dict[str, Callable[[duckdb.DuckDBPyConnection, SpoolRecord, int], bool]] = {
    "run_started": _start,
    "progress": _progress,
    "result": _result,
    "run_finished": _finish,
}
