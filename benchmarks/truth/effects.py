"""The planted effects as tables: what each way of measuring finds, its error, and what its interval is worth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.truth.book import Row
from benchmarks.truth.claims import (
    ROUNDS,
    claim_of,
    estimate_of,
    in_groups,
    is_measured,
    known_spread,
    share_text,
    unpaired_means,
    unpaired_medians,
)
from hybrid_core.fitness import SMALLEST_NOISE_FLOOR, judge
from hybrid_core.measurement.rounds import Spread
from hybrid_core.records import Estimate, Verdict

EFFECTS = (0, 1, 2, 5, 10)
FEW_CALLS = 20
ANY, CAREFUL = ", any ratio above 1", ", with its interval and a floor of 1 %"


@dataclass(frozen=True)
class Answer:
    """One answer of one way of measuring."""

    estimate: Estimate
    says_faster: bool


@dataclass(frozen=True)
class Way:
    """A way of measuring: its name, its rule for "faster" where its figure has more than one, and its answers.

    `answers` takes the planted effect in percent.
    """

    name: str
    answers: Callable[[int], list[Answer]]
    rule: str = ""


def effect_tables(rows: Sequence[Row], part: str, peers: str) -> str:
    """Three tables: called faster, error of the figure, coverage of the interval."""
    ours = [row for row in rows if row["part"] == part and row.get("kind") == "trial" and is_measured(row)]
    theirs = [row for row in rows if row["part"] == peers]
    if not ours and not theirs:
        return "Not measured yet."
    known = known_spread([row for row in rows if row["part"] == "aa"])
    found = [(way, {effect: way.answers(effect) for effect in EFFECTS}) for way in ways(ours, theirs, known)]
    called = [(way.name + way.rule, answers) for way, answers in found]
    figures = list({way.name: answers for way, answers in found}.items())
    parts = [
        one_table("called faster (below 0 % are the false alarms)", called, called_faster),
        one_table("mean error of the figure in percent, and its standard deviation", figures, error_text),
        one_table("the 95 % interval holds the truth", figures, coverage_text),
    ]
    return "\n\n".join(parts)


def one_table(
    title: str, found: Sequence[tuple[str, dict[int, list[Answer]]]], tell: Callable[[int, list[Answer]], str]
) -> str:
    """Ways down, planted effects across."""
    head = f"| {title} | " + " | ".join(f"{effect} %" for effect in EFFECTS) + " |"
    lines = [
        f"| {name} | " + " | ".join(tell(effect, answers[effect]) for effect in EFFECTS) + " |"
        for name, answers in found
    ]
    return "\n".join([head, "| --- " * (len(EFFECTS) + 1) + "|", *lines])


def ways(ours: Sequence[Row], theirs: Sequence[Row], known: Spread | None) -> list[Way]:
    """Three claims of this project, then those of others on their own samples."""

    def own(effect: int) -> list[Row]:
        return [row for row in ours if row["percent"] == effect]

    def other(effect: int) -> list[Row]:
        return [row for row in theirs if row["percent"] == effect]

    def finals(effect: int) -> list[Answer]:
        return [claimed([estimate_of(row) for row in group], known) for group in in_groups(own(effect))]

    def means(row: Row) -> Estimate:
        return unpaired_means(row["baseline_ms"], row["candidate_ms"])

    def medians(row: Row) -> Estimate:
        return unpaired_medians(row["baseline_ms"], row["candidate_ms"])

    def few(row: Row) -> Estimate:
        return unpaired_medians(row["baseline_ms"][:FEW_CALLS], row["candidate_ms"][:FEW_CALLS])

    def by_value(estimate_row: Callable[[Row], Estimate]) -> Callable[[int], list[Answer]]:
        return lambda effect: [Answer(one, one.value > 1.0) for one in map(estimate_row, other(effect))]

    def by_interval(estimate_row: Callable[[Row], Estimate]) -> Callable[[int], list[Answer]]:
        return lambda effect: [
            Answer(one, judge(one, SMALLEST_NOISE_FLOOR) is Verdict.BETTER) for one in map(estimate_row, other(effect))
        ]

    return [
        Way("this project, a trial of a search", lambda e: [claimed([estimate_of(row)], known) for row in own(e)]),
        Way(f"this project, a final of {ROUNDS} processes", finals),
        Way("one process, by its own interval only", lambda e: [claimed([estimate_of(row)], None) for row in own(e)]),
        Way("mean of 100 unpaired", by_value(means), ANY),
        Way("mean of 100 unpaired", by_interval(means), CAREFUL),
        Way("median of 100 unpaired", by_value(medians), ANY),
        Way("median of 100 unpaired", by_interval(medians), CAREFUL),
        Way(f"median of {FEW_CALLS} unpaired", by_value(few), ANY),
    ]


def claimed(rounds: Sequence[Estimate], known: Spread | None) -> Answer:
    """The answer of this project's rules."""
    together, verdict = claim_of(rounds, known)
    return Answer(together, verdict is Verdict.BETTER)


def called_faster(effect: int, answers: Sequence[Answer]) -> str:
    """A share."""
    return share_text(sum(answer.says_faster for answer in answers), len(answers))


def error_text(effect: int, answers: Sequence[Answer]) -> str:
    """Mean and standard deviation of the log ratio over the truth."""
    errors = [math.log(answer.estimate.value / (1 + effect / 100)) for answer in answers]
    if len(errors) < 2:
        return "-"
    return f"{100 * statistics.fmean(errors):+.2f} ± {100 * statistics.stdev(errors):.2f}"


def coverage_text(effect: int, answers: Sequence[Answer]) -> str:
    """How often the truth is inside."""
    truth = 1 + effect / 100
    return share_text(sum(a.estimate.low <= truth <= a.estimate.high for a in answers), len(answers))


def calibrated_ratios(rows: Sequence[Row]) -> dict[int, str]:
    """Effect -> mean and range over the calibrations of the ratio that a straight line through all lengths implies."""
    lines = [statistics.linear_regression(row["lengths"], row["low_ms"]) for row in rows]
    found = {}
    for effect in EFFECTS[1:] if lines else ():
        ratios = [(a + b * (100 + effect)) / (a + b * 100) for b, a in lines]
        found[effect] = (
            f"{statistics.fmean(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f}, {len(ratios)} processes)"
        )
    return found
