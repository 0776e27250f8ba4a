"""What the project set out to reach, beside what was found; undecided where too few cases were measured."""

from __future__ import annotations

from typing import Any

from benchmarks.truth import aa, cost, noise, winners
from benchmarks.truth.book import Row
from benchmarks.truth.claims import by_name, claim_of, estimate_of, known_spread
from hybrid_core.records import Verdict

LEAST_CASES = {"aa": 200, "winners": 20, "noise": 100, "cost": 3}


def targets_of(rows: list[Row]) -> list[dict[str, Any]]:
    """One for each promise of the project."""
    found = aa_verdicts(of(rows, aa.PART))
    disturbed = [row for row in of(rows, noise.PART) if noise.is_disturbed(row)]
    won = [row for row in of(rows, winners.PART) if row["winner"]]
    again = [winners.is_inside(row["published"], repeat) for row in won for repeat in row["repeats"]]
    runs = [cost.orchestration_share(row) for row in of(rows, cost.PART)]
    return [
        target("A/A: share called faster", share(found, Verdict.BETTER), 0.02, len(found), "aa", at_most=True),
        target("winners repeated: share inside their own 95 % interval", mean(again), 0.95, len(won), "winners"),
        target("noise: share flagged", mean(map(noise.is_flagged, disturbed)), 0.95, len(disturbed), "noise"),
        target(
            "orchestration: largest share of a run's wall time", max(runs, default=None), 0.10, len(runs), "cost", True
        ),
    ]


def of(rows: list[Row], part: str) -> list[Row]:
    """The rows of one part."""
    return [row for row in rows if row["part"] == part]


def aa_verdicts(rows: list[Row]) -> list[Verdict]:
    """What is said of each A/A trial as of a trial of a search: widened by what the other subjects show."""
    found = []
    for name, own in by_name(rows).items():
        known = known_spread(rows, without=name)
        found += [claim_of([estimate_of(row)], known)[1] for row in own]
    return found


def target(
    name: str, value: float | None, wanted: float, cases: int, part: str, at_most: bool = False
) -> dict[str, Any]:
    """`met` is None while there are fewer cases than the promise speaks of."""
    reached = value is not None and (value <= wanted if at_most else value >= wanted)
    facts = {"name": name, "value": value, "target": wanted, "at_most": at_most, "cases": cases}
    return {**facts, "least_cases": LEAST_CASES[part], "met": reached if cases >= LEAST_CASES[part] else None}


def target_text(found: dict[str, Any]) -> str:
    """One line of the report."""
    if found["value"] is None:
        return f"{found['name']}: not measured"
    wanted = f"{'at most' if found['at_most'] else 'at least'} {found['target']:.0%}"
    verdict = {True: "met", False: "MISSED"}.get(found["met"], f"not decided: {found['least_cases']} cases are needed")
    return f"{found['name']}: {found['value']:.1%} of {found['cases']} cases (target {wanted}; {verdict})"


def share(found: list[Verdict], wanted: Verdict) -> float | None:
    """Share of one verdict, None without cases."""
    return mean(verdict is wanted for verdict in found)


def mean(values: Any) -> float | None:
    """Mean of numbers or booleans, None without any."""
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers) if numbers else None
