"""The curves of the bake-off as a small SVG: median regret, averaged over the tables, after each trial.

Drawn by hand, so that no browser and no drawing library is needed. All words are in a grey that can be read on a light
and on a dark page; colours only mark lines. Random search is the calculated, dashed curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.search.report import Row

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 860, 440, 64, 30, 190, 46
TEXT = "#707a85"
COLOURS = (
    "#d9480f", "#1c7ed6", "#2b8a3e", "#9c36b5", "#b08900", "#0c8599", "#e64980", "#5c7cfa", "#74b816", "#a0522d",
    "#20c997", "#868e96", "#f06595", "#4263eb",
)  # fmt: skip
MOST_TRIALS = 40
# Regret is drawn on a scale of decades down to this; what is smaller is nothing.
FLOOR, CEILING = 0.001, 1.0


def drawn(rows: Sequence[Row], mode: str) -> str | None:
    """The picture of one mode; None without rows."""
    lines = {name: line for name, line in mean_curves(rows, mode).items() if len(line) > 1}
    if not lines:
        return None
    chance = averaged([[None, *row["random_curve"]] for row in rows if row["kind"] == "table"])
    trials = max(len(line) for line in lines.values()) - 1
    parts = [*axes(trials, mode), path(chance[: trials + 1], trials, TEXT, dashed=True)]
    ordered = sorted(lines, key=lambda name: (lines[name][-1], name))
    legend = [("random, calculated", TEXT)]
    for name in ordered:
        colour = COLOURS[sorted(lines).index(name) % len(COLOURS)]
        parts.append(path(lines[name], trials, colour))
        legend.append((name, colour))
    for i, (name, colour) in enumerate(legend):
        x, y = WIDTH - RIGHT + 14, TOP + 14 + 18 * i
        parts.append(f'<line x1="{x}" x2="{x + 16}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="3"/>')
        parts.append(text(x + 22, y, name, TEXT))
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">', *parts, "</svg>"]
    )


def mean_curves(rows: Sequence[Row], mode: str) -> dict[str, list[float]]:
    """Searcher -> the mean over its tables of the median regret after 0, 1, 2, ... trials."""
    found: dict[str, list[Sequence[float | None]]] = {}
    for row in rows:
        if row["kind"] == "search" and row["mode"] == mode:
            found.setdefault(row["searcher"], []).append(row["median_curve"])
    return {name: averaged(lines) for name, lines in found.items()}


def averaged(lines: Sequence[Sequence[float | None]]) -> list[float]:
    """The mean of several curves as far as all of them go."""
    length = min((len(line) for line in lines), default=0)
    columns = ([line[i] for line in lines] for i in range(min(length, MOST_TRIALS + 1)))
    return [math.nan if None in column else sum(filter(None, column)) / len(lines) for column in columns]


def axes(trials: int, mode: str) -> list[str]:
    """Frame, ticks and names."""
    title = f"Regret of what a run would return, {mode}: median over seeds, mean over tables"
    parts = [text(LEFT, 18, title, TEXT)]
    for regret, label in ((1.0, "100 %"), (0.1, "10 %"), (0.01, "1 %"), (FLOOR, "0.1 % or less")):
        y = y_of(regret)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{TEXT}" stroke-opacity=".35"/>'
        )
        parts.append(text(LEFT - 8, y + 4, label.split(" or")[0], TEXT, "end"))
    for n in range(0, trials + 1, 5):
        parts.append(text(x_of(n, trials), HEIGHT - BOTTOM + 18, str(n), TEXT, "middle"))
    parts.append(
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "trials (the lowest line is 0.1 % or less)", TEXT, "middle")
    )
    return parts


def path(line: Sequence[float], trials: int, colour: str, *, dashed: bool = False) -> str:
    """One curve; a moment that is unknown is left out."""
    points = [f"{x_of(n, trials):.1f},{y_of(value):.1f}" for n, value in enumerate(line) if math.isfinite(value)]
    style = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"{style}/>'


def text(x: float, y: float, words: str, colour: str, anchor: str = "start") -> str:
    """A few words."""
    about = f'x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"'
    return f'<text {about} font-family="system-ui, sans-serif" font-size="13">{escape(words)}</text>'


def x_of(n: int, trials: int) -> float:
    """Trials to pixels."""
    return LEFT + (WIDTH - LEFT - RIGHT) * n / max(1, trials)


def y_of(regret: float) -> float:
    """Regret to pixels, by decades."""
    share = math.log(max(regret, FLOOR) / FLOOR) / math.log(CEILING / FLOOR)
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
