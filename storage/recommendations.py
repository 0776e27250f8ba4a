"""What to try next, as the hub last worked it out from history; kept so that a page need not wait for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from storage.connection import Database
from storage.runs import to_text


def store_recommendations(
    db: Database, model: str, workload: str, device: str, recommendations: Sequence[Mapping[str, Any]]
) -> None:
    """Replace what is recommended for a model, workload and device; the order given is the order kept."""
    with db.transaction() as cursor:
        cursor.execute(
            "delete from recommendations where model = ? and workload = ? and device = ?", [model, workload, device]
        )
        for rank, item in enumerate(recommendations):
            cursor.execute(
                "insert into recommendations values (?, ?, ?, ?, ?, ?)",
                [model, workload, device, rank, db.now(), to_text(item)],
            )


def load_recommendations(db: Database, model: str, workload: str, device: str) -> list[dict[str, Any]]:
    """What was stored last, best first; empty when nothing was."""
    rows = db.cursor().execute(
        "select recommendation_json from recommendations where model = ? and workload = ? and device = ? order by rank",
        [model, workload, device],
    )
    return [json.loads(text) for (text,) in rows.fetchall()]
