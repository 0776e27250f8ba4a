"""The charts of what a search learned: prediction against measurement, a policy's training, who may become a parent.

Pure functions from rows to figures, on the frame of `chart_frame`. Gains are factors on the untouched model's fitness
and stand on logarithmic axes, because twice as good and half as good are equally far from no change. Blue is what was
measured or chosen, pale blue the same kind of thing not chosen, grey the untouched model; proposers differ by mark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from pages.components.chart_frame import (
    BASELINE,
    FADED,
    FAILED,
    MAX_POINTS,
    MEASURED,
    PALE,
    baseline_line,
    blank,
    marker,
    thinned,
)
from pages.components.format import chart_text, is_number, outcome_text, percent, ratio, recipe_text
from pages.components.methods import search_title
from pages.components.proposed import Proposal

Row = Mapping[str, Any]
MARKS = ("circle", "square", "diamond", "triangle-up", "star", "hexagon", "pentagon", "triangle-down")
TICKS = (
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    0.7,
    0.8,
    0.9,
    1.0,
    1.1,
    1.2,
    1.3,
    1.5,
    1.7,
    2.0,
    2.5,
    3.0,
    4.0,
    5.0,
    7.0,
    10.0,
    20.0,
)
# What a chart of bars shows at most; more would not be legible.
MOST_BARS = 16
BAR_PX = 24
SMALL_PX = 250


def foretold(proposals: Sequence[Proposal]) -> go.Figure:
    """What was predicted of each proposal against what was measured, both with their 95 % intervals."""
    known = [p for p in proposals if p.predicted is not None and p.outcome]
    shown, note = thinned(known)
    figure = blank("predicted fitness (times the baseline)", "measured fitness (times the baseline)", "foretold", note)
    measured = [p for p in shown if p.outcome == "ok" and p.gain is not None]
    ends = _span([1.0, *(p.predicted for p in shown), *(p.gain for p in measured)])
    _log_axes(figure, ends)
    baseline_line(figure, x=1.0)
    baseline_line(figure, y=1.0)
    # Plotly places notes on a logarithmic axis by the logarithm, lines by the value.
    figure.layout.annotations[-1].y = 0.0
    line = {"color": BASELINE, "width": 1.2, "dash": "dot"}
    figure.add_scatter(x=list(ends), y=list(ends), mode="lines", line=line, name="as predicted", hoverinfo="skip")
    for place, by in enumerate(dict.fromkeys(p.by for p in measured)):
        mine = [p for p in measured if p.by == by]
        figure.add_scatter(
            x=[p.predicted for p in mine],
            y=[p.gain for p in mine],
            error_x=_errors([(p.predicted, p.predicted_low, p.predicted_high) for p in mine]),
            error_y=_errors([(p.gain, p.gain_low, p.gain_high) for p in mine]),
            mode="markers",
            name=chart_text(search_title(by), 40),
            marker=marker(MARKS[place % len(MARKS)], MEASURED)
            | {"color": [MEASURED if p.is_fair else FADED for p in mine]},
            hovertext=[_foretold_hover(p) for p in mine],
            hoverinfo="text",
        )
    if failed := [p for p in shown if p.outcome != "ok"]:
        # At the lower edge, because a failure has no height.
        figure.add_scatter(
            x=[p.predicted for p in failed], y=[ends[0] * 1.01] * len(failed), mode="markers", name="failed",
            marker=marker("x", FAILED), hovertext=[_foretold_hover(p) for p in failed], hoverinfo="text",
        )  # fmt: skip
    figure.update_layout(height=420)
    return figure


def curves(
    series: Mapping[str, Sequence[Any]], title: str, unit: str, x_title: str, xs: Sequence[Any] = (),
    baseline: float | None = None,
) -> go.Figure:  # fmt: skip
    """One quantity over a training, the first series in full colour; gaps where it is unknown. `xs` count from 1."""
    figure = blank(x_title, f"{title} ({unit})", f"curve_{title}")
    figure.update_layout(height=SMALL_PX, showlegend=len(series) > 1)
    if baseline is not None:
        baseline_line(figure, y=baseline)
    looks = ((MEASURED, 1.8, "solid"), (PALE, 1.5, "solid"), (MEASURED, 1.2, "dot"))
    drawn = []
    for (name, values), (colour, width, dash) in zip(series.items(), looks, strict=False):
        places = xs if len(xs) == len(values) else range(1, len(values) + 1)
        points, note = thinned(list(zip(places, values, strict=True)), MAX_POINTS // len(series))
        if note:
            figure.update_layout(title={"text": note, "font": {"size": 12}}, margin={"t": 34})
        drawn.append(_line(points, name, unit, {"color": colour, "width": width, "dash": dash}))
    # The first lies on top.
    for trace in reversed(drawn):
        figure.add_trace(trace)
    figure.update_layout(legend={"traceorder": "reversed"})
    return figure


def accuracies(values: Sequence[Any], kept: Sequence[Any], x_title: str) -> go.Figure:
    """The share of each group's recipes that succeeded; groups that taught nothing are pale."""
    known = [(n, v, len(kept) < n or bool(kept[n - 1])) for n, v in enumerate(values, 1) if is_number(v)]
    shown, note = thinned(known)
    figure = blank(x_title, "succeeded (share of the group)", "accuracies", note)
    figure.update_layout(height=SMALL_PX)
    for name, is_kept, colour, is_open in (("trained on", True, MEASURED, False), ("left out", False, PALE, True)):
        mine = [(n, v) for n, v, was_kept in shown if was_kept == is_kept]
        if mine:
            xs, ys = zip(*mine, strict=True)
            look = marker("circle", colour, is_open=is_open, size=6)
            said = "group %{x}: %{y:.0%} succeeded<extra>" + name + "</extra>"
            figure.add_scatter(x=xs, y=ys, mode="markers", name=name, marker=look, hovertemplate=said)
    figure.update_yaxes(range=[-0.06, 1.06], tickformat=".0%")
    return figure


def policy(slot: str, probabilities: Mapping[str, Any]) -> go.Figure:
    """How likely the trained policy takes each setting of one slot; "off" is the untouched model's choice."""
    rows = sorted(((name, p) for name, p in probabilities.items() if is_number(p)), key=lambda row: -row[1])
    even = 1 / len(rows) if rows else None
    colours = {name: BASELINE if name == "off" else MEASURED for name, _ in rows}
    figure = _bars(rows, colours, f"probability in {chart_text(slot, 60)} (%)", f"policy_{slot}")
    # The same length everywhere, so that slots can be compared; beyond 100 is room for the figure at a bar's end.
    figure.update_xaxes(range=[0, 114], tickvals=[0, 25, 50, 75, 100])
    if even:
        line = {"color": BASELINE, "width": 1.2, "dash": "dot"}
        figure.add_shape(
            type="line", x0=100 * even, x1=100 * even, y0=0, y1=1, yref="paper", line=line, name="even", layer="below"
        )
    return figure


def chances(probabilities: Mapping[str, Any], parents: Sequence[str]) -> go.Figure:
    """Each candidate's chance to become a parent in one draw, those that became one in full colour."""
    rows = sorted(((key, p) for key, p in probabilities.items() if is_number(p)), key=lambda row: -row[1])
    colours = {key: MEASURED if key in parents else PALE for key, _ in rows}
    return _bars(rows, colours, "chance to become a parent (%)", "chances", recipe_text)


def _bars(
    rows: Sequence[tuple[str, Any]], colours: Mapping[str, str], x_title: str, revision: str, text: Any = str
) -> go.Figure:
    """Horizontal bars, the largest on top; beyond `MOST_BARS` the rest is one bar that says how many it stands for."""
    shown = list(rows[:MOST_BARS])
    labels = [_wrapped(text(name)) for name, _ in shown]
    colour = [colours[name] for name, _ in shown]
    if rest := rows[MOST_BARS:]:
        shown.append(("", sum(p for _, p in rest)))
        labels.append(f"{len(rest)} others together")
        colour.append(PALE)
    figure = blank(x_title, "", revision)
    figure.add_bar(
        x=[100 * p for _, p in shown], y=list(range(len(shown))), orientation="h", marker={"color": colour},
        text=[percent(p) if p >= 0.001 else "" for _, p in shown], textposition="outside", cliponaxis=False,
        hovertext=[f"{label}: {percent(p, digits=2)}" for label, (_, p) in zip(labels, shown, strict=True)],
        hoverinfo="text", showlegend=False,
    )  # fmt: skip
    lines = sum(1 + label.count("<br>") for label in labels)
    figure.update_yaxes(title=None, tickvals=list(range(len(shown))), ticktext=labels, autorange="reversed")
    most = max((100 * p for _, p in shown), default=1.0)
    figure.update_xaxes(range=[0, most * 1.18 or 1.0])
    figure.update_layout(height=70 + BAR_PX * max(2, lines), bargap=0.3)
    return figure


def _line(points: Sequence[tuple[Any, Any]], name: str, unit: str, line: dict[str, Any]) -> go.Scatter:
    return go.Scatter(
        x=[x for x, _ in points], y=[v if is_number(v) else None for _, v in points], name=name, line=line,
        mode="lines" if len(points) > 1 else "markers", marker={"color": line["color"]},
        hovertemplate="%{y:.4g} " + unit + ", at %{x}<extra>" + name + "</extra>",
    )  # fmt: skip


def _span(values: Sequence[Any]) -> tuple[float, float]:
    """Both ends of the axes: all values with a margin, so that both axes are the same."""
    known = [v for v in values if is_number(v) and v > 0]
    low, high = min(known), max(known)
    margin = max(1.03, (high / low) ** 0.08)
    return low / margin, high * margin


def _log_axes(figure: go.Figure, ends: tuple[float, float]) -> None:
    inside = [t for t in TICKS if ends[0] <= t <= ends[1]]
    while len(inside) > 7:
        inside = [t for i, t in enumerate(inside) if i % 2 == inside.index(1.0) % 2]
    log_ends = [math.log10(ends[0]), math.log10(ends[1])]
    ticks = {"tickvals": inside, "ticktext": [f"{t:g}" for t in inside]}
    figure.update_xaxes(type="log", range=log_ends, **ticks)
    figure.update_yaxes(type="log", range=log_ends, **ticks)


def _errors(estimates: Sequence[tuple[Any, Any, Any]]) -> dict[str, Any]:
    highs = [h - v if is_number(v) and is_number(h) else 0.0 for v, _, h in estimates]
    lows = [v - low if is_number(v) and is_number(low) else 0.0 for v, low, _ in estimates]
    shape = {"thickness": 1, "width": 0, "color": FADED}
    return {"type": "data", "symmetric": False, "array": highs, "arrayminus": lows, **shape}


def _foretold_hover(proposal: Proposal) -> str:
    lines = [f"<b>{chart_text(recipe_text(proposal.key))}</b>"]
    lines.append(f"{chart_text(search_title(proposal.by), 40)}, iteration {proposal.iteration}")
    lines.append(f"predicted {ratio(proposal.predicted, proposal.predicted_low, proposal.predicted_high)}")
    if proposal.outcome == "ok":
        lines.append(f"measured {ratio(proposal.gain, proposal.gain_low, proposal.gain_high)}")
    else:
        lines.append(chart_text(outcome_text(proposal.outcome)))
    if proposal.reason:
        lines.append(chart_text(proposal.reason, 110))
    return "<br>".join(lines)


def _wrapped(label: str, width: int = 34) -> str:
    """A long recipe over several lines, broken where a step begins, so that a narrow screen keeps room for bars."""
    lines: list[str] = []
    for step in chart_text(label).split(" + "):
        if lines and len(lines[-1]) + len(step) + 3 <= width:
            lines[-1] += f" + {step}"
        else:
            lines.append(step if not lines else f"+ {step}")
    return "<br>".join(lines)
