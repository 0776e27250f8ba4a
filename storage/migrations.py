"""The schema, as plain functions in a list: the only place where tables are made or changed.

Each function runs once, in one transaction together with the row that records it, so a crash leaves a migration wholly
done or not begun. A file written by a newer version of the project is refused instead of guessed at. Never edit a
function that was released: add one at the end. The idea follows sqlite-utils' migrations.

All times are UTC epoch seconds, all bytes are bytes, all `*_json` columns are text. `low` and `high` bound the 95 %
interval of the value they stand beside. Keys are enforced by the database, a second fence behind the byte offsets.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_core.errors import HybridError
from storage.rows import ask_one

if TYPE_CHECKING:
    import duckdb

    from storage.connection import Database

ESTIMATE_COLUMNS = ("fitness", "speed", "memory", "accuracy")


class SchemaTooNew(HybridError):
    """The database file was written by a newer version of this project."""


def migrate(db: Database, now: float, migrations: tuple[Migration, ...] | None = None) -> int:
    """Bring the file to the newest schema and return its version; an older file is copied beside itself first.

    Raises:
        SchemaTooNew: the file knows migrations that this code does not.
    """
    steps = MIGRATIONS if migrations is None else migrations
    done = schema_version(db.cursor())
    if done > len(steps):
        raise SchemaTooNew(
            f"{db.path} has schema {done}, this version of the project knows up to {len(steps)}; "
            "update the project or set HYBRID_DATA_DIR to another folder"
        )
    if done == len(steps):
        return done
    if done:
        _copy_beside(db, done)
    for number in range(done + 1, len(steps) + 1):
        _apply(db, number, steps[number - 1], now)
    # Replaying a write-ahead log that contains DDL is where DuckDB files were damaged before; leave none behind.
    db.checkpoint()
    return len(steps)


def schema_version(cursor: duckdb.DuckDBPyConnection) -> int:
    """How many migrations the file has seen; 0 for an empty file."""
    present = ask_one(cursor, "select count(*) from duckdb_tables() where table_name = 'schema_migrations'")
    if present is None or present[0] == 0:
        return 0
    row = ask_one(cursor, "select coalesce(max(version), 0) from schema_migrations")
    return int(row[0]) if row else 0


def _apply(db: Database, number: int, step: Migration, now: float) -> None:
    with db.transaction() as cursor:
        cursor.execute(
            "create table if not exists schema_migrations "
            "(version integer primary key, name varchar, applied_at double)"
        )
        step(cursor)
        cursor.execute("insert into schema_migrations values (?, ?, ?)", [number, step.__name__, now])


def _copy_beside(db: Database, version: int) -> None:
    db.checkpoint()
    shutil.copy2(db.path, Path(f"{db.path}.before-schema-{version + 1}"))


Migration = Callable[["duckdb.DuckDBPyConnection"], None]


def create_runs(cursor: duckdb.DuckDBPyConnection) -> None:
    """Runs, the tokens that make a double click one run, and the leases of the processes that work on them."""
    cursor.execute(
        """
        create table runs (
            run_id varchar primary key, state varchar not null, cause varchar not null default '',
            note varchar not null default '', created_at double not null, started_at double, ended_at double,
            model varchar not null, family varchar not null, size varchar not null, workload varchar not null,
            workload_label varchar not null, device varchar not null, threads integer not null,
            method varchar not null, budget_s double, config_json varchar not null, subject_json varchar not null,
            space_json varchar, progress_json varchar, result_json varchar, winner_key varchar,
            winner_trial_id varchar, baseline_fitness double,
            attempt integer not null default 0, cancel_requested_at double,
            fitness double, fitness_low double, fitness_high double, speed double, speed_low double, speed_high double,
            memory double, memory_low double, memory_high double,
            accuracy double, accuracy_low double, accuracy_high double
        )
        """
    )
    cursor.execute("create table submissions (token varchar primary key, run_id varchar not null, created_at double)")
    cursor.execute(
        """
        create table leases (
            run_id varchar not null, attempt integer not null, pid integer, pid_started_at double,
            state varchar not null, started_at double not null, ended_at double, heartbeat_at double not null,
            current_trial varchar not null default '', current_phase varchar not null default '',
            primary key (run_id, attempt)
        )
        """
    )


def create_trials(cursor: duckdb.DuckDBPyConnection) -> None:
    """One row per trial: the numbers that pages sort and draw as columns, everything else in `measurement_json`."""
    cursor.execute(
        """
        create table trials (
            trial_id varchar primary key, run_id varchar not null, attempt integer not null, seq integer not null,
            recipe_key varchar not null, recipe_json varchar not null, purpose varchar not null,
            outcome varchar not null, reason varchar not null, stage varchar not null, iteration integer,
            verdict varchar, infeasible_reason varchar, started_at double, seconds double, phases_json varchar,
            fitness double, fitness_low double, fitness_high double, speed double, speed_low double, speed_high double,
            memory double, memory_low double, memory_high double,
            accuracy double, accuracy_low double, accuracy_high double,
            latency_ms double, baseline_latency_ms double, peak_bytes bigint, baseline_peak_bytes bigint,
            weight_bytes bigint, baseline_weight_bytes bigint, first_call_s double, break_even_calls bigint,
            pairs integer, stop_reason varchar, max_abs_error double, quality_metric varchar, quality_value double,
            quality_baseline double, quality_samples bigint, warnings_json varchar, changes_json varchar,
            measurement_json varchar, log_tail varchar not null
        )
        """
    )


def create_events(cursor: duckdb.DuckDBPyConnection) -> None:
    """What happened, in the order it was ingested, and how far each spool file was read."""
    cursor.execute("create sequence event_ids start 1")
    cursor.execute(
        """
        create table events (
            event_id bigint not null default nextval('event_ids'), run_id varchar not null, attempt integer not null,
            seq integer not null, time double not null, kind varchar not null, data_json varchar not null,
            primary key (run_id, attempt, seq)
        )
        """
    )
    cursor.execute(
        'create table ingest_offsets (file varchar primary key, "offset" bigint not null, updated_at double)'
    )
    cursor.execute(
        'create table ingest_errors (file varchar not null, "offset" bigint not null, text varchar not null, '
        'error varchar not null, time double not null, primary key (file, "offset"))'
    )


def create_device_tables(cursor: duckdb.DuckDBPyConnection) -> None:
    """Devices as last seen, and their samples; `bucket_s` is the width a sample stands for."""
    cursor.execute(
        "create table devices (device varchar primary key, kind varchar not null, title varchar not null, "
        "last_time double not null, processes_json varchar not null default '[]')"
    )
    cursor.execute(
        """
        create table device_samples (
            device varchar not null, time double not null, bucket_s double not null default 1,
            utilization_percent double, memory_used_bytes bigint, memory_total_bytes bigint, power_w double,
            temperature_c double, clock_mhz double, detail_json varchar not null default '{}',
            primary key (device, time, bucket_s)
        )
        """
    )


def create_recommendations(cursor: duckdb.DuckDBPyConnection) -> None:
    """What to try next, as last worked out for a model, workload and device."""
    cursor.execute(
        "create table recommendations (model varchar not null, workload varchar not null, device varchar not null, "
        "rank integer not null, created_at double not null, recommendation_json varchar not null)"
    )


def create_brought_models(cursor: duckdb.DuckDBPyConnection) -> None:
    """Models that somebody brought: what was asked for, how far it is, and what the inspection found."""
    cursor.execute(
        "create table brought_models (name varchar primary key, model_id varchar not null, kind varchar not null, "
        "path varchar not null, labels varchar not null default '', state varchar not null, "
        "reason varchar not null default '', source varchar not null default '', description_json varchar, "
        "created_at double not null, ended_at double)"
    )


def create_synergies(cursor: duckdb.DuckDBPyConnection) -> None:
    """What each measured ensemble gained against the product of its single settings, one row per objective."""
    cursor.execute(
        """
        create table synergies (
            run_id varchar not null, recipe_key varchar not null, objective varchar not null, steps integer not null,
            measured double, measured_low double, measured_high double,
            product double, product_low double, product_high double,
            synergy double, synergy_low double, synergy_high double,
            verdict varchar not null, trials_json varchar not null,
            primary key (run_id, recipe_key, objective)
        )
        """
    )


def create_conflicts(cursor: duckdb.DuckDBPyConnection) -> None:
    """What failed together though each step works alone, seen through the trials, and what a person had forgotten.

    A view and not a table: the trials are the memory, so it is complete after a rebuild and true for old runs too. Its
    word holds for one family of models, device and text of versions; the newest trial of a recipe has the last word. A
    timeout counts only where the candidate had three minutes, or a small budget would be remembered as a conflict. A
    process killed from outside says nothing about its recipe.
    """
    cursor.execute("alter table runs add column versions varchar")
    cursor.execute("create table forgotten_conflicts (conflict_id varchar primary key, forgotten_at double not null)")
    cursor.execute(
        """
        create view conflicts as
        with told as (
            select r.family, r.device, r.versions, r.model, t.recipe_key, t.recipe_json, t.outcome, t.reason, t.stage,
                   t.run_id, t.trial_id, t.started_at, t.seconds,
                   md5(concat_ws('|', r.family, r.device, r.versions, t.recipe_key))[:10] as conflict_id
            from trials t join runs r on r.run_id = t.run_id
            where r.versions is not null and t.recipe_key <> 'baseline'
        ), works as (
            select family, device, versions, recipe_key, min(run_id) as run_id from told where outcome = 'ok'
            group by family, device, versions, recipe_key
        ), newest as (
            select * from told where contains(recipe_key, '+')
              and outcome in ('ok', 'unsupported', 'crashed', 'wrong', 'timeout')
            qualify row_number() over (partition by conflict_id order by started_at desc, trial_id desc) = 1
        ), steps as (
            select n.conflict_id, unnest(string_split(n.recipe_key, '+')) as step from newest n
        ), alone as (
            select s.conflict_id, bool_and(w.recipe_key is not null) as all_work,
                   string_agg(s.step || ' in run ' || w.run_id, ', ' order by s.step) as evidence
            from steps s join newest n on n.conflict_id = s.conflict_id
            left join works w on w.family = n.family and w.device = n.device and w.versions = n.versions
                             and w.recipe_key = s.step
            group by s.conflict_id
        )
        select n.*, a.evidence from newest n join alone a on a.conflict_id = n.conflict_id and a.all_work
        where n.outcome <> 'ok' and (n.outcome <> 'timeout' or n.seconds >= 180)
          and not (n.outcome = 'crashed' and contains(n.reason, 'SIGKILL'))
          and not exists (select 1 from forgotten_conflicts f
                          where f.conflict_id = n.conflict_id and f.forgotten_at >= n.started_at)
        """
    )


MIGRATIONS: tuple[Migration, ...] = (
    create_runs,
    create_trials,
    create_events,
    create_device_tables,
    create_recommendations,
    create_brought_models,
    create_synergies,
    create_conflicts,
)
