"""Who else used the processors during the timed phase, by name.

Every process's processor time is read once before and once after the phase (about ten microseconds a process), never
between blocks. What the processors were busy with and we did not do is foreign, also where the process that did it
has already ended and has no name any more. Source: proc(5), /proc/<pid>/stat and /proc/stat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEAST_EVIDENCE_MS = 30.0  # the kernel counts in hundredths of a second; three of them are the least that says anything
LEAST_COUNTED_MS = 200.0  # below that one hundredth more or less is a share of 5 %


@dataclass(frozen=True)
class Ticks:
    """Time of the processors this process may use since start, in milliseconds: all, busy, stolen by a hypervisor."""

    all_ms: float
    busy_ms: float
    stolen_ms: float


def ticks_between(before: Ticks, after: Ticks) -> Ticks:
    """What the processors did in between."""
    return Ticks(after.all_ms - before.all_ms, after.busy_ms - before.busy_ms, after.stolen_ms - before.stolen_ms)


@dataclass(frozen=True)
class Census:
    """Processor time so far of every process by its identity (pid, start), and of the processors."""

    wall_ns: int
    used_ms: Mapping[tuple[int, str], float]
    names: Mapping[int, str]
    ticks: Ticks


def take_census(wall_ns: int, texts: Mapping[int, str], ticks: Ticks, tick_ms: float) -> Census:
    """The census that the texts of /proc/<pid>/stat make; a process that ended meanwhile has an empty one."""
    found = {pid: process_time(text) for pid, text in texts.items()}
    alive = {pid: facts for pid, facts in found.items() if facts is not None}
    used = {(pid, start): spent * tick_ms for pid, (_, start, spent) in alive.items()}
    return Census(wall_ns, used, {pid: name for pid, (name, _, _) in alive.items()}, ticks)


def process_time(stat: str) -> tuple[str, str, int] | None:
    """(name, start, ticks used) from the text of /proc/<pid>/stat; a name may hold blanks and brackets.

    >>> process_time("7 (a (b) c) R 1 7 7 0 -1 0 0 0 0 0 30 12 0 0 20 0 1 0 4711 0 0")
    ('a (b) c', '4711', 42)
    """
    head, bracket, tail = stat.rpartition(")")
    fields = tail.split()
    if not bracket or len(fields) < 20:
        return None
    return head.split("(", 1)[1], fields[19], int(fields[11]) + int(fields[12])


def busy_processes(before: Census, after: Census, own: frozenset[int], least_share: float) -> list[dict[str, Any]]:
    """Foreign processes that used at least this share of one core in between, the busiest first."""
    wall_ms = (after.wall_ns - before.wall_ns) / 1e6
    found = []
    for (pid, start), used_ms in after.used_ms.items():
        spent_ms = used_ms - before.used_ms.get((pid, start), 0.0)
        if pid not in own and wall_ms > 0 and spent_ms >= LEAST_EVIDENCE_MS and spent_ms / wall_ms >= least_share:
            found.append({"pid": pid, "name": after.names[pid], "share": round(spent_ms / wall_ms, 3)})
    return sorted(found, key=lambda process: -float(process["share"]))


def foreign_share(before: Census, after: Census, own: frozenset[int]) -> float | None:
    """Share of the allowed processors' time that neither we nor idleness used; None where too little was counted."""
    between = ticks_between(before.ticks, after.ticks)
    if between.all_ms < LEAST_COUNTED_MS:
        return None
    ours = sum(used - before.used_ms.get(key, 0.0) for key, used in after.used_ms.items() if key[0] in own)
    return min(1.0, max(0.0, (between.busy_ms - ours) / between.all_ms))


def stolen_share(before: Census, after: Census) -> float | None:
    """Share of the allowed processors' time that the hypervisor gave to somebody else; None as above."""
    between = ticks_between(before.ticks, after.ticks)
    return min(1.0, max(0.0, between.stolen_ms / between.all_ms)) if between.all_ms >= LEAST_COUNTED_MS else None
