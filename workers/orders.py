"""What the hub hands to a run process: one JSON file per attempt, readable by whoever looks into the run's folder.

A file instead of arguments, because it holds the history the search starts from, and because it stays as evidence of
what a process was told. The cookie in the process's environment is how a new hub finds the run processes that
an earlier hub left behind: by something only they carry, never by name or by process id alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_core.config import RunConfig
from hybrid_core.records import Subject, to_json
from workers.paths import DataPaths

RUN_COOKIE_VARIABLE = "HYBRID_RUN_COOKIE"
# Exit codes of a run process that could not write `run_finished` itself.
EXIT_SPOOL_FAILED, EXIT_OTHER_ATTEMPT_ALIVE = 4, 5


@dataclass(frozen=True)
class RunOrder:
    """One attempt of one run; `history`, `conflicts` and `noise` hold rows of the queries of those names.

    An empty `survey_command` means that every setting is tried without asking first. `repeats` holds the id and the
    stored measurement of the trial that is measured again instead of searching.
    """

    run_id: str
    attempt: int
    root: Path
    config: RunConfig
    subject: Subject
    family: str
    measure_command: tuple[str, ...]
    history: tuple[Mapping[str, Any], ...] = ()
    conflicts: tuple[Mapping[str, Any], ...] = ()
    noise: tuple[Mapping[str, Any], ...] = ()
    survey_command: tuple[str, ...] = ()
    repeats: Mapping[str, Any] | None = None

    @property
    def paths(self) -> DataPaths:
        """The data folder the run belongs to."""
        return DataPaths(self.root)

    @property
    def scratch(self) -> Path:
        """Caches and temporary files of this run; deleted when it ends."""
        return self.paths.cache / self.run_id

    @property
    def log_file(self) -> Path:
        """Where the output of this run's candidates goes."""
        return self.paths.logs / f"{self.run_id}.candidates.log"

    def write(self) -> Path:
        """Store the order in the run's folder and return its path."""
        path = run_folder(self.paths, self.run_id) / f"attempt-{self.attempt}.json"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps({**to_json(self), "root": str(self.root)}, allow_nan=False))
        temporary.replace(path)
        return path

    @classmethod
    def read(cls, path: Path) -> RunOrder:
        """Read what `write` stored."""
        data = json.loads(path.read_text())
        return cls(
            **{
                **data,
                "root": Path(data["root"]),
                "config": RunConfig.from_json(data["config"]),
                "subject": Subject.from_json(data["subject"]),
                "measure_command": tuple(data["measure_command"]),
                "survey_command": tuple(data["survey_command"]),
                "history": tuple(data["history"]),
                "conflicts": tuple(data["conflicts"]),
                "noise": tuple(data["noise"]),
            }
        )


def run_folder(paths: DataPaths, run_id: str) -> Path:
    """The folder of a run's orders, its lock and its cancel note."""
    return paths.runs / run_id


def cancel_note(paths: DataPaths, run_id: str) -> Path:
    """Holds the sentence why a run is to end; written before the signal, read by the run process."""
    return run_folder(paths, run_id) / "cancel"


def run_cookie(root: Path, run_id: str, attempt: int) -> str:
    """The value by which a run process is recognised."""
    return f"{root}|{run_id}|{attempt}"


def parse_cookie(cookie: str, root: Path) -> tuple[str, int] | None:
    """The (run_id, attempt) of a cookie of this data folder, None for any other."""
    prefix = f"{root}|"
    run_id, _, attempt = cookie.removeprefix(prefix).partition("|")
    return (run_id, int(attempt)) if cookie.startswith(prefix) and run_id and attempt.isdigit() else None


def run_environment(order: RunOrder) -> dict[str, str]:
    """The hub's environment with the cookie, and one thread: the search thinks little and must not disturb."""
    cookie = run_cookie(order.root, order.run_id, order.attempt)
    return {**os.environ, RUN_COOKIE_VARIABLE: cookie, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def command_line(program: Sequence[str], order_file: Path, hub_fd: int) -> list[str]:
    """How a run process is started on an order; `hub_fd` is the pipe that ends with the hub."""
    return [*program, str(order_file), "--hub-fd", str(hub_fd)]
