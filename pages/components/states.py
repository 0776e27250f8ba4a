"""The calm sentences: nothing here yet, the hub is away, something unexpected happened.

Every page and every self-refreshing part runs inside `guard`, so a person never sees a traceback: expected errors are
their own sentence, unexpected ones become one sentence with the number under which the log holds the trace.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import streamlit as st

from hybrid_core.errors import HubUnavailable, HybridError
from pages.components.format import plain, sentence
from pages.components.hub import forget

CAME_THROUGH_APP = "came_through_app"
LOG = logging.getLogger("hybrid.pages")
STATE_COLOURS = {"queued": "gray", "running": "blue", "finished": "green", "cancelled": "gray", "failed": "red"}


def come_in_through_app(page_file: str) -> None:
    """First line of every page: make sure that app.py, with its table of pages and its error boundary, ran before it.

    A fresh server whose first visitor follows a deep link finds the folder `pages/` by itself and runs the page alone,
    with file names as the navigation, for every session until somebody opens "/". Calling `st.navigation` once ends
    that for the whole server; the rerun then goes through app.py.
    """
    if not st.session_state.pop(CAME_THROUGH_APP, False):
        home = st.Page("pages/home.py", default=True)
        others = [] if page_file.endswith("home.py") else [st.Page(page_file)]
        st.navigation([home, *others], position="hidden")
        st.rerun()


@contextmanager
def guard(what: str) -> Iterator[None]:
    """Turn every error of a page or fragment into one sentence; Streamlit's own control flow passes through."""
    try:
        yield
    except HubUnavailable as error:
        forget()
        st.warning(
            f"The hub is away: {plain(error, 500)}. Runs that are being measured write their results to "
            "disk meanwhile, so nothing is lost. Parts that refresh themselves continue by themselves.",
            icon=":material/cloud_off:",
        )
        st.button("Try again", icon=":material/refresh:", key=f"again_{what}")
    except HybridError as error:
        st.warning(sentence(error, 500), icon=":material/info:")
    except Exception:
        number = uuid.uuid4().hex[:8]
        LOG.exception("%s failed, error %s", what, number)
        st.error(
            f"This part of the page could not be drawn. The other pages are unaffected; the log of the dashboard "
            f"explains it under error {number}.",
            icon=":material/error:",
        )


def empty(sentence: str, page: str = "", label: str = "", **query_params: str) -> None:
    """Say that there is nothing yet, and where the next click is."""
    with st.container(border=True):
        st.markdown(sentence)
        if page:
            st.page_link(page, label=label, icon=":material/arrow_forward:", query_params=query_params or None)


def state_badge(state: Any) -> None:
    """The state of a run as a word in its colour."""
    st.badge(plain(state), color=STATE_COLOURS.get(str(state), "gray"))  # type: ignore[arg-type]


def asked_for(param: str, allowed: Sequence[str], what: str) -> str:
    """The value of a query parameter if it is allowed, else "" with a sentence saying what was not understood."""
    value = st.query_params.get(param, "")
    if value and value not in allowed:
        choices = ", ".join(plain(name, 60) for name in allowed[:12]) or "nothing yet"
        st.info(f"The address asks for {what} {plain(value, 60)}, which is unknown here. Known: {choices}.")
        return ""
    return value


def run_from_address(page: str) -> str:
    """The run id of the address; without one, links to the latest runs instead and stop the page."""
    from pages.components.tables import run_links

    run_id = st.query_params.get("run", "")
    if not run_id:
        st.markdown("Choose a run:")
        run_links(page)
        st.stop()
    return run_id


def unknown_run(run_id: str) -> None:
    """Explain an id that the hub does not know."""
    empty(
        f"There is no run {plain(run_id, 60)}. It may have been removed, or the address was cut off.",
        "pages/home.py",
        "See all runs",
    )
