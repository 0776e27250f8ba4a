"""The parts of a result: the winner with its intervals, one candidate up close, how it was searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from hybrid_core.records import BASELINE_KEY
from pages.components import again, charts, memory_figures, tables
from pages.components.events import fetch_kinds
from pages.components.format import (
    PURPOSE_WORDS,
    TIMES,
    duration,
    interval,
    is_number,
    milliseconds,
    one_line,
    outcome_text,
    percent,
    plain,
    recipe_text,
    said_verdict,
    sentence,
    verdict_word,
)
from pages.components.hub import query
from pages.components.meanings import MEMORY_RATIO
from pages.components.methods import RECOMBINING, method_title, search_method_of, search_title
from pages.components.quality_figures import quality_figures, rows_used
from pages.components.states import asked_for

Row = Mapping[str, Any]
MOST_DRAWS = 6


def winner(run: Row, result: Row, trials: Sequence[Row]) -> None:
    """The published numbers of the final race against the baseline, each with its interval and a verdict."""
    is_baseline = run.get("winner_key") in (None, "", BASELINE_KEY)
    with st.container(border=True):
        if is_baseline:
            st.markdown("### The untouched model stays")
            reason = sentence(result.get("sentence") or "nothing beat it within the bounds", 600)
            st.markdown(f"{reason} That is a normal and useful result.")
        else:
            st.markdown(f"### {plain(recipe_text(run['winner_key']))}")
            if result.get("sentence"):
                st.markdown(sentence(result["sentence"], 600))
        with st.grid(4, min_column_width=165):
            for name, title in (("speed", "Speed"), ("memory", "Memory"), ("accuracy", "Accuracy kept")):
                _ratio_metric(run, result, name, title)
            _fitness_metric(run)
        st.caption(plain(_evidence(run, result, trials), 600))


def candidate(run: Row, trials: Sequence[Row]) -> None:
    """One trial up close, the winner's at first; which one lives in the address, in words."""
    st.subheader("One candidate up close")
    by_title = {_trial_title(t): t for t in trials}
    titles = list(by_title)
    asked_for("candidate", titles, "the candidate")
    winners = [i for i, t in enumerate(by_title.values()) if t.get("recipe_key") == run.get("winner_key")]
    first = winners[-1] if winners else 0
    trial = by_title[st.selectbox("Candidate", titles, index=first, key="candidate", bind="query-params")]
    if trial["outcome"] != "ok":
        where = f" while it was at '{plain(trial.get('stage'))}'" if trial.get("stage") else ""
        st.markdown(f"**{plain(outcome_text(trial['outcome']))}**{where}: {plain(trial.get('reason'), 600)}")
        if trial.get("log_tail"):
            with st.expander("The end of its output"):
                st.code(str(trial["log_tail"])[-8000:], language=None, wrap_lines=True)
        return
    if trial.get("infeasible_reason"):
        st.warning(f"Outside the bounds: {sentence(trial['infeasible_reason'])}")
    if told := [sentence(warning) for warning in trial.get("warnings") or []]:
        st.warning(told[0] if len(told) == 1 else "\n".join(f"- {text}" for text in told))
    rows = query("trial", trial_id=str(trial["trial_id"]))
    stored: Row = rows[0] if rows else {}
    measurement = stored.get("measurement") or {}
    environment: Row = stored.get("environment") or measurement.get("environment") or {}
    facts = _facts(trial) | rows_used(environment)
    facts |= quality_figures((measurement.get("quality") or {}).get("details") or {})
    st.table({plain(name): plain(value) for name, value in facts.items()}, border="horizontal")
    memory_figures.show(trial, environment)
    for change in trial.get("changes") or []:
        st.markdown(f"- {plain(change, 500)}")
    _samples(measurement, environment)
    again.command(trial)


def search(run: Row, result: Row) -> None:
    """Stop reason, selection details and the configuration, for whoever wants to repeat the run."""
    with st.expander("How it was searched"):
        if result.get("stop_reason"):
            st.markdown(f"Why it stopped: {sentence(result['stop_reason'], 500)}")
        facts = {
            "Search method": search_title(search_method_of(run)),
            "Selection": method_title(run.get("method")) if search_method_of(run) in RECOMBINING else None,
            "Iterations": result.get("iterations"),
            "A/A noise floor": percent(result.get("noise_floor"), digits=2),
            "Trials": f"{run.get('trials')}, of which {run.get('trials_failed')} failed",
        }
        st.table({name: plain(value) for name, value in facts.items() if value is not None}, border="horizontal")
        events = fetch_kinds(run["run_id"], ("starting_points", "survey", "selection", "skipped"))
        _begun([e["data"] for e in events if e["kind"] in ("starting_points", "survey")])
        _choices([e["data"] for e in events if e["kind"] == "selection"], search_method_of(run) == "selection")
        st.page_link(
            "pages/learning.py", label="Who proposed what, and what was learned", icon=":material/school:",
            query_params={"run": str(run["run_id"])},
        )  # fmt: skip
        _not_tried([e["data"] for e in events if e["kind"] == "skipped"])
        st.markdown("The configuration, ready to submit again:")
        st.json(run.get("config") or {}, expanded=False)


def _begun(told: Sequence[Row]) -> None:
    """Where the search began, and how many settings the model said it cannot have."""
    for data in told:
        if data.get("sentence"):
            st.markdown(sentence(data["sentence"], 600))
        elif isinstance(data.get("unsupported"), Mapping):
            count, problem = len(data["unsupported"]), data.get("problem")
            asked = f"Before trying, {plain(data.get('answered'))} settings were asked: the model cannot have {count}."
            st.markdown(asked + (f" {sentence(problem)}" if problem else ""))


def _choices(selections: Sequence[Row], is_awaited: bool) -> None:
    """Which parents were chosen last; their chances and what a policy learned stand on the learning page."""
    if not selections and is_awaited:
        st.caption(
            "The search ended before the selection method had anything to choose from; a larger budget reaches it."
        )
    if len(selections) > MOST_DRAWS:
        st.caption(f"The last {MOST_DRAWS} of {len(selections)} draws of parents:")
    for data in selections[-MOST_DRAWS:]:
        parents = ", ".join(recipe_text(key) for key in data.get("parents") or []) or "none"
        reason = (data.get("details") or {}).get("reason")
        why = f" ({plain(reason, 300)})" if reason else ""
        st.markdown(f"Iteration {plain(data.get('iteration'))}: parents {plain(parents, 500)}{why}.")


def _not_tried(skips: Sequence[Row]) -> None:
    """What was left out, with its reason."""
    if skips:
        st.markdown("Not tried, and why:")
        names = [recipe_text(s.get("key")) for s in skips]
        rows = {"Candidate": names, "Why": [one_line(s.get("reason")) for s in skips]}
        tables.draw(rows, "run_skipped", "Candidates that were not tried, with the reason")


def _ratio_metric(run: Row, result: Row, name: str, title: str) -> None:
    value, low, high = run.get(name), run.get(f"{name}_low"), run.get(f"{name}_high")
    word = said_verdict(result, name) or verdict_word(name, value, low, high, result.get("noise_floor"))
    if name == "accuracy":
        shown, ends = percent(value), percent(value, low, high).partition(" % ")[2]
    else:
        shown = f"{value:.2f}{TIMES}" if is_number(value) else "not measured"
        ends = interval(low, high) if low != high else "counted exactly"
    colour = "gray" if word in ("tie", "unknown") else "blue" if is_number(value) and value > 1 else "red"
    st.metric(
        title, shown, word, delta_color=colour, delta_arrow="off", delta_description=ends, border=True,
        height="stretch", help=MEMORY_RATIO if name == "memory" else None,
    )  # fmt: skip


def _fitness_metric(run: Row) -> None:
    value, base = run.get("fitness"), run.get("baseline_fitness")
    shown = f"{value:.3f}" if is_number(value) else "not measured"
    word = f"baseline {base:.3f}" if is_number(base) else "no baseline"
    ends = interval(run.get("fitness_low"), run.get("fitness_high"))
    st.metric(
        "Fitness", shown, word, delta_color="gray", delta_arrow="off", delta_description=ends, border=True,
        height="stretch",
    )  # fmt: skip


def _evidence(run: Row, result: Row, trials: Sequence[Row]) -> str:
    """Where the numbers come from, in a line."""
    final = [t for t in trials if t.get("recipe_key") == run.get("winner_key") and t.get("purpose") == "final"]
    parts = ["Baseline / winner, from the final race, with 95 % intervals."]
    if final and final[0].get("pairs"):
        parts.append(f"{final[0]['pairs']} timed pairs; {final[0].get('stop_reason')}.")
        if is_number(final[0].get("quality_samples")):
            parts.append(f"{final[0]['quality_samples']} held-out samples of {final[0].get('quality_metric')}.")
        if is_number(final[0].get("break_even_calls")):
            parts.append(f"Its preparation pays for itself after {final[0]['break_even_calls']:,} calls.")
    if is_number(result.get("noise_floor")):
        parts.append(f"A difference below {percent(result['noise_floor'])} counts as a tie (A/A noise floor).")
    return " ".join(parts)


def _facts(trial: Row) -> dict[str, str]:
    """The table of one measured trial."""
    metric = one_line(trial.get("quality_metric") or "Quality").capitalize()
    samples = f", {trial.get('quality_samples')} samples"
    error, calls = trial.get("max_abs_error"), trial.get("break_even_calls")
    return {
        "Latency": _against(milliseconds, trial, "latency_ms"),
        metric: f"{percent(trial.get('quality_value'))}, baseline {percent(trial.get('quality_baseline'))}{samples}",
        "Largest difference of an output": f"{error:.3g}" if is_number(error) else "unknown",
        "First call": duration(trial.get("first_call_s")),
        "Pays for itself after": f"{calls:,} call{'s' if calls != 1 else ''}"
        if is_number(calls)
        else "never, or nothing to pay",
        "Timed pairs": f"{trial.get('pairs')}: {one_line(trial.get('stop_reason'))}",
    }


def _against(text: Callable[[Any], str], trial: Row, name: str) -> str:
    return f"{text(trial.get(name))}, baseline {text(trial.get(f'baseline_{name}'))}"


# The trials of one run share a compiler cache; the same recipe in the final race then shows the other cost.
COMPILE_CACHE = {
    "cold": "Its first call compiled everything: this run had not compiled the same graph before.",
    "warm": "Its first call found the compiled code in this run's cache; an earlier trial of this recipe paid for it.",
    "bypassed": "Its first call compiled everything: frozen weights are part of the code, which no cache keeps.",
}


def _samples(measurement: Row, environment: Row | None) -> None:
    """Raw pairs and the environment they were measured in."""
    if measurement.get("pairs_ms"):
        figure = charts.pairs(measurement["pairs_ms"])
        alt = "Latency of every timed call, baseline and candidate side by side"
        st.plotly_chart(figure, key="trial_pairs", config=charts.CONFIG, alt=alt)
    if environment and environment.get("compile_cache") in COMPILE_CACHE:
        st.caption(COMPILE_CACHE[environment["compile_cache"]])
    if environment:
        with st.expander("Measured in this environment"):
            st.json(environment, expanded=True)


def _trial_title(trial: Row) -> str:
    purpose = PURPOSE_WORDS.get(str(trial.get("purpose")), "")
    return f"{recipe_text(trial.get('recipe_key'))} ({purpose}, {outcome_text(trial.get('outcome'))})"
