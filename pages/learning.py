"""Learning: how one run was searched, what was predicted and came of it, and what a policy learned."""

from collections.abc import Mapping, Sequence
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


def parts(run: dict[str, Any], events: Sequence[Mapping[str, Any]]) -> None:
    """Everything that was told; a part that is empty has its place, so that what comes later moves nothing."""
    trials, baseline = query("trials", run_id=run["run_id"]), run.get("baseline_fitness")
    proposals = proposed.proposals_of(events, trials, baseline)
    with st.container():
        if proposals:
            accounts = proposed.accounts_of(proposals, trials, baseline)
            learning_parts.proposals_part(proposals, accounts)
    with st.container():
        trainings, gates = learned.trainings_of(events), learned.gates_of(events)
        training_parts.training_part(trainings, gates, learned.untrained_reason(events), run)
    with st.container():
        learning_parts.selection_part(learned.selections_of(events))


def state_of(run: dict[str, Any], events: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """What has to change for the page to look different."""
    return run["state"], run.get("trials"), len(events)


def watch(run_id: str, drawn: tuple[Any, ...]) -> None:
    """Draw the page again when there is something new; until then nothing on it is touched."""
    with guard("the look for news"):
        run = find_run(run_id)
        if run is not None and state_of(run, fetch_told(run_id, learned.KINDS)) != drawn:
            st.rerun()


come_in_through_app(__file__)
st.title("Learning")
run_id = run_from_address("pages/learning.py")
run = find_run(run_id)
events = fetch_told(run_id, learned.KINDS) if run else []

if run is None:
    unknown_run(run_id)
else:
    with st.container(horizontal=True, vertical_alignment="center"):
        state_badge(run["state"])
        st.markdown(f"**{subject_text(run)}**", width="content")
    how(run)
    with guard("what was learned"):
        if events:
            parts(run, events)
        else:
            nothing_yet(run)
    if run["state"] not in TERMINAL:
        st.fragment(watch, run_every=refresh_s())(run_id, state_of(run, events))
