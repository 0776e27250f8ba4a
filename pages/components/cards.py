"""Small drawn pieces that several pages share: a run in progress, a verdict, a recommendation, a cancel button."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import streamlit as st

from hybrid_core.records import BASELINE_KEY, Recipe
from pages.components.again import repeats
from pages.components.format import (
    clock,
    duration,
    is_number,
    percent,
    plain,
    ratio,
    recipe_text,
    sentence,
    verdict_word,
)
from pages.components.hub import hub
from pages.components.states import guard, state_badge
from pages.components.tables import run_title

Row = Mapping[str, Any]
TERMINAL = ("finished", "cancelled", "failed")


def refresh_s() -> float | None:
    """Seconds between refreshes of live parts: HYBRID_REFRESH_S, 1 by default, 0 for never."""
    try:
        seconds = float(os.environ.get("HYBRID_REFRESH_S", "1"))
    except ValueError:
        seconds = 1.0
    return seconds if seconds > 0 else None


def progress_bar(run: Row, now: float | None = None) -> None:
    """How far a run is, from its budget and its own counts, and the time left."""
    progress = run.get("progress") or {}
    started = run.get("started_at")
    if not is_number(started):
        st.progress(0.0, text="Waiting for the device to become free")
        return
    elapsed = max(0.0, (time.time() if now is None else now) - float(started or 0))
    left = time_left(run, elapsed)
    share = elapsed / (elapsed + left) if left else 0.99
    done, planned = progress.get("done"), progress.get("planned")
    text = f"{duration(left)} left at most" if left else "finishing"
    if is_number(done):
        text += f", {done} of {planned} measurements" if is_number(planned) else f", {done} measurements"
    st.progress(min(0.99, max(0.0, share)), text=text)


def time_left(run: Row, elapsed_s: float) -> float:
    """Seconds a run may still take: what the search itself expects, never more than its budget allows."""
    progress, budget = run.get("progress") or {}, run.get("budget_s")
    bounds = [float(budget)] if is_number(budget) else []
    if is_number(progress.get("elapsed_s")) and is_number(progress.get("remaining_s")):
        bounds.append(float(progress["elapsed_s"]) + float(progress["remaining_s"]))
    return max(0.0, min(bounds) - elapsed_s) if bounds else 0.0


def run_card(run: Row) -> None:
    """One running or queued run, with its progress, its best so far and the two things one may want to do."""
    progress = run.get("progress") or {}
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{run_title(run)}**")
        progress_bar(run)
        if progress.get("sentence"):
            st.caption(sentence(progress["sentence"]))
        if is_number(progress.get("best_fitness")):
            best = plain(recipe_text(progress.get("best_key")))
            fitness = plain(f"{progress['best_fitness']:.3f}")
            st.markdown(f"Best so far: {best}, fitness {fitness}")
        with st.container(horizontal=True, vertical_alignment="center"):
            st.page_link("pages/live.py", label="Watch", icon=":material/monitoring:", query_params=_run(run))
            st.page_link("pages/learning.py", label="Learning", icon=":material/school:", query_params=_run(run))
            cancel_button(run)


def cancel_button(run: Row) -> None:
    """Cancel after one more question."""
    run_id = str(run["run_id"])
    with st.popover("Cancel", icon=":material/cancel:"):
        st.markdown("Stop this run? What was measured so far is kept.")
        if st.button("Yes, cancel it", key=f"cancel_{run_id}", type="primary"):
            with guard("cancel"):
                st.markdown(plain(hub().cancel(run_id)))


def verdict_sentence(run: Row, noise_floor: Any = None) -> str:
    """What a run found, in one Markdown-safe sentence."""
    state = str(run.get("state"))
    if state in ("failed", "cancelled"):
        return f"{state.capitalize()}: {sentence(run.get('cause')) or 'no cause was recorded.'}"
    if repeats(run):
        return sentence(run.get("cause"), 600)
    if run.get("winner_key") in (None, "", BASELINE_KEY):
        return "Nothing beat the untouched model on this machine."
    word = verdict_word("speed", run.get("speed"), run.get("speed_low"), run.get("speed_high"), noise_floor)
    speed = plain(ratio(run.get("speed"), run.get("speed_low"), run.get("speed_high")))
    memory = plain(ratio(run.get("memory")))
    accuracy = plain(percent(run.get("accuracy")))
    recipe = plain(recipe_text(run.get("winner_key")))
    said = {"tie": "as fast as the baseline", "unknown": "not timed"}.get(word, word)
    return f"**{recipe}**: {said}, speed {speed}, memory {memory}, accuracy kept {accuracy}."


def finished_row(run: Row) -> None:
    """A finished run in the list of the home page."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            state_badge(run.get("state"))
            st.page_link("pages/run.py", label=run_title(run), query_params=_run(run), help=clock(run.get("ended_at")))
        st.markdown(verdict_sentence(run))


def state_badge_line(run: Row) -> None:
    """State and title of a run in one line."""
    with st.container(horizontal=True, vertical_alignment="center"):
        state_badge(run.get("state"))
        st.markdown(f"**{run_title(run)}**", width="content", help=clock(run.get("ended_at")) or None)


def recommendation_card(model: Row, row: Row, position: int) -> None:
    """One recommendation with its evidence, and the button that fills the form."""
    recipe = Recipe.from_dict(row["recipe"])
    with st.container(border=True, height="stretch"):
        st.markdown(f"**{plain(model.get('title') or model.get('name'))}**")
        st.markdown(plain(recipe_text(recipe.key)))
        is_claim = row.get("source") != "history"
        count = int(row.get("n") or 0)
        times = "a claim, not measured yet" if is_claim else f"measured {count} time{'' if count == 1 else 's'}"
        st.badge(times, color="gray" if is_claim else "blue")
        st.caption(plain(evidence(row), 500))
        st.space("stretch")
        if st.button("Try this", key=f"try_{model.get('name')}_{position}", icon=":material/tune:"):
            params = {"model": str(model["name"]), "strategies": ",".join(recipe.strategies)}
            st.switch_page("pages/optimize.py", query_params=params)


def evidence(row: Row) -> str:
    """On what a recommendation rests: its own sentence, or the number it carries."""
    if row.get("sentence"):
        return str(row["sentence"])
    speed = row.get("speed") or {}
    return f"Speed {ratio(speed.get('value'), speed.get('low'), speed.get('high'))}."


def _run(run: Row) -> dict[str, str]:
    return {"run": str(run["run_id"])}
