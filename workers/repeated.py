"""The hub's side of measuring a trial again: what was stored of it, and whether it may be ordered here."""

from __future__ import annotations

import json
from typing import Any

from hybrid_core.errors import InvalidInput
from hybrid_core.records import Subject
from hybrid_core.repetition import Repetition
from storage.connection import Database
from storage.queries import run_query
from workers.submission import Submission


def stored_trial(db: Database, trial_id: str) -> dict[str, Any]:
    """The id and the measurement (None for a trial that failed) of a trial, as an order carries them.

    Raises:
        InvalidInput: there is no such trial.
    """
    rows = run_query(db, "trial", {"trial_id": trial_id}).to_pylist()
    if not rows:
        raise InvalidInput(
            f"trial {trial_id!r:.120} does not exist; the page of its run shows the ids, and so does "
            "`python -m workers optimize --json`"
        )
    text = rows[0]["measurement_json"]
    return {"trial_id": trial_id, "measurement": None if text is None else json.loads(text)}


def repeated_subject(db: Database, checked: Submission) -> Subject:
    """What exactly was measured then: a default may be another one today, and so may a brought model.

    Raises:
        InvalidInput: the trial cannot be measured again, or is of another model or device than the request says.
    """
    stored = stored_trial(db, checked.config.repeats)
    subject = Repetition.of(stored["trial_id"], stored["measurement"]).request.subject
    for name in ("model", "size", "device"):
        then, asked = getattr(subject, name), getattr(checked.subject, name)
        if then != asked:
            raise InvalidInput(f"{name}={asked!r:.60} is not allowed; the trial to repeat was measured with {then!r}")
    return subject
