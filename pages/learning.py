"""Learning: how one run was searched, what was predicted and came of it, and what a policy learned."""

from typing import Any

import streamlit as st

from pages.components import learned, learning_parts, proposed, training_parts
from pages.components.again import repeats
from pages.components.cards import TERMINAL, refresh_s
from pages.components.events import fetch_told
from pages.components.format import plain
from pages.components.hub import find_run, query
from pages.components.methods import RECOMBINING, method_title, options_of, search_method_of, search_title
from pages.components.states import come_in_through_app, empty, guard, run_from_address, state_badge, unknown_run
from pages.components.tables import subject_text

# A proposal lands every few seconds at most, and a page of charts is dearer to draw than the live one.
SLOWER = 3


def how(run: dict[str, Any]) -> None:
    """The way to search in a sentence, and the run's other pages."""
    search = search_method_of(run)
    said = f"Searched by **{plain(search_title(search))}**"
    if search in RECOMBINING:
        by = plain(method_title(run.get("method")))
        said += f", with **{by}** among its proposers" if search == "adaptive" else f", parents by **{by}**"
    st.markdown(f"{said}.")
    with st.container(horizontal=True):
        here = {"run": str(run["run_id"])}
        st.page_link("pages/live.py", label="Live", icon=":material/monitoring:", query_params=here)
        if run["state"] in TERMINAL:
            st.page_link("pages/run.py", label="Result", icon=":material/emoji_events:", query_params=here)


def nothing_yet(run: dict[str, Any]) -> None:
    """Why there is nothing to show, and where the next click is."""
    if repeats(run):
        said = "This run measures one candidate again. Nothing is searched, so there is nothing to learn."
        empty(said, "pages/run.py", "See the result", run=run["run_id"])
    elif not options_of(run).get("enable_candidate_selection", True):
        said = "Choosing is switched off in this run: everything proposed was measured once, so nothing was learned."
        empty(said, "pages/live.py", "See what was measured", run=run["run_id"])
    elif run["state"] in TERMINAL:
        said = "This run ended before the search had anything to choose from; a larger budget reaches it."
        empty(said, "pages/optimize.py", "Start another run", model=run["model"])
    else:
        said = "Nothing was proposed yet: the untouched model is measured first, then what the run opens with."
        empty(said, "pages/live.py", "Watch it", run=run["run_id"])


def body(run_id: str, was_over: bool) -> None:
    """Everything that changes while the run goes on."""
    with guard("what was learned"):
        run = find_run(run_id)
        if run is None:
            unknown_run(run_id)
            return
        if run["state"] in TERMINAL and not was_over:
            st.rerun()  # the whole page: its timer is not needed any more
        events, trials = fetch_told(run_id, learned.KINDS), query("trials", run_id=run_id)

        baseline = run.get("baseline_fitness")
        proposals = proposed.proposals_of(events, trials, baseline)
        trainings, gates = learned.trainings_of(events), learned.gates_of(events)
        if not events:
            nothing_yet(run)
            return
        # A part that is still empty has its place already, so that what comes later moves nothing out of it.
        with st.container():
            if proposals:
                accounts = proposed.accounts_of(proposals, trials, baseline)
                learning_parts.proposals_part(proposals, accounts)
        with st.container():
            training_parts.training_part(trainings, gates, learned.untrained_reason(events), run)
        with st.container():
            learning_parts.selection_part(learned.selections_of(events))


come_in_through_app(__file__)
st.title("Learning")
run_id = run_from_address("pages/learning.py")
run = find_run(run_id)
if run is None:
    unknown_run(run_id)
else:
    is_over = run["state"] in TERMINAL
    with st.container(horizontal=True, vertical_alignment="center"):
        state_badge(run["state"])
        st.markdown(f"**{subject_text(run)}**", width="content")
    how(run)
    st.fragment(body, run_every=None if is_over else (refresh_s() or 0) * SLOWER or None)(run_id, is_over)
