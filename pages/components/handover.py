"""What to take away from a finished run: a script, the recipe, and a folder with weights that checks itself elsewhere.

The folder is made by a process of the hub when somebody asks for it, because making it builds the model; until then
and while it is being made the page says so. What is too large to pass through a browser is a command to paste.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import streamlit as st

from pages.components.cards import refresh_s
from pages.components.format import bytes_text, plain, sentence
from pages.components.hub import hub
from pages.components.states import guard

BUSY = ("waiting", "working")


def take_away(run_id: str) -> None:
    """The winner as code, as a recipe and as a folder."""
    st.subheader("Take it away")
    made = hub().handover(run_id)
    code, recipe = str(made.get("code") or ""), str(made.get("recipe_json") or "")
    as_code, as_recipe, as_folder = st.tabs(["Python", "Recipe (JSON)", "Folder"])
    with as_code:
        st.code(code, language="python")
        st.download_button("Download code", code, "optimized_model.py", "text/x-python", on_click="ignore")
    with as_recipe:
        st.code(recipe, language="json")
        st.download_button("Download recipe", recipe, "recipe.json", "application/json", on_click="ignore")
    with as_folder:
        st.markdown(
            "The recipe, the changed weights, a model card with these figures, and `verify.py`, which checks all of it "
            "on the machine it is started on and measures again."
        )
        is_busy = hub().export_state(run_id)["state"] in BUSY
        st.fragment(_folder, run_every=refresh_s() if is_busy else None)(run_id, is_busy)
        st.caption("Or write it yourself, on this machine:")
        st.code(f"python -m workers export {shlex.quote(run_id)} my-model", language="bash")


def _folder(run_id: str, was_busy: bool) -> None:
    """The download's state; refreshes itself while it is being made."""
    with guard("the folder to take away"):
        found = hub().export_state(run_id)
        is_busy = found["state"] in BUSY
        if was_busy and not is_busy:
            st.rerun()  # the whole page: its timer is not needed any more
        if is_busy:
            now = f": {plain(found['phase'])}" if found["phase"] else ""
            st.markdown(f":material/hourglass_top: The folder is being made{now}.")
        elif found["state"] == "ready":
            _download(run_id, found)
        elif found["state"] == "too_large":
            most = bytes_text(found["max_bytes"])
            st.info(
                f"The folder has {bytes_text(found['bytes'])}; up to {most} can be downloaded here. Use the command."
            )
        else:
            _ask_for_it(run_id, found)


def _download(run_id: str, found: Mapping[str, Any]) -> None:
    st.download_button(
        f"Download folder ({bytes_text(found['bytes'])})",
        lambda: hub().read_export(run_id),
        f"{run_id}.zip",
        "application/zip",
        key="download_folder",
        on_click="ignore",
    )


def _ask_for_it(run_id: str, found: Mapping[str, Any]) -> None:
    """The button, with what went wrong the last time."""
    if found["state"] == "failed":
        st.warning(f"The folder could not be made: {sentence(found['reason'], 600)}")
    text = f"It is made once, in a process of its own, and can be downloaded up to {bytes_text(found['max_bytes'])}."
    if st.button("Prepare the folder", key="prepare_folder", icon=":material/folder_zip:", help=text):
        hub().export(run_id)
        st.rerun()
