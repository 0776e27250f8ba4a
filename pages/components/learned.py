"""What a search told of itself in events: trainings of a policy, the gate before them, draws of parents.

A "selection" event says who became a parent, a "proposals" event who proposed what, and either may carry the report of
a trained policy. Pure functions, tolerant of what older runs lack; nothing that was not told is filled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pages.components.format import is_number

Row = Mapping[str, Any]
KINDS = ("selection", "proposals")


@dataclass(frozen=True)
class Told:
    """Something that a search told several times: the how manieth, in which iteration, what, in which kind of event."""

    number: int
    iteration: int
    data: Row
    kind: str = ""


def trainings_of(events: Sequence[Row]) -> list[Told]:
    """The report of each training, the latest first; one that was only told again counts once."""
    reports = [(event, _report(data_of(event))) for event in events]
    return _different([(event, report if report and report.get("trained") else None) for event, report in reports])


def untrained_reason(events: Sequence[Row]) -> str:
    """Why nothing was trained when the search asked last; "" where something was, or nobody asked."""
    reports = [report for event in events if (report := _report(data_of(event))) is not None]
    last = reports[-1] if reports else {"trained": True}
    return "" if last.get("trained") else str(last.get("reason") or "no policy was trained")


def gates_of(events: Sequence[Row]) -> list[Told]:
    """What the gate before learning said, the latest first; the same sentence again counts once."""
    return _different([(event, gate_of(data_of(event))) for event in events])


def gate_of(data: Any) -> Row | None:
    """What the gate before learning said in this event, beside the report of a policy or inside it."""
    if not isinstance(data, Mapping):
        return None
    notes = data.get("notes")
    places = [notes, *(notes.values() if isinstance(notes, Mapping) else ()), _report(data), data.get("details")]
    for place in places:
        gate = place.get("gate") if isinstance(place, Mapping) else None
        if isinstance(gate, Mapping) and gate.get("sentence"):
            return gate
    return None


def selections_of(events: Sequence[Row]) -> list[Told]:
    """The draws of parents, the latest first."""
    drawn = [data_of(event) for event in events if event.get("kind") == "selection"]
    return [Told(n, whole(data.get("iteration")), data, "selection") for n, data in enumerate(drawn, 1)][::-1]


def _different(found: Sequence[tuple[Row, Row | None]]) -> list[Told]:
    told: list[Told] = []
    for event, said in found:
        if said is not None and (not told or told[-1].data != said):
            iteration, kind = whole(data_of(event).get("iteration")), str(event.get("kind"))
            told.append(Told(len(told) + 1, iteration, said, kind))
    return told[::-1]


def _report(data: Row) -> Row | None:
    """The report of a policy inside an event's data, wherever the search put it."""
    notes = data.get("notes")
    places = [data.get("details")]
    if isinstance(notes, Mapping):
        places += [notes.get("learning"), *notes.values(), notes]
    for place in places:
        inner = place.get("learning") if isinstance(place, Mapping) else None
        for candidate in (place, inner):
            if isinstance(candidate, Mapping) and "trained" in candidate:
                return candidate
    return None


def data_of(event: Row) -> Row:
    """The data of an event, empty where it has none."""
    data = event.get("data")
    return data if isinstance(data, Mapping) else {}


def whole(value: Any) -> int:
    """A whole number, 0 where it is unknown."""
    return int(value) if is_number(value) else 0
