"""Measures one recipe as a short search does: forked where it can be, in a fresh interpreter where it must be.

Settings with start variables change what a process reads at its start, so they cannot be forked. After `FORKS` children
a new server takes over, because children of one server share where the system put its memory.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.search.fork_server import ForkServer
from benchmarks.search.rows import SEEN, Row, facts_of
from benchmarks.truth.trials import Runner
from hybrid_core.recipes import start_variables
from hybrid_core.records import MeasureLimits, Purpose, Recipe, Subject
from hybrid_core.search.costs import limits_for, quality_limits
from workers.engines.containment import measure_environment

FORKS = 20
# Pass B asks this many rows: the phase belongs to the procedure, and its answer is pass A's.
FEW_ROWS = 8
SHORT_SEARCH_S = 60.0
ACCURACY_BOUND = 0.98


def limits_of(timed_s: float) -> dict[str, MeasureLimits]:
    """Pass -> the limits of a trial: those of a search of a minute, with this much time for the clock."""
    limits = replace(limits_for(SHORT_SEARCH_S, Purpose.SEARCH, 300.0), max_timed_s=timed_s)
    return {
        "A": quality_limits(limits, Purpose.SEARCH, ACCURACY_BOUND, 0),
        "B": replace(limits, quality_samples=FEW_ROWS, accuracy_bound=ACCURACY_BOUND),
    }


class Measurer:
    """Keeps the servers and runs the trials of one subject."""

    def __init__(self, subject: Subject, limits: dict[str, MeasureLimits], folder: Path, block: int = 0) -> None:
        """`folder` keeps compiled code and logs; `block` is the number of the first server."""
        self.subject, self._limits, self._folder, self.block = subject, limits, folder, block - 1
        self._fresh = Runner(folder)
        self._server: ForkServer | None = None
        self._forking: Runner | None = None
        self._pass, self._forked = "", 0

    def measure(self, recipe: Recipe, which: str) -> Row:
        """The facts of one trial."""
        can_fork = not start_variables(recipe) and self.subject.threads == 1
        runner = self._forking_runner(which) if can_fork else self._fresh
        measured = runner.measure(self.subject, recipe, self._limits["A" if which == SEEN else "B"])
        if can_fork:
            assert self._server is not None
            self._server.refuse_if_gone()
        facts = facts_of(measured.trial, measured.phases_s, with_quality=which == SEEN)
        return facts | {"forked": can_fork, "block": self.block if can_fork else None}

    def stop(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _forking_runner(self, which: str) -> Runner:
        if self._server is None or self._forked >= FORKS or which != self._pass:
            self.stop()
            self.block += 1
            environment = measure_environment(self._folder, self.subject.threads, f"fork-server/{self.block}")
            self._server = ForkServer(self._folder, environment)
            self._forking = self._forking or Runner(self._folder, self._server.command)
            self._pass, self._forked = which, 0
        self._forked += 1
        assert self._forking is not None
        return self._forking
