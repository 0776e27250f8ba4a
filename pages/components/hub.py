"""The one place where pages meet the hub: a shared client, and rows made ready for drawing.

Streamlit runs every page, tab and refresh in its own thread, so they share one thread-safe client. Rows arrive with
JSON in text columns and NaN in number columns; here they become plain Python values and None, so no page has to think
about either. Tests replace `open_client`; nothing else in the pages knows where answers come from.
"""

from __future__ import annotations

import json
import math
from typing import Any, Protocol

import streamlit as st

from hybrid_core.errors import HubUnavailable

Row = dict[str, Any]


class HubClient(Protocol):
    """What pages use of `workers.client.Client`."""

    def submit(self, config: dict[str, Any], token: str = "") -> str: ...
    def cancel(self, run_id: str) -> str: ...
    def query(self, name: str, **params: Any) -> list[Row]: ...
    def catalog(self) -> dict[str, Any]: ...
    def bring_model(self, kind: str, path: str, name: str, labels: str = "") -> str: ...
    def forget_model(self, name: str) -> str: ...
    def recommend(self, model: str, workload: str = "", device: str = "cpu") -> list[Row]: ...
    def handover(self, run_id: str) -> Row: ...
    def export(self, run_id: str) -> Row: ...
    def export_state(self, run_id: str) -> Row: ...
    def read_export(self, run_id: str) -> bytes: ...
    def status(self) -> Row: ...


def open_client() -> HubClient:
    """Find the hub or start it."""
    from workers.client import ensure_hub  # here, so that tests and previews never start a hub by importing this file

    return ensure_hub()


@st.cache_resource(show_spinner="Looking for the hub …", show_time=False, max_entries=1)
def _shared_client() -> HubClient:
    return open_client()


def hub() -> HubClient:
    """The client all sessions share; it reconnects by itself, and starts a hub where there is none."""
    return _shared_client()


def query(name: str, **params: Any) -> list[Row]:
    """The rows of a named query, JSON columns decoded (`config_json` becomes `config`) and NaN turned into None."""
    return [_ready(row) for row in hub().query(name, **params)]


def find_run(run_id: str) -> Row | None:
    """One run, or None where the hub knows no run of that id."""
    rows = query("run", run_id=run_id)
    return rows[0] if rows else None


@st.cache_data(ttl=30, max_entries=1, show_spinner="Asking the hub what can be optimized …")
def catalog() -> dict[str, Any]:
    """Models, strategies, selection methods and devices; half a minute old is fresh, a changed model list clears it."""
    found = hub().catalog()
    if not found.get("models"):
        raise HubUnavailable("the hub's catalog lists no models yet; wait a moment and reload the page")
    return found


def forget() -> None:
    """Drop what is cached, so that the next question goes to a newly opened client."""
    _shared_client.clear()
    catalog.clear()


def _ready(row: Row) -> Row:
    ready: Row = {}
    for name, value in row.items():
        if name.endswith("_json"):
            ready[name.removesuffix("_json")] = _decoded(value)
        elif isinstance(value, float) and not math.isfinite(value):
            ready[name] = None
        else:
            ready[name] = value
    return ready


def _decoded(value: Any) -> Any:
    """JSON text as a value; text that is no JSON is a row written by something else, shown as missing."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None
