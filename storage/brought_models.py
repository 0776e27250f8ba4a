"""Models that people brought, as rows: asked for once, inspected once, ready or refused with a sentence.

A name is one model. Asking again for what is there already is the same model, so a double click and a repeated
request are harmless; asking for something else under a taken name is refused; a refused name is free again. The result
of an inspection is written only while the row still waits for exactly that inspection.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hybrid_core.errors import InvalidInput
from storage.connection import Database
from storage.rows import ask_one
from storage.runs import to_text
from storage.trial_rows import clean

MAX_BROUGHT = 200
_COLUMNS = "name, model_id, kind, path, labels, state, reason, source, description_json, created_at, ended_at"


class BroughtState(StrEnum):
    """Where a brought model stands; refused comes with its reason."""

    CHECKING = "checking"
    READY = "ready"
    REFUSED = "refused"


@dataclass(frozen=True)
class BroughtModel:
    """One row; `source` is the text of the registration, `description` what the catalog says, both once ready."""

    name: str
    model_id: str
    kind: str
    path: str
    labels: str
    state: str
    reason: str
    source: str
    description: dict[str, Any] | None
    created_at: float
    ended_at: float | None


def create_brought(db: Database, name: str, kind: str, path: str, labels: str = "") -> str:
    """Note that a model is to be inspected and return its id; the same request again is the same model.

    Raises:
        InvalidInput: the name belongs to something else, or there are `MAX_BROUGHT` models already.
    """
    with db.transaction() as cursor:
        row = ask_one(cursor, "select " + _COLUMNS + " from brought_models where name = ?", [name])
        known = None if row is None else _model(row)
        if known is not None and known.state != BroughtState.REFUSED:
            if (known.kind, known.path, known.labels) == (kind, path, labels):
                return known.model_id
            raise InvalidInput(
                f"name {name!r} is taken by the model brought in from {known.path!r:.200}; "
                "choose another name or forget that model first"
            )
        count = ask_one(cursor, "select count(*) from brought_models")
        if known is None and count is not None and count[0] >= MAX_BROUGHT:
            raise InvalidInput(f"{MAX_BROUGHT} models were brought in already; forget one that is no longer needed")
        model_id = secrets.token_hex(6)
        # An update in place: DuckDB refuses a key that is deleted and inserted again in one transaction.
        cursor.execute(
            "insert into brought_models (" + _COLUMNS + ") values ($name, $model_id, $kind, $path, $labels, "
            "'checking', '', '', null, $now, null) on conflict (name) do update set model_id = $model_id, "
            "kind = $kind, path = $path, labels = $labels, state = 'checking', reason = '', source = '', "
            "description_json = null, created_at = $now, ended_at = null",
            {"name": name, "model_id": model_id, "kind": kind, "path": path, "labels": labels, "now": db.now()},
        )
    return model_id


def mark_brought_ready(db: Database, model_id: str, source: str, description: Mapping[str, Any]) -> bool:
    """Store what the inspection found; False, and nothing changed, when the model was forgotten or asked anew."""
    return _end(db, model_id, BroughtState.READY, "", source, to_text(description))


def mark_brought_refused(db: Database, model_id: str, reason: str) -> bool:
    """Store why the model cannot be used; False, and nothing changed, when it no longer waits for an answer."""
    return _end(db, model_id, BroughtState.REFUSED, reason, "", None)


def forget_brought(db: Database, name: str) -> bool:
    """Remove the row; runs that measured the model stay. False when there was none."""
    with db.transaction() as cursor:
        return ask_one(cursor, "delete from brought_models where name = ? returning name", [name]) is not None


def brought_models(db: Database) -> list[BroughtModel]:
    """Every brought model, oldest first."""
    rows = db.cursor().execute("select " + _COLUMNS + " from brought_models order by created_at, name").fetchall()
    return [_model(row) for row in rows]


def _end(db: Database, model_id: str, state: str, reason: str, source: str, description: str | None) -> bool:
    with db.transaction() as cursor:
        changed = ask_one(
            cursor,
            "update brought_models set state = $state, reason = $reason, source = $source, "
            "description_json = $description, ended_at = $now "
            "where model_id = $model_id and state = 'checking' returning name",
            {
                "state": str(state),
                "reason": clean(reason),
                "source": source,
                "description": description,
                "now": db.now(),
                "model_id": model_id,
            },
        )
    return changed is not None


def _model(row: tuple[Any, ...]) -> BroughtModel:
    names = _COLUMNS.replace("description_json", "description").split(", ")
    values = dict(zip(names, row, strict=True))
    description = values["description"]
    return BroughtModel(**{**values, "description": None if description is None else json.loads(description)})
