"""Home: what runs now, what was found lately, what to try next."""

import streamlit as st

from pages.components.cards import TERMINAL, finished_row, recommendation_card, refresh_s, run_card
from pages.components.format import plain
from pages.components.hub import catalog, hub, query
from pages.components.states import come_in_through_app, empty, guard
from pages.components.tables import run_title

MOST_FINISHED = 6
MOST_PER_MODEL = 2


@st.fragment(run_every=refresh_s())
def now() -> None:
    """Running and queued runs; refreshes itself and redraws the page when one ends."""
    with guard("what runs now"):
        active = [r for r in query("runs", limit=50) if r["state"] not in TERMINAL]
        ids = sorted(r["run_id"] for r in active)
        if ids != st.session_state.setdefault("home_active_ids", ids):
            st.session_state["home_active_ids"] = ids
            st.rerun()
        running = [r for r in active if r["state"] == "running"]
        queued = [r for r in active if r["state"] != "running"]
        if running:
            with st.grid(2, min_column_width=320):
                for run in running:
                    run_card(run)
        elif not queued:
            st.caption("Nothing is being measured at the moment.")
        for place, run in enumerate(reversed(queued), 1):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.badge(f"place {place} in the queue", color="gray")
                st.page_link("pages/live.py", label=run_title(run), query_params={"run": run["run_id"]})


def recommendations() -> None:
    """Per model family, with the evidence."""
    cards = []
    for model in catalog()["models"]:
        rows = hub().recommend(model["name"])
        cards += [(model, row, i) for i, row in enumerate(rows[:MOST_PER_MODEL])]
    if not cards:
        st.caption("Recommendations appear here after the first finished run.")
        return
    with st.grid(3, min_column_width=280):
        for model, row, position in cards:
            recommendation_card(model, row, position)


come_in_through_app(__file__)
st.title("Hybrid Optimization")
st.markdown("Finds the fastest faithful form of a PyTorch model on this machine. Every number is measured.")

if banner := hub().status().get("banner"):
    st.info(plain(banner))

runs = query("runs", limit=50)
finished = [r for r in runs if r["state"] in TERMINAL]
if not runs:
    empty(
        "No run yet. Choose a model and a time budget; two minutes are enough for a first answer.",
        "pages/optimize.py",
        "Start the first run",
    )
else:
    st.subheader("Running now")
    now()

st.subheader("What to try next")
with guard("recommendations"):
    recommendations()

if finished:
    st.subheader("Last finished runs")
    for row in finished[:MOST_FINISHED]:
        finished_row(row)
    st.page_link("pages/leaderboard.py", label="All winners", icon=":material/leaderboard:")
