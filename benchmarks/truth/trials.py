"""One trial as a search runs it: a fresh measure process, beside the untouched model, and what is kept of it."""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_core.models.registry import get_entry
from hybrid_core.recipes import start_variables
from hybrid_core.records import MeasureLimits, MeasureRequest, Purpose, Recipe, Subject, Trial, to_json
from hybrid_core.search.costs import limits_for
from workers.engines.containment import ROOFLINE_VARIABLE
from workers.engines.local import LocalEngine

REGISTRY_COMMAND = (sys.executable, "-m", "workers.measure_process")
# What a search of two minutes gives each of its trials.
SEARCH = limits_for(120.0, Purpose.SEARCH, 300.0)


@dataclass(frozen=True)
class Measured:
    """A trial, the seconds each phase took and the moments it was timed, by the clock of the process that asked."""

    trial: Trial
    phases_s: dict[str, float]
    timed: tuple[float, float] | None


class Runner:
    """Runs trials one after the other, and hands on what the device reaches at best, as a run does after its first."""

    def __init__(self, folder: Path, command: Sequence[str] = REGISTRY_COMMAND) -> None:
        """`folder` keeps compiled code and the log."""
        self._engine = LocalEngine(command, folder, folder / "log")
        self._roofline: dict[tuple[str, str, str], dict[str, str]] = {}

    def measure(
        self,
        subject: Subject,
        recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
        limits: MeasureLimits = SEARCH,
        purpose: Purpose = Purpose.SEARCH,
        variables: Mapping[str, str] | None = None,
    ) -> Measured:
        """Measure one recipe in a fresh process; `variables` only where the registry does not know the recipe."""
        request = MeasureRequest(f"truth:{recipe.key}", "truth", subject, recipe, purpose, limits)
        key = (subject.model, subject.size, subject.workload.label)
        started_with = {**(start_variables(recipe) if variables is None else variables), **self._roofline.get(key, {})}
        marks = [("start", time.monotonic())]
        tell_phase: Callable[[str], None] = lambda phase: marks.append((phase, time.monotonic()))  # noqa: E731
        trial = self._engine.measure(request, tell_phase, started_with)
        marks.append(("", time.monotonic()))
        if trial.measurement is not None and (found := trial.measurement.environment.get("roofline")):
            self._roofline.setdefault(key, {ROOFLINE_VARIABLE: json.dumps(found)})
        return Measured(trial, seconds_between(marks), moments_of("timing", marks))


@contextmanager
def runner_of(command: Sequence[str] = REGISTRY_COMMAND) -> Iterator[Runner]:
    """A runner with a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-truth-") as folder:
        yield Runner(Path(folder), command)


def subject_of(model: str, size: str, workload: str, seed: int = 0) -> Subject:
    """The subject of that name in the registry."""
    (found,) = (w for w in get_entry(model).workloads(size) if w.name == workload)
    return Subject(model, size, found, seed=seed)


def seconds_between(marks: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Seconds of each phase from the moments they began; the last mark is the end.

    >>> seconds_between([("start", 0.0), ("import", 0.5), ("build", 2.0), ("", 2.25)])
    {'start': 0.5, 'import': 1.5, 'build': 0.25}
    """
    found: dict[str, float] = {}
    for (name, began), (_, ended) in itertools.pairwise(marks):
        found[name] = round(found.get(name, 0.0) + ended - began, 3)
    return found


def moments_of(phase: str, marks: Sequence[tuple[str, float]]) -> tuple[float, float] | None:
    """When a phase began and ended, None where it was not reached.

    >>> moments_of("build", [("start", 0.0), ("build", 2.0), ("", 2.25)])
    (2.0, 2.25)
    """
    spans = [(began, ended) for (name, began), (_, ended) in itertools.pairwise(marks) if name == phase]
    return spans[0] if spans else None


def facts_of(measured: Measured) -> dict[str, Any]:
    """What a row keeps of a trial: outcome, cost, the ratio with its interval, warnings, conditions, raw pairs."""
    trial = measured.trial
    facts: dict[str, Any] = {
        "outcome": str(trial.outcome),
        "seconds": round(trial.seconds, 3),
        "phases_s": measured.phases_s,
    }
    found = trial.measurement
    if found is None:
        return facts | {"reason": trial.reason, "stage": trial.stage}
    kept = {name: found.environment.get(name) for name in ("rounds", "calls_per_sample")}
    kept["conditions"] = without_lists(found.environment.get("conditions"))
    return facts | to_json(
        {
            "speed": found.speed_improvement,
            "stop_reason": found.stop_reason,
            "warnings": found.warnings,
            **{name: value for name, value in kept.items() if value is not None},
            "pairs_ms": [[float(f"{t:.5g}") for t in pair] for pair in found.pairs_ms],
        }
    )


def without_lists(conditions: dict[str, Any] | None) -> dict[str, Any] | None:
    """The conditions of the whole timed phase, without those of each block."""
    return conditions and {name: value for name, value in conditions.items() if not name.startswith("block_")}
