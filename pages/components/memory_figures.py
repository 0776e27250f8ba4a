"""The memory of one candidate: each figure with the untouched model's, and what it means on hover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import streamlit as st

from pages.components.format import bytes_text, is_number
from pages.components.meanings import MEMORY

Row = Mapping[str, Any]


class Figure(NamedTuple):
    """A label, the candidate's bytes as text, the untouched model's (empty where there is none), the meaning."""

    label: str
    value: str
    baseline: str
    meaning: str


def show(trial: Row, environment: Row) -> None:
    """The figures side by side."""
    st.markdown("**Memory**")
    with st.grid(4, min_column_width=165):
        for label, value, baseline, meaning in memory_figures(trial, environment):
            st.metric(
                label, value, baseline or None, help=meaning, delta_color="gray", delta_arrow="off", border=True,
                height="stretch",
            )  # fmt: skip


def memory_figures(trial: Row, environment: Row) -> list[Figure]:
    """Those that were measured, in the order of their meanings.

    >>> [figure[:3] for figure in memory_figures({"peak_bytes": 2048, "baseline_peak_bytes": 4096}, {})]
    [('Peak memory', '2.0 KiB', 'baseline 4.0 KiB')]
    """
    facts = environment.get("memory")
    facts = facts if isinstance(facts, Mapping) else {}
    figures = []
    for name, (label, meaning) in MEMORY.items():
        value, baseline = _values(name, trial, facts)
        if is_number(value):
            text = f"baseline {bytes_text(baseline)}" if is_number(baseline) else ""
            figures.append(Figure(label, bytes_text(value), text, meaning))
    return figures


def _values(name: str, trial: Row, facts: Row) -> tuple[Any, Any]:
    """The candidate's figure and the untouched model's."""
    stretch, _, figure = name.rpartition(".")
    if not stretch:
        return trial.get(name, facts.get(name)), trial.get(f"baseline_{name}")
    models = facts.get(stretch)
    of = {model: entry for model, entry in models.items() if isinstance(entry, Mapping)} if models else {}
    return of.get("candidate", {}).get(figure), of.get("baseline", {}).get(figure)
