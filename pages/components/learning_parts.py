"""The parts of the learning page: who proposed what, what a policy learned, who became a parent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from pages.components import charts, learning_charts, tables
from pages.components.format import TIMES, is_number, one_line, outcome_text, percent, plain, recipe_text, sentence
from pages.components.learned import OPENING, Account, Proposal, Told
from pages.components.methods import method_title, search_title

Row = Mapping[str, Any]
LATEST = "latest"
OPENING_TITLE = "What the run opened with"
# key of the report, title, unit, over what
CURVES = (
    ("clip_fraction", "clipped decisions", "share", "update"),
    ("policy_loss", "policy loss", "no unit", "update"),
    ("value_loss", "value loss", "squared return", "update"),
    ("entropy", "entropy of the policy", "nats", "update"),
    ("kl", "change of the policy", "KL, nats", "update"),
)
RETURN_UNIT = "gain over the baseline"


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
        st.caption(
            "Nothing was predicted here, so there is no prediction to compare with: this way to search has none."
        )
    tables.draw(accounts_table(accounts), "learning_accounts", "What each proposer did for this run")
    st.caption("*Raised the best by*: the shares multiply to the best fitness that the search found.")
    with st.expander(f"All {len(proposals)} proposals"):
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


def training_part(trainings: Sequence[Told], gates: Sequence[Told], model: str) -> None:
    """What the policy learned from, how, and what it came to prefer."""
    st.subheader("What reinforcement learning learned")
    for told in gates[:1]:
        said = sentence(told.data["sentence"], 600)
        if told.data.get("passed") is False:
            st.info(f"Reinforcement learning stepped back. {said}", icon=":material/pause_circle:")
        else:
            st.caption(said)
    if not trainings:
        if not gates:
            st.caption("No policy was trained in this run.")
            label = "Start a run that trains one"
            st.page_link("pages/optimize.py", label=label, query_params={"model": model, "method": "rl"})
        return
    told = _chosen(trainings, "training", "Training", lambda t: f"{t.number}, in iteration {t.iteration}")
    report = told.data
    with st.container(horizontal=True, vertical_alignment="center"):
        if report.get("variant"):
            st.badge(plain(report["variant"]), color="blue")
        st.markdown(sentence(report.get("reason"), 500), width="content")
    if not report.get("trained"):
        return
    st.table({name: plain(value) for name, value in training_facts(report).items()}, border="horizontal")
    training_curves(report)
    preferences(report)


def training_facts(report: Row) -> dict[str, str]:
    """The figures of one training that are one number each; what was not told is left out."""
    groups, kept, clip = report.get("groups"), report.get("kept_groups"), report.get("clip_fraction")
    facts = {}
    if is_number(groups) and is_number(kept) and groups > 0:
        facts["Groups trained on"] = f"{kept} of {groups} ({percent(kept / groups, digits=0)})"
    for name, title in (("episodes", "Recipes built"), ("updates", "Updates"), ("threshold_moves", "Bar moved, times")):
        if is_number(report.get(name)):
            facts[title] = f"{report[name]:,}"
    if is_number(clip):
        facts["Decisions clipped"] = percent(clip)
    before = report.get("value_pretraining") or {}
    if is_number(before.get("first_loss")) and is_number(before.get("last_loss")):
        facts["Value pretraining"] = f"loss {before['first_loss']:.3g} to {before['last_loss']:.3g}"
        if is_number(before.get("explained_variance")):
            facts["Value pretraining"] += (
                f", explains {percent(before['explained_variance'], digits=0)} of the variance"
            )
    zones = report.get("zones")
    if isinstance(zones, Mapping) and zones:
        facts["Reward zones, in states"] = ", ".join(f"{count} {name}" for name, count in zones.items())
    return facts


def training_curves(report: Row) -> None:
    """Every list of the report as a small chart."""
    with st.grid(2, min_column_width=320):
        if mean := _list(report, "returns"):
            figure = learning_charts.returns(mean, _list(report, "best_returns"), RETURN_UNIT)
            _draw(figure, "returns", "Return of the recipes of each training group")
        if shares := _list(report, "accuracy"):
            figure = learning_charts.accuracies(shares, _list(report, "kept"))
            _draw(figure, "accuracy", "Share of each group's recipes that succeeded")
        for key, title, unit, over in CURVES:
            if values := _list(report, key):
                figure = learning_charts.curve(values, title, unit, f"{over} (number)")
                _draw(figure, key, f"{title} over {over}s")


def preferences(report: Row) -> None:
    """The probability of each setting after the training, slot by slot."""
    slots = report.get("settings")
    if not isinstance(slots, Mapping) or not slots:
        return
    st.markdown("**What the policy prefers now**")
    with st.grid(2, min_column_width=320):
        for slot, probabilities in slots.items():
            if isinstance(probabilities, Mapping) and probabilities:
                figure = learning_charts.policy(str(slot).replace("_", " "), probabilities)
                _draw(figure, f"policy_{slot}", f"Probability of each setting of {slot}")
    st.caption("Grey is leaving the strategy out; the dotted line is an even chance for every setting.")


def selection_part(selections: Sequence[Told]) -> None:
    """The chances of each draw and who became a parent."""
    if not selections:
        return
    st.subheader("Who became a parent")
    told = _chosen(selections, "draw", "Draw", lambda t: f"{t.number}, in iteration {t.iteration}")
    details = told.data.get("details") if isinstance(told.data.get("details"), Mapping) else {}
    parents = [key for key in told.data.get("parents") or [] if isinstance(key, str)]
    times = Counter(parents)
    named = ", ".join(recipe_text(key) + (f" ({n} times)" if n > 1 else "") for key, n in times.items())
    st.markdown(f"**{plain(method_title(told.data.get('method')))}** chose {plain(named, 700) or 'nobody'}.")
    if isinstance(details.get("probabilities"), Mapping) and details["probabilities"]:
        figure = learning_charts.chances(details["probabilities"], parents)
        _draw(figure, "chances", "Chance of each candidate to become a parent; chosen ones in full colour")
    elif details.get("truncation"):
        st.caption("Tournaments are switched off, so the fittest were taken and there was no chance in it.")
    elif details.get("reason"):
        st.caption(sentence(details["reason"], 500))


def _chosen(rows: Sequence[Told], key: str, label: str, title: Callable[[Told], str]) -> Told:
    """The one that is looked at: the latest, also when a later one arrives, until somebody chooses another."""
    if len(rows) == 1:
        return rows[0]
    by_title = {LATEST: rows[0], **{title(row): row for row in rows}}
    return by_title[st.selectbox(label, list(by_title), key=f"learning_{key}", width=320)]


def _draw(figure: Any, key: str, alt: str) -> None:
    st.plotly_chart(figure, key=f"learning_{key}", config=charts.CONFIG, alt=alt)


def _times(value: Any, low: Any, high: Any) -> str:
    if not is_number(value):
        return ""
    return f"{value:.3f}{TIMES}" + (f" [{low:.3f}, {high:.3f}]" if is_number(low) and is_number(high) else "")


def _list(report: Row, key: str) -> list[Any]:
    values = report.get(key)
    return list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
