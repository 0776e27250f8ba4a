"""The tables of docs/truth.md, made of the rows and of nothing else."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.truth import aa, cost, noise, planted, winners
from benchmarks.truth.book import Row
from benchmarks.truth.claims import (
    ROUNDS,
    by_name,
    claim_of,
    estimate_of,
    in_groups,
    is_measured,
    known_spread,
    share_text,
)
from benchmarks.truth.effects import calibrated_ratios, effect_tables
from benchmarks.truth.targets import of, target_text, targets_of
from hybrid_core.measurement.rounds import Spread, standard_error
from hybrid_core.records import Verdict

PHASES = ("start", "import", "build", "transform", "compile", "correctness", "warmup", "timing", "memory", "quality")


NOT_MEASURED = "Not measured yet."


def all_tables(found: dict[str, Any]) -> dict[str, str]:
    """Name of the place in the page -> markdown."""
    rows: list[Row] = found["rows"]
    return {
        "machine": machine_text(found["environment"], rows),
        "targets": "\n".join(f"- {target_text(target)}" for target in targets_of(rows)),
        "aa": aa_table(of(rows, aa.PART)),
        "planted": effect_tables(rows, planted.PART, planted.PEERS),
        "calibration": calibration_text(of(rows, planted.PART)),
        "noise": noise_table(of(rows, noise.PART)),
        "winners": winners_table(of(rows, winners.PART)),
        "cost": cost_table(of(rows, aa.PART), of(rows, cost.PART)),
    }


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown; a sentence where there is nothing yet."""
    if not lines:
        return NOT_MEASURED
    parts = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in parts)


def machine_text(environment: dict[str, Any], rows: list[Row]) -> str:
    """One sentence about the machine, one about what measured."""
    machine = (
        f"{environment['cpu']} ({environment['cpu_capability']}), {environment['cores']} cores of which "
        f"{environment['usable_cores']} could be used, {environment['threads']} thread, torch {environment['torch']}, "
        f"Python {environment['python']}, {environment['system']}."
    )
    count = len({row["procedure"] for row in rows})
    mixed = f" The rows come from {count} states of the procedure's files." if count > 1 else ""
    quiet = [row for row in rows if "outcome" in row and not row.get("noisy")]
    flagged = share_text(sum(map(noise.is_flagged, quiet)), len(quiet))
    disturbed = (
        f" Of the trials without noise on purpose {flagged} say that the machine was not quiet." if quiet else ""
    )
    results = f"benchmarks/results/truth-{environment['cpu_capability'].lower()}.json"
    return f"{machine} {len(rows)} rows in `{results}`.{disturbed}{mixed}"


def aa_table(rows: list[Row]) -> str:
    """One line for each subject, one for all, and the spread of those that were not flagged."""
    lines, everything = [], np.zeros(6, dtype=int)
    for name, own in by_name(rows).items():
        counts = aa_counts(own, known_spread(rows, without=name))
        everything += counts
        middle = statistics.median(pair[0] for row in own for pair in row["pairs_ms"])
        lines.append([name, f"{middle:.3g}", *spread_cells(own), *aa_cells(counts)])
    if lines:
        quiet = [row for row in rows if not noise.is_flagged(row)]
        lines.append(["all", "", *spread_cells(rows), *(f"**{cell}**" for cell in aa_cells(everything))])
        lines.append([f"the {len(quiet)} not flagged", "", *spread_cells(quiet), "", "", "", ""])
    head = ["subject", "ms per call", "off 1: root mean square", "off 1: median", "of it inside the process"]
    head += ["interval of one process leaves out 1", "called faster by it", "called faster, widened"]
    return table([*head, f"called faster, final of {ROUNDS} processes"], lines)


def aa_counts(own: list[Row], known: Spread | None) -> npt.NDArray[np.int_]:
    """Intervals without 1, faster by them, faster when widened, trials; then finals called faster, and finals."""
    inside = [estimate_of(row) for row in own]
    finals = [[estimate_of(row) for row in group] for group in in_groups(own)]
    excluding = sum(excludes_one(one) for one in inside)
    faster = sum(claim_of([one], None)[1] is Verdict.BETTER for one in inside)
    widened = sum(claim_of([one], known)[1] is Verdict.BETTER for one in inside)
    finals_faster = sum(claim_of(group, known)[1] is Verdict.BETTER for group in finals)
    return np.array([excluding, faster, widened, len(own), finals_faster, len(finals)])


def spread_cells(rows: Sequence[Row]) -> list[str]:
    """How far the log ratios are off their truth, and what the uncertainty inside each process explains of that."""
    estimates = [estimate_of(row) for row in rows if is_measured(row)]
    off = [abs(math.log(one.value)) for one in estimates]
    errors = [error for error in map(standard_error, estimates) if math.isfinite(error)]
    if not errors:
        return ["-"] * 3
    squares = [math.sqrt(statistics.fmean(x * x for x in values)) for values in (off, errors)]
    return [f"{squares[0]:.2%}", f"{statistics.median(off):.2%}", f"{squares[1]:.2%}"]


def aa_cells(counts: Sequence[int]) -> list[str]:
    """The last four cells of a line."""
    *found, total, finals_faster, finals = map(int, counts)
    return [*(share_text(count, total) for count in found), share_text(finals_faster, finals)]


def excludes_one(estimate: Any) -> bool:
    """Whether the interval claims a difference."""
    return bool(estimate.low > 1.0 or estimate.high < 1.0)


def calibration_text(rows: list[Row]) -> str:
    """What the long calibration says the true ratios are, beside counting."""
    found = calibrated_ratios([row for row in rows if row["kind"] == "calibration"])
    lines = [[f"{100 + percent} to 100 blocks", f"{1 + percent / 100:.2f}", text] for percent, text in found.items()]
    return table(["chain", "by counting blocks", "by calibration"], lines)


def noise_table(rows: list[Row]) -> str:
    """Noisy and quiet trials."""
    groups: list[tuple[str, Callable[[Row], bool]]] = [
        ("burners on during at least a tenth of the timed phase", noise.is_disturbed),
        ("burners started, but hardly on while timing", lambda row: row["noisy"] and not noise.is_disturbed(row)),
        ("quiet", lambda row: not row["noisy"]),
    ]
    lines = []
    for name, belongs in groups:
        own = [row for row in rows if belongs(row)]
        unstable = sum(row["outcome"] == "unstable" for row in own)
        flagged = sum(map(noise.is_flagged, own))
        measured = [row for row in own if is_measured(row)]
        silent = [row for row in measured if not noise.is_flagged(row)]
        wrong = sum(excludes_one(estimate_of(row)) for row in silent)
        lines.append([name, share_text(flagged, len(own)), str(unstable), share_text(wrong, len(silent))])
    head = [
        "trials",
        "flagged",
        "of these called unstable, without a figure",
        "not flagged, and the interval leaves out 1",
    ]
    return table(head, lines if rows else [])


def winners_table(rows: list[Row]) -> str:
    """One line for each winner, and what it measured again."""
    lines = []
    for row in rows:
        name, again = f"{row['model']} {row['size']}, {row['workload']}", row["repeats"]
        if not row["winner"]:
            lines.append([name, "none: the untouched model", "", "", ""])
            continue
        speed = row["published"]["speed"]
        told = ", ".join(f"{r['speed']['value']:.3f}" if is_measured(r) else r["outcome"] for r in again)
        inside = sum(winners.is_inside(row["published"], repeat) for repeat in again)
        interval = f"{speed['value']:.3f} ({speed['low']:.3f} to {speed['high']:.3f})"
        lines.append([name, f"`{row['winner']}`", interval, told, f"{inside} of {len(again)}"])
    return table(["run", "winner", "published", "measured again", "inside"], lines)


def cost_table(trials: list[Row], runs: list[Row]) -> str:
    """Seconds of each phase, median over the trials of each subject; then whole runs."""
    lines = []
    for name, own in by_name(trials).items():
        seconds = [statistics.median(row["phases_s"].get(phase, 0.0) for row in own) for phase in PHASES]
        total = statistics.median(row["seconds"] for row in own)
        lines.append([name, *(f"{value:.2f}" for value in seconds), f"{total:.1f}"])
    phases = table(["seconds of an A/A trial", *PHASES, "whole"], lines)
    whole = [
        [row["model"], str(row["trials"]), f"{row['wall_s']:.1f}", f"{cost.orchestration_share(row):.1%}"]
        for row in runs
    ]
    return phases + "\n\n" + table(["whole run on", "trials", "wall seconds", "orchestration"], whole)
