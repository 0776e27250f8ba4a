"""Every chart of the dashboard as a function from rows to a Plotly figure; nothing here talks to Streamlit or the hub.

Colours and frame stand in `chart_frame`, the charts of what a search learned in `learning_charts`. Every axis names its
unit, ratios always show the baseline at 1, and no figure carries more than `MAX_POINTS` points: what was left out is
said in its title.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from pages.components.chart_frame import (
    BASELINE,
    CONFIG,
    FADED,
    FAILED,
    FITNESS_AXIS,
    MAX_POINTS,
    MEASURED,
    MEMORY_AXIS,
    SPEED_AXIS,
    baseline_line,
    blank,
    marker,
    thinned,
)
from pages.components.format import (
    PURPOSE_WORDS,
    chart_text,
    duration,
    is_number,
    outcome_text,
    percent,
    ratio,
    recipe_text,
)

__all__ = ["CONFIG", "best_so_far", "front_of", "history", "one_per_recipe", "pairs", "pareto"]
Row = Mapping[str, Any]


def best_so_far(trials: Sequence[Row], started_at: float | None, baseline: float | None) -> go.Figure:
    """Fitness over time: each trial a point, the best as a step line, failures as crosses at the bottom."""
    shown, note = thinned(sorted(trials, key=_ended_at))
    start = started_at if is_number(started_at) else min((_ended_at(t) for t in shown), default=0.0)
    scale, unit = _time_scale(max((_ended_at(t) - start for t in shown), default=0.0))
    figure = blank(f"time since start ({unit})", FITNESS_AXIS, "best_so_far", note)
    figure.update_xaxes(rangemode="tozero")
    scored = [t for t in shown if t.get("outcome") == "ok" and is_number(t.get("fitness"))]
    if is_number(baseline):
        baseline_line(figure, y=float(baseline))
    best: list[tuple[float, float]] = []
    for trial in scored:
        is_contender = trial.get("purpose") == "search" and not trial.get("infeasible_reason")
        if is_contender and (not best or trial["fitness"] > best[-1][1]):
            best.append(((_ended_at(trial) - start) / scale, trial["fitness"]))
    if best:
        end = max((_ended_at(t) - start) / scale for t in shown)
        xs, ys = zip(*[*best, (max(end, best[-1][0]), best[-1][1])], strict=True)
        line = {"color": MEASURED, "width": 2, "shape": "hv"}
        figure.add_scatter(x=xs, y=ys, mode="lines", line=line, name="best so far", hoverinfo="skip")
    for name, symbol, rows in _groups(scored):
        figure.add_scatter(
            x=[(_ended_at(t) - start) / scale for t in rows],
            y=[t["fitness"] for t in rows],
            error_y=_errors(rows, "fitness"),
            mode="markers",
            name=name,
            marker=marker(symbol, FADED if name.startswith("outside") else MEASURED, is_open=name == "search"),
            hovertext=[_hover(t) for t in rows],
            hoverinfo="text",
        )
    failed = [t for t in shown if t.get("outcome") != "ok"]
    if failed:
        floor = _floor_below([t["fitness"] for t in scored] + ([float(baseline)] if is_number(baseline) else []))
        figure.add_scatter(
            x=[(_ended_at(t) - start) / scale for t in failed],
            y=[floor] * len(failed),
            mode="markers",
            name="failed",
            marker=marker("x", FAILED),
            hovertext=[_hover(t) for t in failed],
            hoverinfo="text",
        )
    return figure


def front_of(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point beats in one value without losing in the other, by rising first value.

    >>> front_of([(1, 1), (2, 0.5), (0.5, 0.5), (1, 1)])
    [0, 3, 1]
    """
    best, front = float("-inf"), []
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1]))
    for i in order:
        is_twin = bool(front) and points[i] == points[front[-1]]
        if points[i][1] > best or is_twin:
            best = max(best, points[i][1])
            front.append(i)
    return sorted(front, key=lambda i: (points[i][0], -points[i][1], i))


def pareto(trials: Sequence[Row], winner_key: str | None, min_accuracy: float = 0.0) -> go.Figure:
    """Speed against memory of all measured candidates, the front as steps, what breaks a bound faded."""
    measured = [t for t in one_per_recipe(trials) if is_number(t.get("speed")) and is_number(t.get("memory"))]
    shown, note = thinned(measured)
    figure = blank(SPEED_AXIS, MEMORY_AXIS, "pareto", note)
    baseline_line(figure, x=1.0)
    baseline_line(figure, y=1.0)
    eligible = [t for t in shown if _is_eligible(t, min_accuracy) and t.get("recipe_key") != "baseline"]
    faded = [t for t in shown if not _is_eligible(t, min_accuracy) and t.get("recipe_key") != "baseline"]
    # The untouched model is a choice like any other, so it takes part in the front.
    points = [(1.0, 1.0), *((t["speed"], t["memory"]) for t in eligible)]
    front = [points[i] for i in front_of(points)]
    if len(front) > 1:
        # Left of and below each front point everything is dominated, so the steps go down first and right after.
        line = {"color": MEASURED, "width": 1.5, "shape": "vh", "dash": "dot"}
        xs, ys = zip(*front, strict=True)
        figure.add_scatter(x=xs, y=ys, mode="lines", line=line, name="Pareto front", hoverinfo="skip")
    winner = [t for t in eligible if t.get("recipe_key") == winner_key]
    others = [t for t in eligible if t.get("recipe_key") != winner_key]
    for name, rows, symbol, colour, is_open in (
        ("outside the bounds", faded, "circle", FADED, True),
        ("candidates", others, "circle", MEASURED, True),
        ("winner", winner, "star", MEASURED, False),
    ):
        if rows:
            figure.add_trace(_pareto_points(name, rows, symbol, colour, is_open=is_open))
    untouched = {"name": "baseline", "marker": marker("diamond", BASELINE, size=11), "hovertext": ["untouched model"]}
    figure.add_scatter(x=[1.0], y=[1.0], mode="markers", hoverinfo="text", **untouched)
    return figure


def pairs(pairs_ms: Sequence[Sequence[float]], has_candidate: bool = True) -> go.Figure:
    """The raw samples: each timed pair's baseline and candidate latency in the order taken."""
    usable = [p for p in pairs_ms if len(p) == 2 and is_number(p[0]) and is_number(p[1])]
    shown, note = thinned(usable, MAX_POINTS // 2)
    figure = blank("timed pair (in the order taken)", "latency of one call (ms)", "pairs", note)
    numbers = list(range(1, len(shown) + 1))
    names = (("baseline", BASELINE, "diamond", 0), ("candidate", MEASURED, "circle", 1))
    for name, colour, symbol, column in names[: 2 if has_candidate else 1]:
        figure.add_scatter(
            x=numbers,
            y=[p[column] for p in shown],
            mode="markers",
            name=name,
            marker=marker(symbol, colour, size=6),
            hovertemplate="pair %{x}: %{y:.3f} ms<extra>" + name + "</extra>",
        )
    return figure


def history(
    rows: Sequence[Row], column: str, title: str, unit: str, *, scale: float = 1.0, top: Any = None
) -> go.Figure:
    """One quantity of a device over the last minutes; gaps where it was unknown."""
    shown, note = thinned(rows)
    now = max((r["time"] for r in shown), default=0.0)
    figure = blank("time (min, 0 is the latest sample)", f"{title} ({unit})", f"history_{column}", note)
    figure.add_scatter(
        x=[(r["time"] - now) / 60 for r in shown],
        y=[r[column] * scale if is_number(r.get(column)) else None for r in shown],
        mode="lines",
        line={"color": MEASURED, "width": 1.8},
        name=title,
        hovertemplate="%{y:.4g} " + unit + ", %{x:.1f} min<extra></extra>",
        showlegend=False,
    )
    figure.update_yaxes(range=[0, float(top) * scale] if is_number(top) else None, rangemode="tozero")
    figure.update_layout(height=220)
    return figure


def one_per_recipe(trials: Sequence[Row]) -> list[Row]:
    """One trial per recipe: the final race where there was one, since those numbers are published."""
    rank = {"final": 2, "search": 1}
    chosen: dict[Any, Row] = {}
    for trial in trials:
        key = trial.get("recipe_key")
        score = (trial.get("outcome") == "ok", rank.get(str(trial.get("purpose")), 0))
        held = chosen.get(key)
        if held is None or score >= (held.get("outcome") == "ok", rank.get(str(held.get("purpose")), 0)):
            chosen[key] = trial
    return list(chosen.values())


def _pareto_points(name: str, rows: Sequence[Row], symbol: str, colour: str, *, is_open: bool) -> go.Scatter:
    return go.Scatter(
        x=[t["speed"] for t in rows],
        y=[t["memory"] for t in rows],
        error_x=_errors(rows, "speed"),
        error_y=_errors(rows, "memory"),
        mode="markers",
        name=name,
        marker=marker(symbol, colour, is_open=is_open, size=15 if symbol == "star" else 9),
        hovertext=[_hover(t) for t in rows],
        hoverinfo="text",
        customdata=[t.get("recipe_key") for t in rows],
    )


def _groups(scored: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """Scored trials by what they were measured for; those outside the bounds apart."""
    over = [t for t in scored if t.get("infeasible_reason")]
    inside = [t for t in scored if not t.get("infeasible_reason")]
    groups = [
        ("outside the bounds", "circle-open", over),
        ("search", "circle", [t for t in inside if t.get("purpose") == "search"]),
        (PURPOSE_WORDS["baseline"], "square", [t for t in inside if t.get("purpose") == "baseline"]),
        (PURPOSE_WORDS["final"], "diamond", [t for t in inside if t.get("purpose") == "final"]),
    ]
    return [group for group in groups if group[2]]


def _errors(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """Both sides of the 95 % interval; nothing where it is unknown."""
    highs, lows = [], []
    for row in rows:
        value, low, high = row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high")
        known = is_number(value) and is_number(low) and is_number(high)
        highs.append(max(0.0, high - value) if known else 0.0)
        lows.append(max(0.0, value - low) if known else 0.0)
    return {"type": "data", "symmetric": False, "array": highs, "arrayminus": lows, "thickness": 1, "width": 0}


def _hover(trial: Row) -> str:
    lines = [f"<b>{chart_text(recipe_text(trial.get('recipe_key')))}</b>"]
    lines.append(PURPOSE_WORDS.get(str(trial.get("purpose")), "") + f", {duration(trial.get('seconds'))}")
    if trial.get("outcome") != "ok":
        lines.append(f"{chart_text(outcome_text(trial.get('outcome')))}: {chart_text(trial.get('reason'), 110)}")
        return "<br>".join(lines)
    for name in ("speed", "memory"):
        lines.append(f"{name} {ratio(trial.get(name), trial.get(f'{name}_low'), trial.get(f'{name}_high'))}")
    accuracy = percent(trial.get("accuracy"), trial.get("accuracy_low"), trial.get("accuracy_high"))
    lines.append(f"accuracy kept {accuracy}")
    if is_number(trial.get("fitness")):
        lines.append(f"fitness {trial['fitness']:.3f}")
    if trial.get("infeasible_reason"):
        lines.append(chart_text(trial["infeasible_reason"], 110))
    return "<br>".join(lines)


def _is_eligible(trial: Row, min_accuracy: float) -> bool:
    accuracy = trial.get("accuracy")
    keeps = min_accuracy <= 0 or (is_number(accuracy) and accuracy >= min_accuracy)
    return trial.get("outcome") == "ok" and not trial.get("infeasible_reason") and keeps


def _ended_at(trial: Row) -> float:
    return float(trial.get("started_at") or 0.0) + float(trial.get("seconds") or 0.0)


def _time_scale(span_s: float) -> tuple[float, str]:
    return (60.0, "min") if span_s > 180 else (1.0, "s")


def _floor_below(values: Sequence[float]) -> float:
    """Where failures are drawn: a tenth of the spread below everything measured."""
    if not values:
        return 0.0
    return min(values) - 0.1 * max(max(values) - min(values), 0.1)
