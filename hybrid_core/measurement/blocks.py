"""Which timed blocks count as disturbed, and which are taken again.

A wait of the share w of a block's timed time, fallen wholly into one of its four samples, moves the block's ratio by
2w; a block counts as disturbed when that may exceed the 5 % within which blocks agree after warming up. Threads that
wake each other wait a little by nature, so with several of them the race's own quiet quarter is subtracted first. A
model that sleeps does not wait, and is never called disturbed for it. Disturbed blocks are taken again, a capped number
of times, for a machine that stays busy must not keep a race from ending.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hybrid_core.measurement.telemetry import throttled_by
from hybrid_core.records import MeasureLimits

Reading = Mapping[str, Any]

MAX_RETAKES = 20
RETAKE_TIME_SHARE = 0.5  # the other half of the time limit is for blocks that are kept whatever they are
BLOCK_AGREEMENT = 0.05
WAITED_LIMIT = BLOCK_AGREEMENT / 2
OWN_SHARE_MARGIN = 0.10
FEWEST_TO_COMPARE = 4
SUSPENDED_LIMIT_MS = 1000.0  # being interrupted between the readings of two clocks looks like a short sleep

WAITING = "waiting for a processor that another process used"
LESS = "less processor time than usual in this race"
SUSPENDED = "the machine was suspended"
COMPUTING = "another process computed on the GPU"
NOT_HEAT = frozenset((WAITING, LESS, SUSPENDED, COMPUTING))


class BlockLog:
    """The readings of one race: decides after each block whether it counts, and remembers."""

    def __init__(self, limits: MeasureLimits, threads: int, first: Reading | None = None) -> None:
        self._limits, self.threads, self.first = limits, max(1, threads), first or {}
        self.kept: list[Reading] = []
        self.again: list[tuple[str, ...]] = []
        self._seen: list[Reading] = []

    def takes_again(self, reading: Reading, elapsed_s: float) -> bool:
        """Whether the block that this reading belongs to must be thrown away and taken again."""
        self._seen.append(reading)
        reasons = self.faults(reading)
        may = len(self.again) < MAX_RETAKES and elapsed_s < RETAKE_TIME_SHARE * self._limits.max_timed_s
        if reasons and may:
            self.again.append(reasons)
            return True
        self.kept.append(reading)
        return False

    def faults(self, reading: Reading) -> tuple[str, ...]:
        """Why a block cannot be trusted, by all that is known now; empty when it can."""
        found = throttled_by(reading)
        found += [COMPUTING] if reading.get("gpu_used_by") else []
        found += [SUSPENDED] if (reading.get("suspended_ms") or 0.0) > SUSPENDED_LIMIT_MS else []
        waited = waited_share(reading)
        if waited is not None and waited - self._usually_waited() > WAITED_LIMIT:
            found.append(WAITING)
        elif self._lost_processor(reading):
            found.append(LESS)
        return tuple(found)

    def disturbed(self) -> list[tuple[str, ...]]:
        """The reasons of each kept block that is disturbed, judged by the whole race."""
        return [reasons for reading in self.kept if (reasons := self.faults(reading))]

    def _usually_waited(self) -> float:
        """One thread has nobody of its own to wait for; several wake each other, and that belongs to the model."""
        shares = known(map(waited_share, self._seen))
        if self.threads == 1:
            return 0.0
        return float(np.quantile(shares, 0.25)) if len(shares) >= FEWEST_TO_COMPARE else 1.0

    def _lost_processor(self, reading: Reading) -> bool:
        """Far less processor time than usual for this race, which its own unrest does not explain.

        Asked only where time was stolen or waiting is not counted: else a model that sleeps would be blamed.
        """
        share = own_share(reading, self.threads)
        shares = known(own_share(seen, self.threads) for seen in self._seen)
        unexplained = reading.get("waited_ms") is None or (reading.get("stolen_ms") or 0.0) > 0
        if share is None or not unexplained or len(shares) < FEWEST_TO_COMPARE:
            return False
        middle, upper = np.quantile(shares, (0.5, 0.75))
        return bool(share < upper - max(OWN_SHARE_MARGIN, 3 * (upper - middle)))


def waited_share(reading: Reading) -> float | None:
    """Time the threads were ready but had no processor, over the timed time; None where the kernel does not say.

    >>> waited_share({"wall_ms": 10.0, "waited_ms": 0.5})
    0.05
    """
    wall, waited = reading.get("wall_ms"), reading.get("waited_ms")
    return None if not wall or waited is None else min(1.0, max(0.0, waited / wall))


def own_share(reading: Reading, threads: int) -> float | None:
    """Processor time this process used, over what its threads could have used.

    >>> own_share({"wall_ms": 10.0, "own_ms": 15.0}, threads=2)
    0.75
    """
    wall, own = reading.get("wall_ms"), reading.get("own_ms")
    return None if not wall or own is None else min(1.0, max(0.0, own / (wall * threads)))


def known(values: Iterable[float | None]) -> list[float]:
    """Without what the system does not say."""
    return [value for value in values if value is not None]
