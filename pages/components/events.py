"""The event log of a run: fetched in steps, told in one line per event."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from pages.components.format import TIMES, clock, duration, is_number, outcome_text, plain, recipe_text, sentence
from pages.components.hub import query
from pages.components.learned import gate_of
from pages.components.methods import method_title

KEPT = 60
STEP = 500
QUIET_KINDS = ("heartbeat", "progress", "phase")


def fetch_events(run_id: str) -> list[Mapping[str, Any]]:
    """The last telling events of a run; only what is new since the last call is asked of the hub."""
    return _fetched("events_of_run", run_id, KEPT, lambda row: row["kind"] not in QUIET_KINDS)


def fetch_told(run_id: str, kinds: Sequence[str]) -> list[Mapping[str, Any]]:
    """All events of these kinds, in order; only what is new since the last call is asked of the hub."""

    def is_told(row: Mapping[str, Any]) -> bool:
        return row["kind"] in kinds and isinstance(row.get("data"), Mapping)

    return _fetched(f"told_{'_'.join(kinds)}", run_id, None, is_told)


def _fetched(
    slot: str, run_id: str, most: int | None, is_kept: Callable[[Mapping[str, Any]], bool]
) -> list[Mapping[str, Any]]:
    """What the session holds of one run under a name, brought up to date."""
    held = st.session_state.get(slot)
    if not held or held["run_id"] != run_id:
        held = {"run_id": run_id, "after": 0, "rows": deque(maxlen=most)}
        st.session_state[slot] = held
    while True:
        rows = query("events", run_id=run_id, after=held["after"], limit=STEP)
        fresh = [r for r in rows if r["event_id"] > held["after"]]
        held["rows"].extend(filter(is_kept, fresh))
        held["after"] = max((r["event_id"] for r in fresh), default=held["after"])
        if len(fresh) < STEP:
            return list(held["rows"])


def fetch_kinds(run_id: str, kinds: Sequence[str]) -> list[Mapping[str, Any]]:
    """All events of these kinds, in order; for runs that are over."""
    found: list[Mapping[str, Any]] = []
    after = 0
    while rows := query("events", run_id=run_id, after=after, limit=STEP):
        found += [r for r in rows if r["kind"] in kinds and isinstance(r.get("data"), Mapping)]
        after = max(r["event_id"] for r in rows)
        if len(rows) < STEP:
            break
    return found


def event_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown-safe lines, the latest first."""
    if not rows:
        return ["Nothing has happened yet."]
    lines, gate = [], ""
    for row in rows:
        when = f"`{clock(row.get('time'))[11:19]}`"
        lines.append(f"{when} {_told(row)}")
        said = gate_of(row.get("data")) or {}
        # The gate is asked before each training; only a change of its mind is news.
        if said and said["sentence"] != gate:
            gate = said["sentence"]
            lines.append(f"{when} {_gate_told(said)}")
    return lines[::-1]


def _gate_told(gate: Mapping[str, Any]) -> str:
    said = sentence(gate["sentence"], 600)
    return f"Reinforcement learning stepped back: {said}" if gate.get("passed") is False else said


def _told(row: Mapping[str, Any]) -> str:
    data = row.get("data") if isinstance(row.get("data"), Mapping) else {}
    kind = str(row.get("kind"))
    recipe = plain(recipe_text(_key(data)))
    if kind == "trial_started":
        return f"Started {recipe}, expected to take {plain(duration(data.get('expected_s')))}"
    if kind in ("round_started", "round_finished"):
        return f"{recipe}: process {plain(data.get('round'))} " + ("began" if kind == "round_started" else "ended")
    if kind == "trial_finished":
        trial = data.get("trial") if isinstance(data.get("trial"), Mapping) else {}
        reason = plain(trial.get("reason") or data.get("infeasible_reason"))
        fitness = data.get("fitness")
        value = fitness.get("value") if isinstance(fitness, Mapping) else fitness
        score = f", fitness {value:.3f}".replace(".", "\\.") if is_number(value) else ""
        return f"{recipe}: {plain(outcome_text(trial.get('outcome')))}{score}" + (f". {reason}" if reason else "")
    if kind == "skipped":
        return f"Skipped {recipe}: {plain(data.get('reason'))}"
    if kind == "selection":
        method = plain(method_title(data.get("method")))
        return f"Iteration {plain(data.get('iteration'))}: {method} chose the next parents"
    if kind == "proposals":
        return f"Iteration {plain(data.get('iteration'))}: {plain(data.get('sentence'), 600)}{_predicted(data)}"
    if kind == "survey":
        refused, problem = data.get("unsupported"), data.get("problem")
        count = len(refused) if isinstance(refused, Mapping) else 0
        told = f"Asked {plain(data.get('answered'))} settings: this model cannot have {count} of them"
        return told + (f". {plain(problem)}" if problem else "")
    if kind == "starting_points":
        return plain(data.get("sentence"), 600)
    if kind == "synergy":
        return "Compared each ensemble with the product of its parts"
    if kind == "run_finished":
        return f"Run {plain(data.get('state'))}. {plain(data.get('cause'))}"
    return plain(kind.replace("_", " ").capitalize())


def _predicted(data: Mapping[str, Any]) -> str:
    """The prediction behind a proposal of one recipe; several have theirs on the learning page."""
    entries = data.get("proposals")
    entry = entries[0] if isinstance(entries, list) and len(entries) == 1 else {}
    mean = entry.get("predicted") if isinstance(entry, Mapping) else None
    if not is_number(mean) or abs(mean) > 50:
        return ""
    return plain(f", predicted fitness {math.exp(mean):.3f}{TIMES} the baseline's")


def _key(data: Mapping[str, Any]) -> Any:
    if data.get("key"):
        return data["key"]
    trial_id = data.get("trial_id") or (data.get("trial") or {}).get("trial_id")
    return str(trial_id).split(":", 2)[-1] if trial_id else None
