"""When a race has gone on long enough, and the sentence that says why it ended; which finalist runs another round.

Stopping at the first interval that excludes 1 would call an untouched model faster or slower in a fifth of all races,
so a race stops by the *width* of its interval, looks only when a quarter more pairs are there, and the interval is
computed at `statistics.RACE_LEVEL`, which pays for choosing the moments when it is narrow by chance.
A candidate that is slower for certain ends early: more repeats would only say how much slower. For that each end of
the interval is moved `LOSER_STRETCH` times as far out, so that all looks together are rarely wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hybrid_core.measurement.rounds import log_half_width
from hybrid_core.measurement.statistics import log_interval
from hybrid_core.records import Estimate, MeasureLimits

CHECK_GROWTH = 1.25
FEWEST_PAIRS = 4  # two blocks: the least that has an interval
LOSER_STRETCH = 2.0
SMALLEST_DIFFERENCE = 0.01


class StopRule:
    """Judges one race: asked before each block, it remembers at how many pairs it may look again."""

    def __init__(self, limits: MeasureLimits, seed: int) -> None:
        self.limits, self.seed = limits, seed
        self.next_look = max(limits.min_pairs, FEWEST_PAIRS)

    def reason(self, pairs: Sequence[tuple[float, float]], elapsed_s: float) -> str:
        """The sentence that says why the race ends now; empty while it goes on."""
        limits, count = self.limits, len(pairs)
        at_most_pairs = count >= limits.max_pairs
        at_limit = at_most_pairs or (elapsed_s >= limits.max_timed_s and count >= FEWEST_PAIRS)
        look = count >= self.next_look
        if not (look or at_limit):
            return ""
        low, middle, high = log_interval(pairs, self.seed)
        width = (high - low) / 2
        known = f"known to ±{width:.1%} (target {limits.target_half_width:.1%})"
        if look:
            self.next_look = max(self.next_look + 2, int(self.next_look * CHECK_GROWTH))
            if width <= limits.target_half_width:
                return f"certain enough: the ratio is {known} after {count} pairs"
            if clearly_slower(middle, high, limits.loser_margin):
                return f"slower by more than {limits.loser_margin:.0%} for certain after {count} pairs: it is {known}"
        if not at_limit:
            return ""
        limit = f"{limits.max_pairs} pairs" if at_most_pairs else f"{limits.max_timed_s:g} s"
        return f"limit of {limit} reached with {count} pairs: the ratio is {known}"


def clearly_slower(middle: float, high: float, margin: float) -> bool:
    """Whether a log ratio is below 1 - margin even where its interval reaches `LOSER_STRETCH` times as far.

    >>> clearly_slower(-0.5, -0.3, margin=0.05), clearly_slower(-0.3, -0.2, margin=0.1)
    (True, False)
    """
    return margin < 1 and middle + LOSER_STRETCH * (high - middle) < math.log1p(-margin)


def most_useful_round(estimates: Sequence[Estimate], smallest_difference: float = SMALLEST_DIFFERENCE) -> int | None:
    """Which finalist another round would tell most about: the less known of the first and its strongest rival.

    None when the first is ahead of every rival for certain, or when no rival can be better by `smallest_difference`.
    The rival is the one that may be best, not the second best (top-two racing: Kalyanakrishnan et al., ICML 2012).

    >>> most_useful_round([Estimate(1.5, 1.4, 1.6), Estimate(1.48, 1.3, 1.7), Estimate(1.1, 1.0, 1.2)])
    1
    >>> most_useful_round([Estimate(1.5, 1.4, 1.6), Estimate(1.1, 1.0, 1.2)]) is None
    True
    """
    if len(estimates) < 2:
        return None
    first = max(range(len(estimates)), key=lambda i: estimates[i].value)
    may_lead = {i: _may_lead_by(estimates[i], estimates[first]) for i in range(len(estimates)) if i != first}
    rival = max(may_lead, key=lambda i: may_lead[i])
    if may_lead[rival] <= math.log1p(smallest_difference):
        return None
    return max((rival, first), key=lambda i: log_half_width(estimates[i]))


def _may_lead_by(rival: Estimate, first: Estimate) -> float:
    """The log ratio by which the rival may be ahead of the first: the upper end of their difference."""
    return math.log(rival.value / first.value) + math.hypot(log_half_width(rival), log_half_width(first))
