"""Result: what one run found, how sure it is, and what to take away."""

from typing import Any

import streamlit as st

from pages.components import again, certainty, charts, details, handover, tables, together
from pages.components.cards import TERMINAL, state_badge_line, verdict_sentence
from pages.components.hub import find_run, query
from pages.components.states import asked_for, come_in_through_app, empty, guard, run_from_address, unknown_run

SHOWN = ("all", "measured", "failed")
ACCURACIES = {"any": 0.0, "90 %": 0.9, "95 %": 0.95, "98 %": 0.98, "99 %": 0.99}


def pareto_part(run: dict[str, Any], trials: list[dict[str, Any]]) -> None:
    """Speed against memory, with an accuracy filter that lives in the address."""
    st.subheader("Speed against memory")
    text = "Candidates that kept less than this are faded."
    least = st.segmented_control(
        "Accuracy kept, at least", list(ACCURACIES), default="any", required=True, key="accuracy",
        bind="query-params", help=text,
    )  # fmt: skip
    figure = charts.pareto(trials, run.get("winner_key"), ACCURACIES[least])
    alt = "Speed and memory of all measured candidates relative to the baseline, with the Pareto front as a step line"
    st.plotly_chart(figure, key="run_pareto", config=charts.CONFIG, alt=alt)
    st.caption("Up and right is better. The front is what no other candidate beats in both, the baseline included.")


def candidates_part(trials: list[dict[str, Any]]) -> None:
    """All trials, failures with their reasons."""
    st.subheader("All candidates")
    shown = st.segmented_control("Show", SHOWN, default="all", required=True, key="show", bind="query-params")
    rows = [t for t in trials if shown == "all" or (t["outcome"] == "ok") == (shown == "measured")]
    if rows:
        tables.draw(tables.trials_table(rows), "run_trials", "All trials of this run with their outcomes and reasons")
    else:
        st.caption("None of these.")


come_in_through_app(__file__)
st.title("Result")
run_id = run_from_address("pages/run.py")
asked_for("show", SHOWN, "the filter")
asked_for("accuracy", list(ACCURACIES), "the accuracy")
run = find_run(run_id)
trials = query("trials", run_id=run_id) if run else []

if run is None:
    unknown_run(run_id)
else:
    result = run.get("result") or {}
    state_badge_line(run)
    if run["state"] not in TERMINAL:
        empty("This run is still going; its numbers are final when it ends.", "pages/live.py", "Watch it", run=run_id)
    elif run["state"] != "finished":
        empty(verdict_sentence(run), "pages/optimize.py", "Start another run", model=run["model"])
    elif again.repeats(run):
        again.repetition(run, result)
    else:
        details.winner(run, result, trials)
        with guard("how sure it is"):
            certainty.certainty_part(run, result, trials)
    if trials and not again.repeats(run):
        with guard("the Pareto picture"):
            pareto_part(run, trials)
    if trials:
        with guard("the table of candidates"):
            candidates_part(trials)
        with guard("what ensembles gained together"):
            together.synergy_part(run_id)
        with guard("one candidate"):
            details.candidate(run, trials)
    if run["state"] == "finished" and not again.repeats(run):
        with guard("what to take away"):
            handover.take_away(run_id)
    if not again.repeats(run):
        with guard("how it was searched"):
            details.search(run, result)
