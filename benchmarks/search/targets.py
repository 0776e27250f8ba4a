"""What the project set out to reach, beside what was found; undecided where there are too few tables, seeds or calm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.search.report import MAIN, Row

LEAST_MODELS, LEAST_FAMILIES, LEAST_SEEDS = 6, 3, 100
MOST_COMPARED = 40
CONTROL = "tpe"
# The modes as the page names them.
NAMES = {"cold": "cold", "shipped": "first run", "warm": "warm"}


def targets_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One for each promise; only tables that are quiet enough to speak of one percent count.

    What was promised of a search that knows nothing is also asked of a first run, which knows what comes with the
    project, and so is what was promised of a search with history.
    """
    quiet = {row["table"]: row for row in rows if row["kind"] == "table" and row["is_usable"]}
    unlearnt = [found for mode in ("cold", "shipped") for found in without_history(rows, mode, quiet)]
    return unlearnt + [found for mode in ("shipped", "warm") for found in with_history(rows, mode, quiet)]


def without_history(rows: Sequence[Row], mode: str, quiet: Mapping[str, Row]) -> list[dict[str, Any]]:
    """Near the best, as much of the front, and ahead of the control, in a small part of the space."""
    own, name = searches(rows, mode, MAIN, quiet), NAMES[mode]
    control = next((row["searcher"] for row in rows if row["kind"] == "search" and CONTROL in row["searcher"]), "")
    rival = searches(rows, mode, control, quiet)
    near = least(row["within"]["1% or noise"].get("5 %") for row in own)
    covered = least((row["hypervolume"].get("10 %") or [None])[0] for row in own)
    of_runs = "least share of runs within 1 % of the best, or inside noise, over the models"
    behind = budgets_behind(own, rival)
    why = why_not(own, quiet)
    return [
        target(f"{name}, after 5 % of the space: {of_runs}", near, 0.8, why),
        target(f"{name}, at 10 % of the space: least share of the best hypervolume", covered, 0.95, why),
        target(
            f"{name}: budgets of 1 to {MOST_COMPARED} at which Optuna's TPE is ahead",
            behind,
            0,
            why or why_not(rival, quiet),
            True,
        ),
    ]


def with_history(rows: Sequence[Row], mode: str, quiet: Mapping[str, Row]) -> list[dict[str, Any]]:
    """What other models teach is worth after five trials, and does no harm."""
    own, name = searches(rows, mode, MAIN, quiet), NAMES[mode]
    learnt = share(row["regret"]["5"][0] <= 0.02 for row in own if "5" in row["regret"])
    worse, why = total(row["worse_than_untouched"].get("5") for row in own), why_not(own, quiet)
    return [
        target(f"{name}, after 5 evaluations: share of models within 2 % of the best", learnt, 0.8, why),
        target(f"{name}, after 5 evaluations: runs worse than the untouched model", worse, 0, why, True),
    ]


def searches(rows: Sequence[Row], mode: str, searcher: str, quiet: Mapping[str, Row]) -> list[Row]:
    """The rows of one searcher on the quiet tables."""
    found = [row for row in rows if row["kind"] == "search" and (row["mode"], row["searcher"]) == (mode, searcher)]
    return [row for row in found if row["table"] in quiet]


def why_not(found: Sequence[Row], quiet: Mapping[str, Row]) -> str:
    """Why nothing can be decided by these rows; empty when it can."""
    models, families = ({quiet[row["table"]][name] for row in found} for name in ("model", "family"))
    if len(models) < LEAST_MODELS or len(families) < LEAST_FAMILIES:
        had = f"quiet tables of {len(models)} models in {len(families)} families"
        return f"{had}, {LEAST_MODELS} in {LEAST_FAMILIES} are needed"
    seeds = min(row["seeds"] for row in found)
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
