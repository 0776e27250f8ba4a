"""Bring your own: what to read from this machine, and what became of it.

The page hands words to the hub and opens nothing; a process of its own reads the files. While one is being checked
this part refreshes itself, and the whole page is drawn anew when the answer is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from hybrid_core.errors import HybridError
from pages.components.cards import refresh_s
from pages.components.format import ago, clock, plain, sentence
from pages.components.hub import catalog, hub, query
from pages.components.states import guard

Row = Mapping[str, Any]
KINDS = {
    "huggingface": "Hugging Face folder",
    "exported": "Exported program (.pt2)",
    "factory": "Python factory",
}
CAPTIONS = (
    "A folder with config.json and safetensors. Nothing in it is executed.",
    "What torch.export.save wrote.",
    "module:function that returns a module. This runs your code.",
)
EXAMPLES = {
    "huggingface": "/home/me/models/my-llama",
    "exported": "/home/me/net.pt2",
    "factory": "my_package.nets:make",
}
STATES = {"checking": ("being checked", "blue"), "ready": ("ready", "green"), "refused": ("refused", "red")}


def form() -> None:
    """The fields and the button; what the hub does not allow is said below, and the fields keep their content."""
    state = st.session_state
    code = hub().status()
    is_code_on = bool(code.get("allow_code"))
    kind = st.radio("What is it?", list(KINDS), format_func=KINDS.get, captions=CAPTIONS, key="bring_kind")
    with st.grid(2, min_column_width=260):
        label = "module:function" if kind == "factory" else "Full path on this machine"
        st.text_input(label, key="bring_path", max_chars=4096, placeholder=EXAMPLES[kind])
        text = "1 to 40 lower-case letters, digits, hyphens and underscores; a letter or digit first."
        st.text_input("Name", key="bring_name", max_chars=40, placeholder="my-model", help=text)
        text = (
            "A small file with inputs and right answers; without one, accuracy is agreement with the untouched model."
        )
        st.text_input("Labelled file (optional)", key="bring_labels", max_chars=4096, help=text)
    st.caption(code_sentence(code))
    is_closed = kind == "factory" and not is_code_on
    if st.button("Bring it in", type="primary", icon=":material/upload:", key="bring_start", disabled=is_closed):
        name = str(state["bring_name"])
        try:
            was_ready = any(row["name"] == name and row["state"] == "ready" for row in query("brought_models"))
            hub().bring_model(kind, state["bring_path"], name, state["bring_labels"])
        except HybridError as error:
            st.error(f"Not brought in: {sentence(error, 500)}", icon=":material/edit:")
        else:
            state["brought_here"] = name
            if was_ready:
                st.info(f"{plain(name)} was brought in before; forget it to have it read anew.")


def code_sentence(code: Row) -> str:
    """Whether Python code may be brought in, and how that is changed: never from a page."""
    if not code.get("allow_code"):
        return (
            "Python code is off. To allow it, stop the hub, start it with `python -m workers dashboard --allow-code`, "
            "and list the package in `allowed_packages.txt` of the data folder."
        )
    listed = ", ".join(plain(name, 60) for name in code.get("allowed_packages") or [])
    return f"Python code is on for these packages: {listed or 'none yet; list them in allowed_packages.txt'}."


def brought() -> None:
    """What was brought in and where it stands; refreshes itself while something is being checked."""
    with guard("the brought models"):
        rows = query("brought_models")
        draw_anew_if_changed(rows)
        is_busy = any(row["state"] == "checking" for row in rows)
        st.fragment(run_every=refresh_s() if is_busy else None)(_listed)()


def draw_anew_if_changed(rows: Sequence[Row]) -> None:
    """Draw the whole page once more when the catalog it was drawn from is older than these rows."""
    state = st.session_state
    ready = {str(row["name"]) for row in rows if row["state"] == "ready"}
    now = {str(row["model_id"]): str(row["state"]) for row in rows}
    if is_older(catalog()["models"], ready) and state.get("brought_seen") != now:
        state["brought_seen"] = now  # once per change: what the hub does not offer must not be asked for for ever
        catalog.clear()
        if state.get("brought_here") in ready:
            state["show_model"] = state.pop("brought_here")
        st.rerun()
    was_busy, is_busy = state.get("brought_busy", False), "checking" in now.values()
    state["brought_busy"] = is_busy
    if was_busy and not is_busy:
        st.rerun()


def is_older(models: Sequence[Row], ready: set[str]) -> bool:
    """Whether the models lack one that is ready, or hold one that was forgotten."""
    offered = {str(model["name"]) for model in models}
    kept = {str(model["name"]) for model in models if model.get("brought")}
    return bool(ready - offered or kept - ready)


def _listed() -> None:
    with guard("the list of brought models"):
        rows = query("brought_models")
        draw_anew_if_changed(rows)
        if not rows:
            st.caption("Nothing was brought in yet.")
        for row in rows:
            _entry(row)


def _entry(row: Row) -> None:
    name, (word, colour) = str(row["name"]), STATES.get(str(row["state"]), (str(row["state"]), "gray"))
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(plain(word), color=colour)  # type: ignore[arg-type]
            st.markdown(f"**{plain(name)}**", width="content")
            when = row.get("ended_at") or row.get("created_at")
            st.caption(f"{plain(KINDS.get(str(row['kind']), row['kind']))}, {ago(when)}", help=clock(when) or None)
            _forget_button(name)
        st.caption(plain(row.get("path"), 300))
        if row["state"] == "checking":
            st.markdown("A process of its own is reading it; this takes seconds, at most three minutes.")
        elif row["state"] == "refused":
            reason = plain(row.get("reason"), 600)
            st.markdown(f"**Not usable:** {reason}. Mend it and bring it in again under the same name.")


def _forget_button(name: str) -> None:
    """Forget after one more question."""
    with st.popover("Forget", icon=":material/delete:"):
        st.markdown("Take it out of every form? Its files and the runs that measured it stay.")
        if st.button("Yes, forget it", key=f"forget_{name}", type="primary"):
            with guard("forget"):
                hub().forget_model(name)
                st.session_state["said"] = f"{name} was forgotten; its files and runs are untouched."
                catalog.clear()
                st.rerun()
