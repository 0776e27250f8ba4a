"""What the project set out to reach, beside what was found; undecided where there are too few tables, seeds or calm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.search.report import MAIN, Row

LEAST_TABLES, LEAST_FAMILIES, LEAST_SEEDS = 6, 3, 100
MOST_COMPARED = 40
CONTROL = "tpe"


def targets_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One for each promise; only tables that are quiet enough to speak of one percent count."""
    quiet = {row["table"]: row for row in rows if row["kind"] == "table" and row["is_usable"]}
    cold, warm = (searches(rows, mode, MAIN, quiet) for mode in ("cold", "warm"))
    control = next((row["searcher"] for row in rows if row["kind"] == "search" and CONTROL in row["searcher"]), "")
    rival = searches(rows, "cold", control, quiet)
    near = least(row["within"]["1% or noise"].get("5 %") for row in cold)
    learnt = share(row["regret"]["5"][0] <= 0.02 for row in warm if "5" in row["regret"])
    worse = total(row["worse_than_untouched"].get("5") for row in warm)
    covered = least((row["hypervolume"].get("10 %") or [None])[0] for row in cold)
    name = "cold, after 5 % of the space: least share of runs within 1 % of the best, or inside noise, over the models"
    return [
        target(name, near, 0.8, why_not(cold, quiet)),
        target("warm, after 5 evaluations: share of models within 2 % of the best", learnt, 0.8, why_not(warm, quiet)),
        target("warm, after 5 evaluations: runs worse than the untouched model", worse, 0, why_not(warm, quiet), True),
        target("cold, at 10 % of the space: least share of the best hypervolume", covered, 0.95, why_not(cold, quiet)),
        target(
            f"budgets of 1 to {MOST_COMPARED} at which Optuna's TPE is ahead",
            budgets_behind(cold, rival),
            0,
            why_not(cold, quiet) or why_not(rival, quiet),
            True,
        ),
    ]


def searches(rows: Sequence[Row], mode: str, searcher: str, quiet: Mapping[str, Row]) -> list[Row]:
    """The rows of one searcher on the quiet tables."""
    found = [row for row in rows if row["kind"] == "search" and (row["mode"], row["searcher"]) == (mode, searcher)]
    return [row for row in found if row["table"] in quiet]


def why_not(found: Sequence[Row], quiet: Mapping[str, Row]) -> str:
    """Why nothing can be decided by these rows; empty when it can."""
    families = {quiet[row["table"]]["family"] for row in found}
    seeds = min((row["seeds"] for row in found), default=0)
    if len(found) < LEAST_TABLES or len(families) < LEAST_FAMILIES:
        return f"{len(found)} quiet tables of {len(families)} families, {LEAST_TABLES} of {LEAST_FAMILIES} are needed"
    return "" if seeds >= LEAST_SEEDS else f"{seeds} seeds, {LEAST_SEEDS} are needed"


def budgets_behind(own: Sequence[Row], other: Sequence[Row]) -> int | None:
    """At how many budgets the mean regret over the tables is larger than the other's; None without common tables."""
    curves = {row["table"]: row["mean_curve"] for row in other}
    pairs = [(row["mean_curve"], curves[row["table"]]) for row in own if row["table"] in curves]
    if not pairs:
        return None
    last = min(MOST_COMPARED, *(len(curve) - 1 for pair in pairs for curve in pair))
    return sum(
        sum(a[n] for a, _ in pairs) > sum(b[n] for _, b in pairs) + 1e-9 * len(pairs) for n in range(1, last + 1)
    )


def target(name: str, value: float | None, wanted: float, undecided: str, at_most: bool = False) -> dict[str, Any]:
    """`met` is None while the rows cannot decide it; `undecided` says why."""
    reached = value is not None and (value <= wanted if at_most else value >= wanted)
    undecided = undecided or ("not measured" if value is None else "")
    facts = {"name": name, "value": value, "target": wanted, "at_most": at_most, "undecided": undecided}
    return {**facts, "met": None if undecided else reached}


def target_text(found: Mapping[str, Any]) -> str:
    """One line of the report."""
    is_count = found["at_most"]
    show = (lambda value: f"{value:.0f}") if is_count else (lambda value: f"{value:.1%}")
    value = "-" if found["value"] is None else show(found["value"])
    verdict = {True: "met", False: "MISSED"}.get(found["met"], f"not decided: {found['undecided']}")
    return (
        f"{found['name']}: {value} (target {'at most' if is_count else 'at least'} {show(found['target'])}; {verdict})"
    )


def least(values: Iterable[float | None]) -> float | None:
    """The smallest of those that are known."""
    return min((value for value in values if value is not None), default=None)


def total(values: Iterable[int | None]) -> int | None:
    """The sum of those that are known, None without any."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def share(found: Iterable[bool]) -> float | None:
    """Share of true ones, None without any."""
    known = list(found)
    return sum(known) / len(known) if known else None
