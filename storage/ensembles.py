"""Rows about ensembles: what they gained together, and forgetting that some failed together."""

from __future__ import annotations

import math
from typing import Any

from hybrid_core.errors import InvalidInput
from hybrid_core.records import Estimate
from storage.connection import Database
from storage.rows import ask_one
from storage.runs import to_text
from storage.spool import SpoolRecord
from storage.trial_rows import clean


def synergy_rows(record: SpoolRecord) -> list[dict[str, Any]]:
    """The rows of a `synergy` record.

    Raises:
        KeyError, TypeError, ValueError: the record does not hold synergies.
    """
    return [_synergy_row(record.run_id, item) for item in record.data["synergies"]]


def forget_conflict(db: Database, conflict_id: str) -> str:
    """Let a combination that failed be tried again; returns its recipe. It is remembered again if it fails again.

    Raises:
        InvalidInput: no such conflict is remembered.
    """
    with db.transaction() as cursor:
        known = ask_one(cursor, "select recipe_key from conflicts where conflict_id = ?", [conflict_id])
        if known is None:
            raise InvalidInput(
                f"conflict {conflict_id!r:.60} is not remembered; `python -m workers conflicts` lists those that are"
            )
        cursor.execute(
            "insert into forgotten_conflicts values ($id, $now) on conflict (conflict_id) do update "
            "set forgotten_at = $now",
            {"id": conflict_id, "now": db.now()},
        )
    return str(known[0])


def _synergy_row(run_id: str, item: dict[str, Any]) -> dict[str, Any]:
    estimates: dict[str, float | None] = {}
    for name in ("measured", "product", "synergy"):
        estimate = Estimate.from_json(item[name])
        for end, value in (("", estimate.value), ("_low", estimate.low), ("_high", estimate.high)):
            estimates[name + end] = value if math.isfinite(value) else None
    return {
        "run_id": run_id,
        "recipe_key": clean(str(item["key"])),
        "objective": clean(str(item["objective"])),
        "steps": len(item["recipe"]),
        "verdict": clean(str(item["verdict"])),
        "trials_json": to_text(item["trials"]),
        **estimates,
    }
