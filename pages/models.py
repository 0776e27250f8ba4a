"""Models: the card of facts of everything that can be optimized, and the way to bring your own."""

from typing import Any

import streamlit as st

from pages.components import bring_form, model_facts, tables
from pages.components.format import plain
from pages.components.hub import catalog
from pages.components.model_card import card
from pages.components.states import asked_for, come_in_through_app, guard


def choose(models: dict[str, dict[str, Any]]) -> str:
    """The model of the address, or the one a person picks here, which then stands in the address.

    By hand and not with `bind`, which would write the title into the address and not the name.
    """
    state, asked = st.session_state, asked_for("model", list(models), "the model")
    wanted = state.pop("show_model", "") or (asked if asked != state.get("models_address") else "")
    if wanted in models:
        state["models_choice"] = wanted
    elif state.get("models_choice") not in models:
        state["models_choice"] = asked or next(iter(models))
    name = st.selectbox(
        "Model", list(models), key="models_choice", format_func=lambda option: model_facts.title_of(models[option])
    )
    state["models_address"] = st.query_params["model"] = name
    return str(name)


come_in_through_app(__file__)
st.title("Models")

known = catalog()
models = {m["name"]: m for m in known["models"]}
name = choose(models)
card(models[name], known["devices"])

st.subheader("All models")
with guard("the table of models"):
    table = model_facts.overview_table(known["models"], known["devices"])
    tables.draw(table, "models_table", "Every model with its sizes and its quality")

st.subheader("Bring your own")
if said := st.session_state.pop("said", ""):
    st.success(plain(said))
with guard("the form"):
    bring_form.form()
bring_form.brought()
