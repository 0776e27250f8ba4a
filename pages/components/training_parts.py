"""What the learning page shows of a trained policy: from what, how the training went, what it prefers in the end.

The keys are those of `learning_report` in `hybrid_core/rl/report.py`; what a report lacks is not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from pages.components import learning_charts, tables
from pages.components.cards import TERMINAL
from pages.components.format import is_number, percent, plain, recipe_text, sentence
from pages.components.learned import Told
from pages.components.learning_parts import choose_told, draw
from pages.components.methods import learns_a_policy

Row = Mapping[str, Any]
GROUPS = "training group (number)"
# title, unit, and for each line its name and the key of the report; x is the groups rolled out until the update
PER_UPDATE: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "clipped decisions",
        "share",
        {
            "either bound": "clip_fraction_per_update",
            "upper bound": "clip_high_per_update",
            "lower bound": "clip_low_per_update",
        },
    ),
    ("policy loss", "no unit", {"policy loss": "policy_loss"}),
    ("value loss", "squared return", {"value loss": "value_loss"}),
    ("entropy of the policy", "nats", {"entropy": "entropy"}),
    ("change of the policy", "KL, nats", {"KL": "approx_kl"}),
)
# A selector is paid in fitness, a searcher in its logarithm.
RETURN_UNITS = {"selection": "gain in fitness", "proposals": "gain in log fitness"}


def training_part(trainings: Sequence[Told], gates: Sequence[Told], why_not: str, run: Row) -> None:
    """What the policy learned from, how, and what it came to prefer; or why there is none."""
    st.subheader("What reinforcement learning learned")
    with st.container():
        _gate(gates, why_not)
    if not trainings:
        if not gates and not why_not:
            _no_policy(run)
        return
    told = choose_told(trainings, "training", "Training")
    report = told.data
    with st.container(horizontal=True, vertical_alignment="center"):
        if report.get("variant"):
            st.badge(plain(report["variant"]), color="blue")
        st.markdown(sentence(report.get("reason"), 500), width="content")
    st.table({name: plain(value) for name, value in training_facts(report).items()}, border="horizontal")
    training_curves(report, RETURN_UNITS.get(told.kind, "gain over the baseline"))
    preferences(report)


def _no_policy(run: Row) -> None:
    """Why there is nothing about a policy, and what would change that."""
    if not learns_a_policy(run):
        said, label = "Reinforcement learning takes no part in this run.", "Start a run that trains a policy"
    elif run.get("state") not in TERMINAL:
        st.caption("The policy's turn has not come yet.")
        return
    else:
        said, label = "The policy's turn did not come; a larger budget reaches it.", "Start another run"
    st.caption(said)
    st.page_link("pages/optimize.py", label=label, query_params={"model": str(run["model"]), "method": "rl"})


def _gate(gates: Sequence[Told], why_not: str) -> None:
    """Whether what other models teach may be trusted, and why the policy was not asked last; each sentence once."""
    gate: Row = gates[0].data if gates else {}
    said = sentence(gate.get("sentence"), 600)
    if gate.get("passed") is False:
        st.info(f"Reinforcement learning stepped back. {said}", icon=":material/pause_circle:")
    elif why_not:
        st.info(f"No policy was asked last. {sentence(why_not, 600)}", icon=":material/hourglass_top:")
    elif said:
        st.caption(said)


def training_facts(report: Row) -> dict[str, str]:
    """The figures of one training that are one number each; what was not told is left out."""
    groups, kept, clip = report.get("groups"), report.get("kept_groups"), report.get("clip_fraction")
    facts = {}
    if is_number(groups) and is_number(kept) and groups > 0:
        facts["Groups trained on"] = f"{kept} of {groups} ({percent(kept / groups, digits=0)})"
    for name, title in (
        ("episodes", "Recipes built"),
        ("updates", "Updates"),
        ("threshold_moves", "Times the bar for success was moved"),
    ):
        if is_number(report.get(name)):
            facts[title] = f"{report[name]:,}"
    if is_number(clip):
        facts["Decisions clipped"] = percent(clip)
    if began := _from_to(report.get("behaviour_cloning")):
        facts["Began by imitating the best"] = began
    if began := _from_to(report.get("value_pretraining")):
        explained = report["value_pretraining"].get("explained_variance")
        also = f", explains {percent(explained, digits=0)} of the variance" if is_number(explained) else ""
        facts["Then the value network alone"] = began + also
    zones = report.get("zones")
    if isinstance(zones, Mapping) and zones:
        facts["Reward zones, in states"] = ", ".join(f"{count} {name}" for name, count in zones.items())
    return facts


def training_curves(report: Row, unit: str) -> None:
    """Every list of the report as a small chart."""
    with st.grid(2, min_column_width=320):
        names = {"mean of the group": "returns", "best of the group": "best_returns", "bar for success": "thresholds"}
        if returns := _lists(report, names):
            figure = learning_charts.curves(returns, "return", unit, GROUPS, baseline=0.0)
            draw(figure, "returns", "Return of the recipes of each training group")
        if shares := _list(report, "group_accuracy"):
            figure = learning_charts.accuracies(shares, _list(report, "group_kept"), GROUPS)
            draw(figure, "accuracy", "Share of each group's recipes that succeeded")
        for title, unit_of_it, keys in PER_UPDATE:
            if series := _lists(report, keys):
                xs = _list(report, "update_groups")
                x_title = GROUPS if xs else "update (number)"
                figure = learning_charts.curves(series, title, unit_of_it, x_title, xs)
                draw(figure, title.replace(" ", "_"), f"{title} over the training")
        if losses := _list(report.get("value_pretraining") or {}, "losses"):
            series, x_title = {"loss": losses}, "pretraining step (number)"
            figure = learning_charts.curves(series, "loss while pretrained", "squared return", x_title)
            draw(figure, "pretraining", "Loss of the value network while it was pretrained")


def preferences(report: Row) -> None:
    """The probability of each setting after the training, slot by slot, and the recipes it would build most often."""
    slots = report.get("chosen_settings")
    if isinstance(slots, Mapping) and slots:
        st.markdown("**What the policy prefers now**")
        with st.grid(2, min_column_width=320):
            for slot, probabilities in slots.items():
                if isinstance(probabilities, Mapping) and probabilities:
                    figure = learning_charts.policy(str(slot).replace("_", " "), probabilities)
                    draw(figure, f"policy_{slot}", f"Probability of each setting of {slot}")
        st.caption("Grey is leaving the strategy out; the dotted line is an even chance for every setting.")
    likeliest = [row for row in _list(report, "likeliest") if isinstance(row, Mapping)]
    if likeliest:
        st.markdown("**What it would build most often**")
        tables.draw(likeliest_table(likeliest), "learning_likeliest", "The recipes the policy would build most often")


def likeliest_table(rows: Sequence[Row]) -> tables.Table:
    """One row per recipe, the likeliest first."""
    return {
        "Candidate": [recipe_text(r.get("recipe")) for r in rows],
        "Probability": [percent(r.get("probability")) for r in rows],
        "Return": [f"{r['reward']:+.3f}" if is_number(r.get("reward")) else "unknown" for r in rows],
        "On what that rests": ["measured" if r.get("is_measured") else "estimated, with its doubt off" for r in rows],
    }


def _list(report: Row, key: str) -> list[Any]:
    values = report.get(key)
    return list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []


def _lists(report: Row, keys: Mapping[str, str]) -> dict[str, list[Any]]:
    """The lists of the report that were told, by the names of their lines."""
    return {name: values for name, key in keys.items() if (values := _list(report, key))}


def _from_to(told: Any) -> str:
    """What a loss began and ended with."""
    ends = [told.get(name) for name in ("first_loss", "last_loss")] if isinstance(told, Mapping) else []
    return f"loss {ends[0]:.3g} to {ends[1]:.3g}" if ends and all(map(is_number, ends)) else ""
