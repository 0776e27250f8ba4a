"""When a race has gone on long enough, and the sentence that says why it ended.

Looking at the interval after each block and stopping at the first narrow one picks the moments at which it is narrow by
chance, so it is looked at only when a quarter more pairs are there.
"""

from __future__ import annotations

from collections.abc import Sequence

from hybrid_core.measurement.statistics import half_width
from hybrid_core.records import MeasureLimits

CHECK_GROWTH = 1.25
FEWEST_PAIRS = 4  # two blocks: the least that has an interval


class StopRule:
    """Judges one race: asked before each block, it remembers at how many pairs it may look again."""

    def __init__(self, limits: MeasureLimits, seed: int) -> None:
        self.limits, self.seed = limits, seed
        self.next_look = max(limits.min_pairs, FEWEST_PAIRS)

    def reason(self, pairs: Sequence[tuple[float, float]], elapsed_s: float) -> str:
        """The sentence that says why the race ends now; empty while it goes on."""
        limits, target, count = self.limits, self.limits.target_half_width, len(pairs)
        if count >= self.next_look:
            self.next_look = max(self.next_look + 2, int(self.next_look * CHECK_GROWTH))
            width = half_width(pairs, self.seed)
            if width <= target:
                return f"certain enough: the ratio is known to ±{width:.1%} (target {target:.1%}) after {count} pairs"
        if count < limits.max_pairs and (elapsed_s < limits.max_timed_s or count < FEWEST_PAIRS):
            return ""
        width = half_width(pairs, self.seed)
        limit = f"{limits.max_pairs} pairs" if count >= limits.max_pairs else f"{limits.max_timed_s:g} s"
        return f"limit of {limit} reached with {count} pairs: the ratio is known to ±{width:.1%} (target {target:.1%})"
