"""Parts of the learning page: who proposed what and what came of it, who became a parent.

What a policy learned stands in `training_parts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from pages.components import charts, learning_charts, tables
from pages.components.format import TIMES, is_number, one_line, outcome_text, percent, plain, recipe_text, sentence
from pages.components.learned import Told
from pages.components.methods import method_title, search_title
from pages.components.proposed import OPENING, Account, Proposal

Row = Mapping[str, Any]
LATEST = "latest"
OPENING_TITLE = "What the run opened with"


def proposals_part(proposals: Sequence[Proposal], accounts: Sequence[Account]) -> None:
    """Prediction against measurement, and what each proposer was good for."""
    st.subheader("Who proposed what, and what came of it")
    if any(p.predicted is not None and p.outcome for p in proposals):
        figure = learning_charts.foretold(proposals)
        alt = "Predicted against measured fitness of every proposal, with the diagonal and the untouched model"
        st.plotly_chart(figure, key="learning_foretold", config=charts.CONFIG, alt=alt)
        st.caption(
            "On the diagonal a candidate is as good as predicted, above it better. Bars are 95 % intervals. Each "
            "prediction was made before its measurement, from what was known until then."
        )
    else:
        st.caption("No measured candidate had been predicted, so there is no prediction to compare with.")
    tables.draw(accounts_table(accounts), "learning_accounts", "What each proposer did for this run")
    st.caption("*Raised the best by*: the shares multiply to the best fitness that the search found.")
    # A label that counted would close the box with each proposal.
    with st.expander("Every proposal"):
        height = "auto" if len(proposals) < 9 else 340
        table = proposals_table(proposals)
        tables.draw(table, "learning_proposals", "Every proposal, the latest first", height=height)


def accounts_table(accounts: Sequence[Account]) -> tables.Table:
    """One row per proposer."""
    return {
        "Proposer": [OPENING_TITLE if a.by == OPENING else search_title(a.by) for a in accounts],
        "Proposed": [a.proposed for a in accounts],
        "Measured": [a.measured for a in accounts],
        "Failed": [a.failed for a in accounts],
        "Best": [f"{a.best:.3f}{TIMES}" if a.best is not None else "none" for a in accounts],
        "Raised the best by": [percent(a.raised - 1) if a.raised > 1 else "nothing" for a in accounts],
        "Inside its 95 %": [f"{a.inside} of {a.foretold}" if a.foretold else "no prediction" for a in accounts],
    }


def proposals_table(proposals: Sequence[Proposal]) -> tables.Table:
    """One row per proposal, the latest first."""
    rows = list(reversed(proposals))
    return {
        "Iteration": [p.iteration for p in rows],
        "Candidate": [recipe_text(p.key) for p in rows],
        "By": [search_title(p.by) for p in rows],
        "Predicted": [_times(p.predicted, p.predicted_low, p.predicted_high) for p in rows],
        "Measured": [_times(p.gain, p.gain_low, p.gain_high) for p in rows],
        "Result": [outcome_text(p.outcome) if p.outcome else "not measured" for p in rows],
        "Why": [one_line(p.reason, 300) for p in rows],
    }


def selection_part(selections: Sequence[Told]) -> None:
    """The chances of each draw and who became a parent."""
    if not selections:
        return
    st.subheader("Who became a parent")
    told = choose_told(selections, "draw", "Draw")
    details = told.data.get("details") if isinstance(told.data.get("details"), Mapping) else {}
    parents = [key for key in told.data.get("parents") or [] if isinstance(key, str)]
    times = Counter(parents)
    named = ", ".join(recipe_text(key) + (f" ({n} times)" if n > 1 else "") for key, n in times.items())
    st.markdown(f"**{plain(method_title(told.data.get('method')))}** chose {plain(named, 700) or 'nobody'}.")
    if isinstance(details.get("probabilities"), Mapping) and details["probabilities"]:
        figure = learning_charts.chances(details["probabilities"], parents)
        draw(figure, "chances", "Chance of each candidate to become a parent; chosen ones in full colour")
        if isinstance(details.get("fronts"), Mapping):
            st.caption(_fronts_sentence(details))
    elif details.get("truncation"):
        st.caption("Tournaments are switched off, so the fittest were taken and there was no chance in it.")
    elif details.get("reason"):
        st.caption(sentence(details["reason"], 500))


def choose_told(rows: Sequence[Told], key: str, label: str) -> Told:
    """The one that is looked at: the latest, also when a later one arrives, until somebody chooses another."""
    by_title = {LATEST: rows[0], **{f"{row.number}, in iteration {row.iteration}": row for row in rows}}
    # In a place of its own, so that what stands below stays where it is when there is a choice.
    with st.container():
        chosen = st.selectbox(label, list(by_title), key=f"learning_{key}", width=320) if len(rows) > 1 else LATEST
    return by_title[chosen]


def draw(figure: Any, key: str, alt: str) -> None:
    """A chart of this page; its key keeps it in place while the page refreshes itself."""
    st.plotly_chart(figure, key=f"learning_{key}", config=charts.CONFIG, alt=alt)


def _times(value: Any, low: Any, high: Any) -> str:
    if not is_number(value):
        return ""
    return f"{value:.3f}{TIMES}" + (f" [{low:.3f}, {high:.3f}]" if is_number(low) and is_number(high) else "")


def _fronts_sentence(details: Row) -> str:
    """By what the candidates were compared, and how many nobody beats in all of it."""
    first = sum(front == 0 for front in details["fronts"].values())
    names = " and ".join(str(name) for name in details.get("objectives") or []) or "all objectives"
    return plain(f"Compared by {names}: {first} of {len(details['fronts'])} are beaten by no other in all of it.")
