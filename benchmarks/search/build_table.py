"""Measures every recipe of one model, size and workload on this machine, so that searches can be replayed over them.

Question: what would each way of searching have found, and after how many trials? That can be asked a hundred times over
only where all answers are known. So each valid recipe is measured as a search of a minute would measure it (correctness
first, then interleaved pairs, memory and quality in passes of their own), failures are rows, and what the model cannot
have is asked first and refused without a trial. Everything is done twice, in other processes and another order: a
search sees pass A, what it chose is judged by pass B, which needs timing alone. Where one process differs much from
the next, more judging passes (`--judges`) say what a recipe is worth; a finished table can be given some later.

    python benchmarks/search/build_table.py convnet tiny forward        resumable; Ctrl-C keeps what was measured
    python benchmarks/search/build_table.py convnet tiny forward --seconds 600     at most ten minutes in this call
    python benchmarks/search/build_table.py convnet tiny forward --judges 4        three further judging passes
    python benchmarks/search/build_table.py --list                      how many recipes each subject has

The journal grows in `build/search/`; the finished table goes to `benchmarks/results/search/`. One thread.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from benchmarks.search.journal import FOLDER, Journal  # noqa: E402
from benchmarks.search.measurer import Measurer, limits_of  # noqa: E402
from benchmarks.search.plan import Plan  # noqa: E402
from benchmarks.search.rows import JUDGES, RESULTS, Row, write_table  # noqa: E402
from benchmarks.truth.book import environment, procedure_text  # noqa: E402
from benchmarks.truth.trials import subject_of  # noqa: E402
from hybrid_core.config import HybridOptimizationConfig  # noqa: E402
from hybrid_core.evaluation import case_from_registry  # noqa: E402
from hybrid_core.measurement.machine import versions_text  # noqa: E402
from hybrid_core.models.registry import ENTRIES, get_entry  # noqa: E402
from hybrid_core.records import Recipe, Step, Subject, to_json  # noqa: E402
from hybrid_core.search.space import Space  # noqa: E402
from hybrid_core.survey import survey  # noqa: E402

TIMED_S = 1.5
MeasureRow = Callable[[Recipe, str], Row]


def main() -> None:
    """List, or build one table as far as this call may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("subject", nargs="*", metavar="NAME", help="model, size and workload")
    parser.add_argument("--list", action="store_true", help="the number of valid recipes of each subject, nothing else")
    parser.add_argument("--settings", nargs="*", default=[], help="only these, as strategy=setting")
    parser.add_argument("--limit", type=int, default=sys.maxsize, help="at most so many trials in this call")
    parser.add_argument("--seconds", type=float, default=math.inf, help="at most so long in this call")
    parser.add_argument(
        "--judges", type=int, choices=range(1, len(JUDGES) + 1), default=1, metavar="N", help="how many passes judge"
    )
    parser.add_argument("--timed-seconds", type=float, default=TIMED_S, help="for the clock of one trial")
    chosen = parser.parse_args()
    if chosen.list:
        list_subjects(chosen.settings)
    elif len(chosen.subject) == 3:
        build_one(chosen)
    else:
        parser.error("name a model, a size and a workload, for example: convnet tiny forward")


def list_subjects(settings: list[str]) -> None:
    """One line for each subject of the tiny sizes; a table of a larger one would take a day."""
    for entry in (entry for entry in ENTRIES if "tiny" in entry.sizes):
        for workload in entry.workloads("tiny"):
            plan = plan_of(Subject(entry.name, "tiny", workload), settings)
            print(f"{plan.name:45} {len(plan.valid()):4} of {len(plan.recipes)} recipes", flush=True)


def build_one(chosen: argparse.Namespace) -> None:
    """Go on with the journal of this subject; write the table when it is complete."""
    subject, limits = subject_of(*chosen.subject), limits_of(chosen.timed_seconds)
    plan = replace(plan_of(subject, chosen.settings), judges=chosen.judges)
    path, about = RESULTS / f"{plan.name}.parquet", about_of(subject, plan, to_json(limits), chosen.settings)
    journal = Journal(FOLDER / f"{plan.name}.jsonl", about, path)
    scratch = FOLDER / f"{plan.name}.scratch"
    scratch.mkdir(mode=0o700, exist_ok=True)
    blocks = [row["block"] for row in journal.rows if row.get("block") is not None]
    measurer = Measurer(subject, limits, scratch, 1 + max(blocks, default=-1))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        is_complete = build(journal, plan, measurer.measure, limit=chosen.limit, seconds=chosen.seconds)
    except KeyboardInterrupt:
        is_complete = False
    finally:
        measurer.stop()
    if not is_complete:
        print(f"{len(journal.rows)} rows in {journal.path.relative_to(ROOT)}; the same call goes on")
        return journal.close()
    write_table(path, journal.rows, journal.about)
    journal.close(remove=True)
    shutil.rmtree(scratch, ignore_errors=True)
    print(f"{len(journal.rows)} rows, {path.stat().st_size / 1000:.0f} kB: {path.relative_to(ROOT)}")


def build(
    journal: Journal,
    plan: Plan,
    measure: MeasureRow,
    *,
    limit: int = sys.maxsize,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Add the missing rows in their order; True when none is missing any more."""
    for row in plan.refused():
        if not journal.has(row):
            journal.add(row)
    started, done = clock(), 0
    while (row := plan.next_row(journal.rows)) is not None:
        if "outcome" not in row:
            mean_s = (clock() - started) / max(1, done)
            if done >= limit or clock() - started + mean_s > seconds:
                return False
            row |= measure(Recipe.from_key(row["recipe"]), row["pass"]) | circumstances(journal.about)
            done += 1
            print_progress(row, plan.left([*journal.rows, row]), (clock() - started) / done)
        journal.add(row)
    return True


def circumstances(about: dict[str, Any]) -> Row:
    """On what it was measured, and how busy that was."""
    same = {"processor": about["environment"]["cpu"], "versions": about["versions"]}
    return same | {"load": round(os.getloadavg()[0], 2)}


def print_progress(row: Row, left: int, mean_s: float) -> None:
    """One line: what was found, and how long the rest takes."""
    told = (
        f"{row['speed']:.3f} ({row['speed_low']:.3f} to {row['speed_high']:.3f})" if "speed" in row else row["reason"]
    )
    rest = f"{left} left, {left * mean_s / 60:.0f} min"
    print(f"{row['pass']} {row['recipe']}: {row['outcome']} {told[:80]}; {row['seconds']:.1f} s; {rest}", flush=True)


def plan_of(subject: Subject, settings: list[str]) -> Plan:
    """Every legal recipe of the settings that a search tries by itself, and what the model cannot have of them."""
    named: dict[str, list[str]] = {}
    for strategy, setting in (text.split("=", 1) for text in settings):
        named.setdefault(strategy, []).append(setting)
    chosen = {"strategy_settings": named, "optimization_strategies": tuple(named)} if named else {}
    space = Space.from_registry(HybridOptimizationConfig.from_dict(chosen), subject.device)
    refused: dict[Step, str] = {}
    for step, reason in asked(subject, [recipe.steps[0] for recipe in space.singles]):
        if reason is not None:
            refused[step] = reason
    return Plan(f"{subject.model}-{subject.size}-{subject.workload.name}", space.recipes, refused)


def asked(subject: Subject, steps: list[Step]) -> Iterator[tuple[Step, str | None]]:
    """What the model says to each step."""
    found: list[tuple[Step, str | None]] = []
    survey(case_from_registry(subject), steps, lambda step, reason, seconds: found.append((step, reason)))
    yield from found


def about_of(subject: Subject, plan: Plan, limits: Any, settings: list[str]) -> dict[str, Any]:
    """What a table says of itself; a call goes on with a journal only where all of it is the same."""
    return {
        "subject": to_json(subject),
        "family": get_entry(subject.model).family,
        "environment": environment(),
        "versions": versions_text(),
        "procedure": procedure_text(),
        "limits": limits,
        "settings": settings,
        "recipes": len(plan.recipes),
        "valid": len(plan.valid()),
        "begun_at": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


if __name__ == "__main__":
    main()
