"""What every figure of the dashboard is made on: an empty frame with titled axes, the colours, the baseline's line.

One colour means one thing everywhere: grey is the untouched baseline, blue what was measured or won, muted red a
failure (which also has its own mark, a cross, and its cause in words). Pale blue is the same thing, not chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

MAX_POINTS = 5_000
# Middle tones that stay legible on the light and on the dark background.
BASELINE, MEASURED, FAILED, FADED = "#8A95A1", "#3E8FD0", "#C4665C", "rgba(138,149,161,0.45)"
PALE = "rgba(62,143,208,0.42)"
SPEED_AXIS = "speed (times the baseline)"
MEMORY_AXIS = "memory efficiency (times the baseline)"
FITNESS_AXIS = "fitness (weighted sum of ratios)"
CONFIG = {"displaylogo": False, "displayModeBar": False, "responsive": True}


def blank(x_title: str, y_title: str, revision: str, note: str = "") -> go.Figure:
    """An empty figure; each title ends with its unit in brackets, `revision` keeps a zoom over refreshes."""
    figure = go.Figure()
    figure.update_layout(
        height=360,
        margin={"l": 8, "r": 8, "t": 34 if note else 12, "b": 8},
        title={"text": note, "font": {"size": 12}} if note else None,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0, "font": {"size": 12}},
        showlegend=True,
        uirevision=revision,
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(title={"text": x_title, "standoff": 10}, automargin=True, zeroline=False)
    figure.update_yaxes(title={"text": y_title, "standoff": 12}, automargin=True, zeroline=False)
    return figure


def baseline_line(figure: go.Figure, x: float | None = None, y: float | None = None) -> None:
    """A dashed grey line where the untouched model is; named once, at the end where points are rare."""
    line = {"color": BASELINE, "width": 1.2, "dash": "dash"}
    if x is not None:
        figure.add_shape(type="line", x0=x, x1=x, y0=0, y1=1, yref="paper", line=line, name="baseline")
    if y is not None:
        figure.add_shape(type="line", x0=0, x1=1, xref="paper", y0=y, y1=y, line=line, name="baseline")
        label = {"text": "baseline", "font": {"color": BASELINE, "size": 11}, "showarrow": False}
        figure.add_annotation(x=1, xref="paper", xanchor="right", y=y, yanchor="bottom", **label)


def marker(symbol: str, colour: str, *, is_open: bool = False, size: int = 9) -> dict[str, Any]:
    """How a point looks; open ones are drawn as an outline."""
    name = f"{symbol}-open" if is_open and not symbol.endswith("-open") else symbol
    return {"symbol": name, "color": colour, "size": size, "line": {"width": 2 if is_open else 0, "color": colour}}


def thinned(rows: Sequence[Any], limit: int = MAX_POINTS) -> tuple[list[Any], str]:
    """At most `limit` rows, evenly taken, and the sentence that says so."""
    if len(rows) <= limit:
        return list(rows), ""
    step = len(rows) / limit
    return [rows[int(i * step)] for i in range(limit)], f"showing {limit:,} of {len(rows):,}"
