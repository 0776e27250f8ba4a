"""Rows as tables: which columns a person sees, in which order, with which unit. Pure functions and their drawing.

A number stays a number (so that sorting works) and its interval stands in the column beside it. Tables are drawn on a
canvas by Streamlit, which shows text as text; only the CSV needs defusing.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from pages.components.format import (
    PURPOSE_WORDS,
    TIMES,
    ago,
    clock,
    csv_safe,
    duration,
    interval,
    is_number,
    one_line,
    outcome_text,
    plain,
    recipe_text,
)
from pages.components.meanings import MEMORY, MEMORY_RATIO

Row = Mapping[str, Any]
# Column title -> its cells, all of the same length.
Table = dict[str, list[Any]]
RATIOS = (("speed", "Speed"), ("memory", "Memory"), ("accuracy", "Accuracy kept"))
MAX_ROWS = 5_000
MIB = 2**20
_TIMES = {
    "queued": ("queued", "created_at"),
    "running": ("started", "started_at"),
    "finished": ("finished", "ended_at"),
    "cancelled": ("cancelled", "ended_at"),
    "failed": ("failed", "ended_at"),
}


def trials_table(trials: Sequence[Row]) -> Table:
    """All trials of a run in the order they were measured, failures with their cause."""
    return _columnar([_trial_cells(t) for t in trials], list(_trial_cells({})))


def landed_table(trials: Sequence[Row]) -> Table:
    """The short form for the live page: what landed, and what came of it."""
    cells = [
        {
            "Candidate": recipe_text(t.get("recipe_key")),
            "Result": outcome_text(t.get("outcome")),
            "Speed": _number(t.get("speed")),
            "Memory": _number(t.get("memory")),
            "Accuracy kept": _number(t.get("accuracy")),
            "Fitness": _number(t.get("fitness")),
            "Why": _why(t),
            "For": PURPOSE_WORDS.get(str(t.get("purpose")), ""),
            "Took": duration(t.get("seconds")),
        }
        for t in reversed(trials)
    ]
    names = ("Candidate", "Result", "Speed", "Memory", "Accuracy kept", "Fitness", "Why", "For", "Took")
    return _columnar(cells, names)


def leaderboard_table(rows: Sequence[Row], now: float | None = None) -> Table:
    """Winners across runs with the interval of every ratio beside it."""
    return _columnar([_winner_cells(r, now) for r in rows], list(_winner_cells({}, now)))


def workers_table(rows: Sequence[Row], now: float | None = None) -> Table:
    """The processes that measure, and when each was last heard of."""
    cells = [
        {
            "Run": one_line(r.get("run_id"), 60),
            "State": one_line(r.get("state"), 40),
            "Last heard of": ago(r.get("heartbeat_at"), now),
            "Measuring": _trial_recipe(r.get("current_trial")),
            "Phase": one_line(r.get("current_phase"), 40),
            "Attempt": r.get("attempt"),
            "Process": r.get("pid"),
            "Started": clock(r.get("started_at")),
        }
        for r in rows
    ]
    names = ("Run", "State", "Last heard of", "Measuring", "Phase", "Attempt", "Process", "Started")
    return _columnar(cells, names)


def processes_table(processes: Any) -> Table:
    """Who else uses a device; anything unreadable gives an empty table."""
    rows = [p for p in processes if isinstance(p, Mapping)] if isinstance(processes, list) else []
    cells = [
        {
            "Process": p.get("pid"),
            "Name": one_line(p.get("name"), 80),
            "Memory (MiB)": _number(p.get("memory_bytes"), MIB),
            "Processor (%)": _number(p.get("cpu_percent")),
        }
        for p in rows
    ]
    table = _columnar(cells, ("Process", "Name", "Memory (MiB)", "Processor (%)"))
    return {title: column for title, column in table.items() if any(cell is not None for cell in column)}


def csv_of(table: Table) -> str:
    """A table as CSV in which no cell and no heading starts a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([csv_safe(title) for title in table])
    writer.writerows([csv_safe(cell) for cell in cells] for cells in zip(*table.values(), strict=True))
    return text.getvalue()


def columns_of(table: Table) -> dict[str, Any]:
    """How known columns are drawn: ratios with two decimals and a multiplication sign, reasons wide."""
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    columns: dict[str, Any] = {
        title: number(title, format=f"%.2f{TIMES}", help="baseline / candidate; 1 is no change") for _, title in RATIOS
    }
    columns["Fitness"] = number("Fitness", format="%.3f")
    columns["Why"] = text("Why", width="large")
    for title in ("Latency (ms)", "Baseline (ms)"):
        columns[title] = number(title, format="%.3f")
    columns["Memory"] = number("Memory", format=f"%.2f{TIMES}", help=MEMORY_RATIO)
    columns["Peak memory (MiB)"] = number("Peak memory (MiB)", format="%.1f", help=MEMORY["peak_bytes"][1])
    for title in ("Took (s)", "Memory (MiB)", "Processor (%)"):
        columns[title] = number(title, format="%.1f")
    return {title: column for title, column in columns.items() if title in table}


def draw(table: Table, key: str, alt: str, **options: Any) -> Any:
    """A table that says when it shows only its first rows."""
    count = max((len(column) for column in table.values()), default=0)
    if count > MAX_ROWS:
        st.caption(f"Showing {MAX_ROWS:,} of {count:,} rows.")
    shown = {title: column[:MAX_ROWS] for title, column in table.items()}
    options = {"column_config": columns_of(table), **options}
    return st.dataframe(shown, hide_index=True, key=key, alt=alt, placeholder="", **options)


def run_links(page: str, runs: Sequence[Row] | None = None, limit: int = 8) -> None:
    """Links to the latest runs, for pages opened without an id."""
    from pages.components.hub import query

    rows = query("runs", limit=limit) if runs is None else runs[:limit]
    if not rows:
        st.markdown("No run yet.")
        st.page_link("pages/optimize.py", label="Start the first one", icon=":material/arrow_forward:")
    for row in rows:
        st.page_link(page, label=run_title(row), query_params={"run": row["run_id"]})


def subject_text(row: Row) -> str:
    """What a run optimizes, safe for Markdown."""
    model = plain(f"{row.get('model', '')} {row.get('size') or ''}".strip(), 60)
    return f"{model}, {plain(row.get('workload_label') or row.get('workload'), 60)}"


def run_title(row: Row, now: float | None = None) -> str:
    """One run in a line with its time, safe for Markdown."""
    verb, column = _TIMES.get(str(row.get("state")), ("created", "created_at"))
    when = ago(row.get(column) or row.get("created_at"), now if now is not None else time.time())
    return f"{subject_text(row)} ({verb} {when})"


def _columnar(rows: Sequence[Row], titles: Sequence[str]) -> Table:
    return {title: [row[title] for row in rows] for title in titles}


def _trial_cells(trial: Row) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "Candidate": recipe_text(trial.get("recipe_key")),
        "For": PURPOSE_WORDS.get(str(trial.get("purpose")), ""),
        "Result": outcome_text(trial.get("outcome")),
        "Why": _why(trial),
        "Fitness": _number(trial.get("fitness")),
    }
    cells.update(_ratio_cells(trial))
    cells["Latency (ms)"] = _number(trial.get("latency_ms"))
    cells["Peak memory (MiB)"] = _number(trial.get("peak_bytes"), MIB)
    cells["Timed pairs"] = trial.get("pairs")
    cells["Took (s)"] = _number(trial.get("seconds"))
    return cells


def _winner_cells(row: Row, now: float | None) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "Model": one_line(f"{row.get('model', '')} {row.get('size') or ''}".strip(), 80),
        "Workload": one_line(row.get("workload_label") or row.get("workload"), 80),
        "Winner": recipe_text(row.get("winner_key")),
    }
    cells.update(_ratio_cells(row))
    cells["Fitness"] = _number(row.get("fitness"))
    cells["Latency (ms)"] = _number(row.get("latency_ms"))
    cells["Baseline (ms)"] = _number(row.get("baseline_latency_ms"))
    cells["Device"] = one_line(row.get("device"), 60)
    cells["Threads"] = row.get("threads")
    cells["Method"] = one_line(row.get("method"), 40)
    cells["Finished"] = ago(row.get("ended_at"), now)
    cells["Finished at"] = clock(row.get("ended_at"))
    cells["Run"] = one_line(row.get("run_id"), 60)
    return cells


def _ratio_cells(row: Row) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, title in RATIOS:
        cells[title] = _number(row.get(name))
        cells[f"{title}, 95 %"] = interval(row.get(f"{name}_low"), row.get(f"{name}_high"))
    return cells


def _why(trial: Row) -> str:
    return one_line(trial.get("reason") or trial.get("infeasible_reason") or "", 300)


def _trial_recipe(trial_id: Any) -> str:
    """The recipe inside a trial id, which is run:purpose:recipe."""
    parts = str(trial_id or "").split(":", 2)
    return recipe_text(parts[2]) if len(parts) == 3 else ""


def _number(value: Any, divisor: float = 1.0) -> float | None:
    return value / divisor if is_number(value) else None
