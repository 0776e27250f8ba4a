"""The card of facts of one model: what it is, how large, where it fits, how good, what may be timed, its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from pages.components import model_facts, tables
from pages.components.format import one_line, plain
from pages.components.states import guard

Row = Mapping[str, Any]


def card(model: Row, devices: Sequence[Row]) -> None:
    """Everything known of a model."""
    with st.container(border=True):
        heading(model)
        with guard("the sizes"):
            sizes(model, devices)
        with guard("the quality"):
            quality(model)
        with guard("the workloads"):
            st.markdown("**Workloads**")
            tables.draw(model_facts.workloads_table(model), "model_workloads", "What may be timed at each size")
        bullets("What it cannot do", model_facts.sentences_by_size(model, "limits"))
        bullets("Sources", model_facts.sentences_by_size(model, "sources"))
        if training := model_facts.training_facts(model):
            with st.expander("How the trained size was trained"):
                pairs = {plain(name): plain(value) for name, value in training.items()}
                st.table(pairs, border="horizontal")


def heading(model: Row) -> None:
    """Title, where it comes from, what it is, and the way to the form."""
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.markdown(f"### {plain(model.get('title') or model.get('name'), 80)}", width="content")
        if st.button("Optimize this model", type="primary", icon=":material/tune:", key="model_optimize"):
            st.switch_page("pages/optimize.py", query_params=form_address(model))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(
            "brought in" if model.get("brought") else "registry", color="violet" if model.get("brought") else "blue"
        )
        st.badge(plain(model.get("family"), 60), color="gray")
        if model.get("brought"):
            st.caption(f"as {plain(model['name'])} from {plain(model.get('path'), 200)}")
    st.markdown(plain(model.get("description"), 1000))
    said = {one_line(model_facts.facts_of(model, size).get("architecture"), 1000) for size in model["sizes"]}
    for text in sorted(said - {""}):
        st.caption(plain(text, 1000))


def form_address(model: Row) -> dict[str, str]:
    """The model in the form: at its first size that fits somewhere here."""
    fits = {s: model_facts.facts_of(model, s).get("fits") for s in model["sizes"]}
    good = [s for s, by_device in fits.items() if not by_device or any(f.get("fits") for f in by_device.values())]
    return {"model": str(model["name"]), "size": str((good or model["sizes"])[0])}


def sizes(model: Row, devices: Sequence[Row]) -> None:
    """Parameters built beside published, memory, and where a run fits."""
    st.markdown("**Sizes**")
    table = model_facts.sizes_table(model, devices)
    tables.draw(table, "model_sizes", "Parameters, memory and fitting devices of each size")
    for text in model_facts.misfits(model, devices):
        st.caption(plain(text, 400))
    st.caption(
        "Memory is that of the weights alone; scales of quantized weights come on top. Cache per token is for one "
        "sequence in float32."
    )


def quality(model: Row) -> None:
    """The task's figures beside the trivial answer, or why there are none."""
    size, found = model_facts.quality_of(model)
    if not size:
        st.markdown("**Quality**")
        st.caption("It has no task with held-out data, so accuracy means agreement with the untouched model.")
        return
    st.markdown(f"**Quality of {plain(size, 40)}**")
    with st.grid(4, min_column_width=165):
        for label, value, interval, text in model_facts.quality_figures(found):
            quiet: dict[str, Any] = {"delta_color": "gray", "delta_arrow": "off", "border": True, "height": "stretch"}
            st.metric(plain(label), value, interval or None, help=plain(text), **quiet)


def bullets(title: str, sentences: Sequence[str]) -> None:
    """A list of sentences under a small heading; nothing where there are none."""
    if sentences:
        st.markdown(f"**{title}**")
        st.markdown("\n".join(f"- {plain(text, 500)}" for text in sentences))
