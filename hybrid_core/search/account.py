"""Where the wall time of a run went: how much of it was measuring, and what the truth cost besides.

Each second of a measure process belongs to the phase it was seen in; what no process used is orchestration: the search
itself, writing results, and before them the start of the run. The parts add up to the wall time.
"""

from __future__ import annotations

from typing import Any

from hybrid_core.records import Trial

# part -> the phases that belong to it
PARTS = {
    "measuring": ("timing",),
    "warm-up": ("warmup",),
    "build": ("build",),
    "transform and compile": ("transform", "compile"),
    "correctness": ("correctness",),
    "memory": ("memory",),
    "quality": ("quality",),
    "process start and imports": ("start", "import"),
}
OTHER, ASKING = "rest of the processes", "asking the settings"
STARTING, ORCHESTRATION = "start of the run", "orchestration"


class Account:
    """Adds up the seconds of a run's measure processes by what they did."""

    def __init__(self, start_s: float = 0.0) -> None:
        """`start_s`: what the run had used before its search began."""
        self._parts = dict.fromkeys((*PARTS, OTHER, ASKING), 0.0) | {STARTING: start_s}
        self._processes = 0

    def add(self, trial: Trial) -> None:
        """One measure process."""
        self._processes += 1
        known = 0.0
        for part, phases in PARTS.items():
            seconds = sum(trial.phases_s.get(phase, 0.0) for phase in phases)
            self._parts[part] += seconds
            known += seconds
        self._parts[OTHER] += max(0.0, trial.seconds - known)

    def add_asking(self, seconds: float) -> None:
        """The process that asked settings before anything was tried."""
        self._parts[ASKING] += seconds

    def to_event(self, elapsed_s: float) -> dict[str, Any]:
        """Seconds and shares of the wall time; `elapsed_s` is what the search took.

        The share of orchestration counts the start of the run too: all that is no measure process.
        """
        wall_s, used_s = self._parts[STARTING] + elapsed_s, sum(self._parts.values())
        parts = {**self._parts, ORCHESTRATION: max(0.0, wall_s - used_s)}
        own_s = parts[STARTING] + parts[ORCHESTRATION]
        return {
            "wall_s": wall_s,
            "processes": self._processes,
            "parts_s": {name: seconds for name, seconds in parts.items() if seconds > 0 or name == ORCHESTRATION},
            "orchestration_share": own_s / wall_s if wall_s > 0 else 0.0,
        }
