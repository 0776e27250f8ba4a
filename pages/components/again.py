"""Measuring one candidate again: the command to copy, and what a run that only repeats found."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from pages.components import tables
from pages.components.format import is_number, one_line, plain, sentence

Row = Mapping[str, Any]
VERDICT_WORDS = {"inside": "inside the interval of then", "overlap": "the intervals overlap", "differs": "differs"}


def command(trial: Row) -> None:
    """What to type to have this candidate measured again; only one that has figures can be compared."""
    if trial.get("outcome") == "ok":
        st.caption(
            "Measure it again in fresh processes, on this machine and when its device is free, and see whether the "
            "figures agree:"
        )
        st.code(f"python -m workers repeat {shlex.quote(str(trial['trial_id']))}", language="bash")


def repeats(run: Row) -> str:
    """The id of the trial that the run measures again, empty for a search."""
    return str((run.get("config") or {}).get("repeats") or "")


def repetition(run: Row, result: Row) -> None:
    """What was measured again, whether it agrees, and what is not as it was."""
    with st.container(border=True):
        st.markdown("### Measured again")
        st.markdown(sentence(run.get("cause") or "no cause was recorded", 900))
        findings: Sequence[Row] = result.get("findings") or ()
        if findings:
            rows = {
                "Figure": [one_line(f.get("name")) for f in findings],
                "Then": [_interval(f.get("original")) for f in findings],
                "Now": [_interval(f.get("repeated")) for f in findings],
                "Verdict": [VERDICT_WORDS.get(str(f.get("verdict")), "unknown") for f in findings],
            }
            tables.draw(rows, "repetition", "Each figure then and now, with its verdict")
        differences = result.get("differences") or {}
        if differences:
            st.markdown(f"Not as it was: {plain(', '.join(differences), 600)}.")
            with st.expander("Then and now"):
                st.json(differences, expanded=True)
        st.caption("A repetition takes part in no race: leaderboard and recommendations do not count it.")


def _interval(estimate: Any) -> str:
    found = estimate if isinstance(estimate, Mapping) else {}
    if not all(is_number(found.get(name)) for name in ("value", "low", "high")):
        return "unknown"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
