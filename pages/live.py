"""Live: watch one run; the part that changes refreshes itself, everything else stays still."""

import time
from typing import Any

import streamlit as st

from pages.components import charts
from pages.components.again import repeats
from pages.components.cards import TERMINAL, cancel_button, progress_bar, refresh_s, verdict_sentence
from pages.components.events import event_lines, fetch_events
from pages.components.format import ago, bytes_text, clock, is_number, percent, plain, recipe_text, sentence
from pages.components.hub import find_run, query
from pages.components.states import come_in_through_app, empty, guard, run_from_address, state_badge, unknown_run
from pages.components.tables import draw, landed_table, subject_text

HISTORY_S = 120


def what_happens(run: dict[str, Any]) -> None:
    """The sentence of the search, and the candidate and phase of the moment."""
    progress = run.get("progress") or {}
    progress_bar(run)
    worker = next((w for w in query("workers") if w["run_id"] == run["run_id"] and w["state"] == "active"), None)
    parts = [sentence(progress["sentence"])] if progress.get("sentence") else []
    if worker and worker.get("current_trial"):
        key = str(worker["current_trial"]).split(":", 2)[-1]
        phase = f", {plain(worker['current_phase'])}" if worker.get("current_phase") else ""
        parts.append(f"Now: **{plain(recipe_text(key))}**{phase}.")
    if worker and is_number(worker.get("heartbeat_at")) and time.time() - worker["heartbeat_at"] > 30:
        parts.append(f"The worker was last heard of {ago(worker['heartbeat_at'])}.")
    st.markdown(" ".join(parts) or "The worker is starting.")


def numbers(run: dict[str, Any]) -> None:
    """Best so far and the device, side by side."""
    progress = run.get("progress") or {}
    samples = query("device_samples", device=run["device"], since=time.time() - HISTORY_S, max_points=120)
    busy = [s["utilization_percent"] for s in samples if is_number(s.get("utilization_percent"))]
    memory = [s["memory_used_bytes"] for s in samples if is_number(s.get("memory_used_bytes"))]
    best = progress.get("best_fitness")
    counts = f"{run.get('trials_ok') or 0} measured, {run.get('trials_failed') or 0} failed"
    leader = recipe_text(progress["best_key"]) if progress.get("best_key") else "none yet"
    quiet: dict[str, Any] = {"delta_color": "gray", "delta_arrow": "off", "border": True, "height": "stretch"}
    with st.grid(4, min_column_width=165):
        st.metric("Best fitness so far", f"{best:.3f}" if is_number(best) else "none yet", plain(leader, 60), **quiet)
        st.metric("Candidates", run.get("trials") or 0, counts, **quiet)
        now = percent(busy[-1] / 100, digits=0) if busy else "unknown"
        st.metric("Device busy", now, chart_data=busy, help="Share of time in use, last two minutes.", **quiet)
        now = bytes_text(memory[-1]) if memory else "unknown"
        st.metric("Memory in use", now, chart_data=[m / 2**30 for m in memory], help="Of the whole device.", **quiet)


def body(run_id: str, was_over: bool) -> None:
    """Everything that changes."""
    with guard("live run"):
        run = find_run(run_id)
        if run is None:
            unknown_run(run_id)
            return
        if run["state"] in TERMINAL and not was_over:
            st.rerun()
        if run["state"] in TERMINAL:
            st.markdown(verdict_sentence(run))
        else:
            what_happens(run)
            numbers(run)
        trials = query("trials", run_id=run_id)
        st.subheader("Best so far")
        if trials:
            figure = charts.best_so_far(trials, run.get("started_at"), run.get("baseline_fitness"))
            alt = "Fitness of every candidate over time, with the best so far as a line"
            st.plotly_chart(figure, key="live_best", config=charts.CONFIG, alt=alt)
            st.subheader("Candidates as they land")
            height = "auto" if len(trials) < 9 else 340
            draw(landed_table(trials), "live_landed", "Candidates of this run, the latest first", height=height)
        else:
            st.caption("The first point appears when the untouched model has been measured against itself.")
        with st.expander("Event log"):
            for line in event_lines(fetch_events(run_id)):
                st.markdown(line)


come_in_through_app(__file__)
st.title("Live")
run_id = run_from_address("pages/live.py")
run = find_run(run_id)
if run is None:
    unknown_run(run_id)
else:
    is_over = run["state"] in TERMINAL
    with st.container(horizontal=True, vertical_alignment="center"):
        state_badge(run["state"])
        started = f", started at {clock(run['started_at'])}" if run.get("started_at") else ""
        st.markdown(f"**{subject_text(run)}**{started}", width="content")
        if not repeats(run):
            here = {"run": run_id}
            st.page_link("pages/learning.py", label="How it is searched", icon=":material/school:", query_params=here)
        if not is_over:
            cancel_button(run)
    if is_over:
        empty("This run is over.", "pages/run.py", "See the result", run=run_id)
    st.fragment(body, run_every=None if is_over else refresh_s())(run_id, is_over)
