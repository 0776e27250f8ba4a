"""Devices: processor, memory and GPUs now and over the last hour, and the processes that measure."""

import time

import streamlit as st

from pages.components import charts, tables
from pages.components.cards import refresh_s
from pages.components.format import ago, bytes_text, is_number, percent, plain
from pages.components.hub import query
from pages.components.states import come_in_through_app, guard

SPANS = {"10 minutes": 600, "1 hour": 3600, "24 hours": 86_400}
SLOWER = 5
UTILIZATION = {
    "cpu": ("Processor utilization", "Share of all cores' time in use, by any process."),
    "gpu": (
        "GPU utilization",
        "Share of the sample in which at least one kernel ran; it says nothing about how much of the GPU that used.",
    ),
}
CHARTS = (
    ("memory_used_bytes", "memory in use", "GiB", 1 / 2**30),
    ("power_w", "power", "W", 1.0),
    ("temperature_c", "temperature", "°C", 1.0),
    ("clock_mhz", "clock", "MHz", 1.0),
)


def device_card(device: dict, span_s: int) -> None:
    """The latest sample as numbers, then its history."""
    kind = "gpu" if device.get("kind") == "gpu" else "cpu"
    title, explanation = UTILIZATION[kind]
    st.subheader(plain(device.get("title") or device["device"]))
    st.caption(f"{plain(device['device'])}, last sample {ago(device.get('last_time'))}")
    used, total = device.get("memory_used_bytes"), device.get("memory_total_bytes")
    shown = [
        (title, percent((device["utilization_percent"] or 0) / 100, digits=0), explanation)
        if is_number(device.get("utilization_percent"))
        else (title, "unknown", explanation),
        ("Memory in use", f"{bytes_text(used)} of {bytes_text(total)}", None),
    ]
    for name, label, unit in (
        ("power_w", "Power", "W"),
        ("temperature_c", "Temperature", "°C"),
        ("clock_mhz", "Clock", "MHz"),
    ):
        if is_number(device.get(name)):
            shown.append((label, f"{device[name]:.0f} {unit}", None))
    with st.grid(5, min_column_width=170):
        for label, value, text in shown:
            st.metric(label, value, help=text, border=True)
    history(device, kind, span_s)
    held = tables.processes_table(device.get("processes"))
    if held:
        st.markdown("Processes that use it most")
        tables.draw(held, f"processes_{device['device']}", "Processes that use this device most")


def history(device: dict, kind: str, span_s: int) -> None:
    """Small charts of what is known of this device."""
    rows = query("device_samples", device=device["device"], since=time.time() - span_s, max_points=600)
    if len(rows) < 2:
        st.caption("The history starts with the second sample.")
        return
    wanted = [("utilization_percent", UTILIZATION[kind][0], "%", 1.0), *CHARTS]
    known = [w for w in wanted if any(is_number(r.get(w[0])) for r in rows)]
    tops = {"utilization_percent": 100, "memory_used_bytes": device.get("memory_total_bytes")}
    with st.grid(2, min_column_width=320):
        for column, title, unit, scale in known:
            figure = charts.history(rows, column, title, unit, scale=scale, top=tops.get(column))
            key, alt = f"history_{device['device']}_{column}", f"{title} of {device['device']} over time"
            st.plotly_chart(figure, key=key, config=charts.CONFIG, alt=alt)


@st.fragment(run_every=(refresh_s() or 0) * SLOWER or None)
def body(span_s: int) -> None:
    """Everything that changes."""
    with guard("devices"):
        devices = query("devices")
        if not devices:
            st.caption("The first sample arrives within seconds of the hub's start.")
        for device in devices:
            device_card(device, span_s)
        if devices and not any(d.get("kind") == "gpu" for d in devices):
            st.info("No GPU was found on this machine, so everything is measured on the processor.")
        st.subheader("Workers")
        workers = query("workers")
        if workers:
            tables.draw(tables.workers_table(workers), "workers_table", "Processes that measure")
        else:
            st.caption("No worker is running; one starts with the next run.")


come_in_through_app(__file__)
st.title("Devices")
span = st.segmented_control("History", list(SPANS), default="1 hour", required=True, key="span", bind="query-params")
body(SPANS[span])
