"""Small drawn pieces that several pages share: a run in progress, a verdict, a recommendation, a cancel button."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import streamlit as st

from hybrid_core.records import BASELINE_KEY, Recipe
from pages.components.format import (
    clock,
    duration,
    is_number,
    percent,
    plain,
    ratio,
    recipe_text,
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
    started, budget = run.get("started_at"), run.get("budget_s")
    if not is_number(started):
        st.progress(0.0, text="Waiting for the device to become free")
        return
    elapsed = max(0.0, (time.time() if now is None else now) - float(started or 0))
    done, planned = progress.get("done"), progress.get("planned")
    left = max(0.0, float(budget) - elapsed) if is_number(budget) else None
    share = elapsed / float(budget) if is_number(budget) and budget else 0.0
    text = f"{duration(left)} left at most" if left else "finishing"
    if is_number(done):
        text += f", {done} of {planned} candidates" if is_number(planned) else f", {done} candidates"
    st.progress(min(0.99, max(0.0, share)), text=text)


def run_card(run: Row) -> None:
    """One running or queued run, with its progress, its best so far and the two things one may want to do."""
    progress = run.get("progress") or {}
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{run_title(run)}**")
        progress_bar(run)
        if progress.get("sentence"):
            st.caption(plain(progress["sentence"]))
        if is_number(progress.get("best_fitness")):
            best = plain(recipe_text(progress.get("best_key")))
            fitness = plain(f"{progress['best_fitness']:.3f}")
            st.markdown(f"Best so far: {best}, fitness {fitness}")
        with st.container(horizontal=True, vertical_alignment="center"):
            st.page_link("pages/live.py", label="Watch", icon=":material/monitoring:", query_params=_run(run))
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
        cause = plain(run.get("cause")) or "no cause was recorded"
        return f"{state.capitalize()}: {cause}."
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
    key = str(row.get("recipe_key") or row.get("key") or "")
    if not key and isinstance(row.get("recipe"), Mapping):
        key = Recipe.from_dict(row["recipe"]).key
    with st.container(border=True, height="stretch"):
        st.markdown(f"**{plain(model.get('title') or model.get('name'))}**")
        st.markdown(plain(recipe_text(key)))
        st.caption(plain(evidence(row)))
        st.space("stretch")
        strategies = [step.strategy for step in Recipe.from_key(key).steps] if "=" in key else []
        if st.button("Try this", key=f"try_{model.get('name')}_{position}", icon=":material/tune:"):
            params = {"model": str(model["name"]), "strategies": ",".join(strategies)}
            st.switch_page("pages/optimize.py", query_params={k: v for k, v in params.items() if v})


def evidence(row: Row) -> str:
    """On what a recommendation rests: how many measurements with which interval, or the document."""
    sentence = str(row.get("sentence") or row.get("reason") or "").strip()
    speed = row.get("speed") or row.get("speed_improvement")
    count = row.get("n", row.get("samples"))
    if row.get("source") == "document":
        return f"{sentence} Source: the document, not yet measured here.".strip()
    if isinstance(speed, Mapping):
        text = f"speed {ratio(speed.get('value'), speed.get('low'), speed.get('high'))}"
        known = f"From {count} earlier measurement{'' if count == 1 else 's'} of this family: {text}."
        return f"{known} {sentence}".strip()
    return sentence or "No measurement yet."


def _run(run: Row) -> dict[str, str]:
    return {"run": str(run["run_id"])}
