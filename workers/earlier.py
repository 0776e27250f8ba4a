"""What a run process is told of earlier runs, as rows of named queries: history, conflicts, noise of the device.

A second attempt of a run repeats the search of the first, so what this run itself has left since is not among them.
"""

from __future__ import annotations

from typing import Any

from hybrid_core.config import RunConfig
from storage.connection import Database
from storage.queries import run_query
from storage.runs import OpenRun

# Of the model's own family, and of all others on the same device: they teach the search what to begin with.
HISTORY_ROWS = 2000
OTHER_ROWS = 2000
# How long A/A results of a device say something about it: neighbours and temperatures are others tomorrow.
NOISE_MEMORY_S = 86_400.0

Rows = tuple[dict[str, Any], ...]


def rows_for(db: Database, run: OpenRun, config: RunConfig) -> dict[str, Rows]:
    """The rows by the names of the order's fields."""
    device = str(run.subject["device"])
    questions: dict[str, dict[str, Any]] = {
        "conflicts": {"family": run.family, "device": device},
        "noise": {"device": device, "since": db.now() - NOISE_MEMORY_S},
    }
    rows = {
        name: tuple(row for row in run_query(db, name, params).to_pylist() if row["run_id"] != run.run_id)
        for name, params in questions.items()
    }
    if config.options.enable_adaptive_hybrid:
        own = run_query(db, "history", {"family": run.family}).slice(0, HISTORY_ROWS).to_pylist()
        every = run_query(db, "history", {"device": device}).to_pylist()
        others = [row for row in every if row["family"] != run.family]
        rows["history"] = (*own, *others[:OTHER_ROWS])
    return rows
