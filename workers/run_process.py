"""One run: the search loop, with each candidate measured in a process of its own.

`python -m workers.run_process <order.json>` is started by the hub and needs it for nothing: what it finds goes to its
spool file, one JSON line per event. A restarted attempt repeats the (deterministic) search with the finished trials
answered from the earlier files (the search charges its budget what they once cost), so it takes the same decisions
and goes on where the first one died.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import psutil

from hybrid_core.errors import HybridError
from hybrid_core.records import MeasureLimits, MeasureRequest, Purpose, Recipe, Step, Subject, Trial, trial_name
from hybrid_core.search.hints import KnownConflict, Surveyed
from storage.spool import SpoolWriteFailed, SpoolWriter
from workers.engines.containment import ROOFLINE_VARIABLE
from workers.engines.local import LocalEngine
from workers.engines.survey import run_survey
from workers.orders import EXIT_OTHER_ATTEMPT_ALIVE, EXIT_SPOOL_FAILED, RunOrder, run_folder
from workers.repeating import repeating
from workers.run_report import Replay, RunOver, RunReport
from workers.run_watch import RunWatch, remove_scratch

log = logging.getLogger("run")
LOCK_PATIENCE_S = 10.0


class Plan(NamedTuple):
    """What the search needs to know beside its configuration, and the search itself."""

    space: Any
    space_facts: dict[str, Any]
    search: Callable[..., Any]
    versions: str = ""
    start_variables: Callable[[Recipe], Mapping[str, str]] = lambda recipe: {}
    processor: str = ""
    # What came with the project, measured on such processors; the searcher's, after what this machine knows.
    shipped: tuple[Any, ...] = ()


def main(arguments: Sequence[str] | None = None, plan: Callable[[RunOrder], Plan] | None = None) -> int:
    """Carry out one order; every end that can still be written is written to the spool."""
    parser = argparse.ArgumentParser(prog="python -m workers.run_process", description=__doc__)
    parser.add_argument("order", type=Path)
    parser.add_argument("--hub-fd", type=int, default=-1)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if options.hub_fd >= 0:
        os.set_inheritable(options.hub_fd, False)
    order = RunOrder.read(options.order)
    lock = _take_run_lock(order)
    if lock is None:
        log.error("another attempt of run %s is alive; leaving it to that one", order.run_id)
        return EXIT_OTHER_ATTEMPT_ALIVE
    with lock:
        return _carry_out(order, options.hub_fd, plan or plan_from_registry)


def plan_from_registry(order: RunOrder) -> Plan:
    """The real search over the strategies this machine can do; imports torch, therefore late."""
    from hybrid_core.adaptive.shipped import shipped_history
    from hybrid_core.measurement.machine import describe_versions, processor_name, versions_text
    from hybrid_core.recipes import start_variables
    from hybrid_core.search.loop import run_search
    from hybrid_core.search.space import Space

    space = Space.from_registry(order.config.options, order.subject.device)
    processor = processor_name(order.subject.device)
    shipped = shipped_history(describe_versions()["cpu_capability"], order.subject.device)
    return Plan(space, dict(space.to_json()), run_search, versions_text(), start_variables, processor, shipped)


class Measurer:
    """Answers the search: a finished trial from the spool, any other from a measure process."""

    def __init__(self, order: RunOrder, engine: LocalEngine, report: RunReport, replay: Replay) -> None:
        self._order, self._engine, self._report, self._replay = order, engine, report, replay
        self.start_variables: Callable[[Recipe], Mapping[str, str]] = lambda recipe: {}
        self._roofline: dict[str, str] = {}

    def __call__(self, recipe: Recipe, purpose: Purpose, limits: MeasureLimits, round_number: int = 0) -> Trial:
        """Measure one recipe, or remember it."""
        trial_id = trial_name(self._order.run_id, purpose, recipe, round_number)
        known = self._replay.trials.get(trial_id)
        if known is not None:
            self._keep_roofline(known)
            return known
        request = MeasureRequest(trial_id, self._order.run_id, self._order.subject, recipe, purpose, limits)
        self._report.enter_phase(trial_id, "start")
        tell_phase: Callable[[str], None] = lambda phase: self._report.enter_phase(trial_id, phase)  # noqa: E731
        trial = self._engine.measure(request, tell_phase, {**self.start_variables(recipe), **self._roofline})
        self._report.enter_phase("", "")
        self._keep_roofline(trial)
        return trial

    def _keep_roofline(self, trial: Trial) -> None:
        """Hand on what holds for the whole run, from a process in which no candidate's code ran."""
        if trial.recipe.is_baseline and trial.measurement is not None:
            found = trial.measurement.environment.get("roofline")
            self._roofline = {ROOFLINE_VARIABLE: json.dumps(found)} if found else {}


class Surveyor:
    """Answers the search which settings the model cannot have: from the spool, or from a process that asks them."""

    def __init__(self, order: RunOrder, replay: Replay) -> None:
        self._order, self._replay = order, replay

    def __call__(self, steps: Sequence[Step], limit_s: float) -> Surveyed:
        """Ask the steps, or remember what they said."""
        if self._replay.survey is not None:
            return self._replay.survey
        order = self._order
        return run_survey(order.survey_command, order.subject, steps, limit_s, order.scratch, order.log_file)


def _carry_out(order: RunOrder, hub_fd: int, plan: Callable[[RunOrder], Plan]) -> int:
    replay = Replay(order.paths.spool, order.run_id)
    try:
        report = RunReport(SpoolWriter(order.paths.spool, order.run_id, order.attempt), replay)
        engine = LocalEngine(order.measure_command, order.scratch, order.log_file)
        RunWatch(order, report, engine, hub_fd).start()
        try:
            survey = Surveyor(order, replay) if order.survey_command else None
            _search(order, plan, Measurer(order, engine, report, replay), survey, report)
        except HybridError as error:
            if isinstance(error, SpoolWriteFailed):
                raise
            log.exception("the run failed")
            report.finish("failed", str(error))
        except Exception as error:  # the border of the process: whatever it is must become a cause
            log.exception("the search broke")
            report.finish("failed", f"internal error: {type(error).__name__}: {str(error)[:300]}; see the run's log")
    except SpoolWriteFailed as error:
        log.error("the run ends, what it finds can no longer be kept: %s", error)
        return EXIT_SPOOL_FAILED
    except RunOver:
        time.sleep(60)  # the watch thread has written the end and is about to leave for all of us
    remove_scratch(order.scratch)
    return 0


def _search(
    order: RunOrder,
    plan: Callable[[RunOrder], Plan],
    measure: Measurer,
    survey: Surveyor | None,
    report: RunReport,
) -> None:
    space, space_facts, search, versions, measure.start_variables, processor, shipped = plan(order)
    facts = {"config": order.config, "subject": order.subject, "family": order.family, "space": space_facts}
    facts["versions"] = versions
    conflicts = [KnownConflict.from_row(row) for row in order.conflicts if row["versions"] == versions]
    noise = [row for row in order.noise if row["processor"] == processor and row["threads"] == order.subject.threads]
    report.started(facts)
    search = search if order.repeats is None else repeating(order.repeats)
    result = search(
        order.config,
        space,
        measure,
        report.emit,
        history=_told(order, shipped),
        run_id=order.run_id,
        family=order.family,
        survey=survey,
        conflicts=conflicts,
        noise=_noise(noise, order.subject),
        start_s=time.time() - psutil.Process().create_time(),
    )
    if result.failed:
        report.finish("failed", result.stop_reason)
        return
    winner = {"recipe": result.winner, "key": result.winner.key} if result.winner is not None else None
    report.finish("finished", result.sentence, {"winner": winner, "stop_reason": result.stop_reason})


def _told(order: RunOrder, shipped: tuple[Any, ...]) -> tuple[Any, ...]:
    """What is known before: earlier runs, then what came with the project; nothing where the run is not to learn."""
    from hybrid_core.adaptive.history import HistoryRow

    own = tuple(HistoryRow.from_row(row) for row in order.history)
    return (*own, *shipped) if order.config.options.enable_adaptive_hybrid else own


def _noise(rows: Sequence[Mapping[str, Any]], subject: Subject) -> Any:
    from hybrid_core.search.noise import Noise

    this = (subject.model, subject.size, subject.workload.label)
    told = [{**row, "rounds": json.loads(row["rounds_json"] or "[]")} for row in rows]
    return Noise([{**row, "own": (row["model"], row["size"], row["workload_label"]) == this} for row in told])


def _take_run_lock(order: RunOrder) -> IO[bytes] | None:
    """Held while an attempt lives: the fence against two processes that both believe the run is theirs."""
    path = run_folder(order.paths, order.run_id) / "lock"
    file = path.open("ab")
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                return None
            time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
