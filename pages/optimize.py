"""Optimize: choose what to optimize, how to search and what counts; then start the search."""

import json
import uuid

import streamlit as st

from hybrid_core.errors import HybridError
from pages.components import form, run_form
from pages.components.format import plain
from pages.components.hub import catalog, hub
from pages.components.states import come_in_through_app

come_in_through_app(__file__)
state = st.session_state
st.title("Optimize")

known = catalog()
for problem in form.prefill(known, st.query_params.to_dict()):
    st.info(f"The address was not fully understood: {plain(problem)}.")
values = form.read_values(known)
errors = {**run_form.field_errors(values), **run_form.fit_errors(known, values)}
errors |= run_form.settings_errors(known, values)

st.subheader("What")
form.subject(known, values, errors)
st.subheader("With which strategies")
form.strategies(known, values, errors)
st.subheader("What counts")
form.weights(values, errors)
form.bounds(values, errors)
st.subheader("How to search")
form.effort(known, values, errors)
form.search_method(known, values)
form.method(known, values)
form.advanced(errors)

config = run_form.build_config(values)
if errors:
    st.warning("Start is possible once the marked fields are mended.", icon=":material/edit:")
pressed = st.button(
    "Start the search", type="primary", icon=":material/play_arrow:", disabled=bool(errors), key="opt_start"
)
if not pressed and state.pop("opt_sent", None):
    # Back on this page after a submission: the same form again is a new run from here on.
    state.pop("opt_nonce", None)
if pressed:
    nonce = state.setdefault("opt_nonce", uuid.uuid4().hex)
    try:
        with st.spinner("Handing the run to the hub …"):
            run_id = hub().submit(config, token=run_form.submission_token(nonce, config))
    except HybridError as error:
        st.error(f"Not started: {plain(error, 500)}. The form is unchanged; mend it or press start again.")
    else:
        state["opt_sent"] = run_id
        st.switch_page("pages/live.py", query_params={"run": run_id})

with st.expander("The same as JSON and as a command"):
    st.code(json.dumps(config, indent=2), language="json")
    st.code(run_form.command_line(config), language="bash", wrap_lines=True)
