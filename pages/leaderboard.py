"""Leaderboard: the winners of all runs; the filters live in the address."""

import streamlit as st

from pages.components import tables, together
from pages.components.hub import catalog, query
from pages.components.states import asked_for, come_in_through_app, empty, guard
from pages.components.tables import run_title

LIMIT = 200
ALL = "all"


def filter_by(param: str, label: str, names: list[str]) -> str:
    """A filter bound to the address by plain names; an unknown one there is explained and ignored."""
    asked_for(param, [ALL, *names], f"the {label.lower()}")
    chosen = st.selectbox(label, [ALL, *names], key=param, bind="query-params")
    return "" if chosen == ALL else chosen


come_in_through_app(__file__)
st.title("Leaderboard")
known = catalog()
with st.container(horizontal=True, vertical_alignment="bottom"):
    model = filter_by("model", "Model", [m["name"] for m in known["models"]])
    device = filter_by("device", "Device", [d["id"] for d in known["devices"]])

rows = query("leaderboard", model=model, device=device, limit=LIMIT)

if not rows:
    empty("No finished run matches. Clear the filters, or start a run that does.", "pages/optimize.py", "Start a run")
else:
    table = tables.leaderboard_table(rows)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"Showing {len(rows):,} of at most {LIMIT} winners. Ratios are baseline / winner: 1 is no change.")
        st.download_button(
            "CSV", tables.csv_of(table), "leaderboard.csv", "text/csv", on_click="ignore", icon=":material/download:"
        )
    # The rows in front of the person are the rows acted on: the ids are fixed when this table is drawn.
    picked = tables.draw(
        table,
        "leaderboard_table",
        "Winners across runs, the fittest first",
        on_select="rerun",
        selection_mode="single-row",
        height="auto" if len(rows) < 12 else 480,
    )
    chosen = [rows[i] for i in picked.selection.rows if i < len(rows)]
    if chosen:
        run = chosen[0]
        label = f"Open {run_title({**run, 'state': 'finished'})}"
        st.page_link("pages/run.py", label=label, icon=":material/arrow_forward:", query_params={"run": run["run_id"]})
    else:
        st.caption("Select a row to open its run.")

with guard("what failed together"):
    together.conflicts_part()
