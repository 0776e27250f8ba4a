"""What ensembles gained against the product of their parts, and what failed together: tables and a way to forget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from hybrid_core.errors import HybridError
from pages.components import tables
from pages.components.format import TIMES, ago, interval, is_number, one_line, outcome_text, plain, recipe_text
from pages.components.hub import hub, query

Row = Mapping[str, Any]


def synergy_part(run_id: str) -> None:
    """The ensembles of one run; nothing where no ensemble was measured beside its parts."""
    rows = query("synergies", run_id=run_id)
    if not rows:
        return
    st.subheader("Together against the product of the parts")
    tables.draw(synergy_table(rows), "run_synergies", "Every ensemble: measured ratio, product of its single settings")
    st.caption(
        "If settings do not help or hinder each other, their ratios multiply. Synergy is measured / product with its "
        "95 % interval; better or worse only where that excludes 1 and exceeds the noise of all trials in it."
    )


def synergy_table(rows: Sequence[Row]) -> tables.Table:
    """One row per ensemble and objective."""
    table: tables.Table = {
        "Recipe": [recipe_text(r.get("recipe_key")) for r in rows],
        "Of": [one_line(r.get("objective")) for r in rows],
        "Verdict": [one_line(r.get("verdict")) for r in rows],
    }
    for name, title in (("synergy", "Synergy"), ("measured", "Measured"), ("product", "Product of singles")):
        table[title] = [_with_interval(r, name) for r in rows]
    return table


def conflicts_part() -> None:
    """What failed together though each setting works alone, and a button to have it tried again."""
    rows = query("conflicts")
    st.subheader("Failed together, not tried again")
    if not rows:
        st.caption("No combination is known to fail whose settings work alone.")
        return
    tables.draw(conflicts_table(rows), "conflicts_table", "Combinations that failed, with reason and evidence")
    st.caption("Each holds for one family of models on one device under the same versions, and no longer.")
    by_title = {f"{recipe_text(r['recipe_key'])} ({r['family']}, {r['device']}, {r['conflict_id']})": r for r in rows}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        title = st.selectbox("Let it be tried again", list(by_title), key="conflict")
        pressed = st.button("Forget", icon=":material/undo:", key="forget_conflict")
    if pressed:
        try:
            said = hub().forget_conflict(str(by_title[title]["conflict_id"]))
        except HybridError as error:
            st.error(plain(error, 500))
        else:
            st.success(plain(said, 500))


def conflicts_table(rows: Sequence[Row]) -> tables.Table:
    """One row per remembered conflict."""
    return {
        "Recipe": [recipe_text(r.get("recipe_key")) for r in rows],
        "Models": [one_line(r.get("family"), 60) for r in rows],
        "Device": [one_line(r.get("device"), 60) for r in rows],
        "Result": [outcome_text(r.get("outcome")) for r in rows],
        "Why": [one_line(r.get("reason"), 300) for r in rows],
        "Each works alone": [one_line(r.get("evidence"), 300) for r in rows],
        "When": [ago(r.get("started_at")) for r in rows],
        "Run": [one_line(r.get("run_id"), 60) for r in rows],
        "Holds for": [one_line(r.get("versions"), 200) for r in rows],
    }


def _with_interval(row: Row, name: str) -> str:
    value = row.get(name)
    if not is_number(value):
        return "unknown"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return f"{value:.2f}{TIMES}" + ("" if low == high else f" {interval(low, high)}")
