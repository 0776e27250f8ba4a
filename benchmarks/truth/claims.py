"""What a measurement claims, and how often claims came true: the judging half of the benchmark, without any timing.

The between-process spread that a claim is widened by is taken from the A/A rows of the *other* subjects, as a device
is known from other models before a new one is measured on it.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Sequence

from benchmarks.truth.book import Row
from hybrid_core.fitness import SMALLEST_NOISE_FLOOR, judge
from hybrid_core.measurement.rounds import Spread, combine_rounds, noise_floor, spread_of, standard_error
from hybrid_core.records import Estimate, Verdict
from hybrid_core.search.noise import MOMENT

ROUNDS = 3  # processes of a final


def is_measured(row: Row) -> bool:
    """Whether the trial ended with a ratio."""
    return "speed" in row


def estimate_of(row: Row) -> Estimate:
    """The row's ratio."""
    return Estimate.from_json(row["speed"])


def name_of(row: Row) -> str:
    """The row's subject as tables write it."""
    return f"{row['model']} {row['size']}, {row['workload']}"


def known_spread(rows: Iterable[Row], without: str = "") -> Spread | None:
    """What A/A comparisons of all subjects but one tell about this device."""
    used = [estimate_of(row) for row in rows if is_measured(row) and name_of(row) != without]
    usable = [estimate for estimate in used if math.isfinite(standard_error(estimate))]
    logs = [math.log(estimate.value) for estimate in usable]
    return spread_of([], around_zero=logs, errors=[standard_error(estimate) for estimate in usable])


def claim_of(rounds: Sequence[Estimate], known: Spread | None) -> tuple[Estimate, Verdict]:
    """The published interval of one or several processes and the verdict that goes with it.

    Several processes are joined without what A/A tells, as a search does before it knows repeated finals of the day.
    """
    several = len(rounds) > 1
    together = combine_rounds(rounds, None if several else known, MOMENT if several else 0.0)
    return together, judge(together, max(SMALLEST_NOISE_FLOOR, noise_floor(known, len(rounds))))


def in_groups(rows: Sequence[Row], size: int = ROUNDS) -> list[list[Row]]:
    """Neighbouring rows as the rounds of one final; a rest that does not fill one is left out."""
    return [list(rows[i : i + size]) for i in range(0, len(rows) - size + 1, size)]


def by_name(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The measured rows of each subject, in the order taken."""
    found: dict[str, list[Row]] = {}
    for row in filter(is_measured, rows):
        found.setdefault(name_of(row), []).append(row)
    return found


def share_text(count: int, total: int) -> str:
    """A share with its 95 % interval (Wilson 1927), which says how much so few cases can prove.

    >>> share_text(0, 200)
    '0 of 200 (0.0 to 1.9 %)'
    """
    if not total:
        return "-"
    low, high = wilson(count, total)
    return f"{count} of {total} ({low:.1%} to {high:.1%})".replace("%", "", 1).replace("%", " %")


def wilson(count: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share.

    >>> low, high = wilson(19, 20)
    >>> round(low, 3), round(high, 3)
    (0.764, 0.991)
    """
    z, share = 1.959964, count / total
    centre, spread = share + z * z / (2 * total), z * math.sqrt(share * (1 - share) / total + (z / total / 2) ** 2)
    return max(0.0, (centre - spread) / (1 + z * z / total)), min(1.0, (centre + spread) / (1 + z * z / total))


def unpaired_means(baseline_ms: Sequence[float], candidate_ms: Sequence[float]) -> Estimate:
    """Ratio of two means with the interval of an unpaired comparison (Welch, normal quantile, log scale)."""
    means = [statistics.fmean(times) for times in (baseline_ms, candidate_ms)]
    errors = [
        statistics.stdev(times) / mean / math.sqrt(len(times))
        for times, mean in zip((baseline_ms, candidate_ms), means, strict=True)
    ]
    half = 1.96 * math.hypot(*errors)
    return _around(math.log(means[0] / means[1]), half)


def unpaired_medians(baseline_ms: Sequence[float], candidate_ms: Sequence[float], draws: int = 400) -> Estimate:
    """Ratio of two medians with its percentile bootstrap interval, each side resampled by itself."""
    generator = random.Random(0)

    def median_log(times: Sequence[float]) -> float:
        return math.log(statistics.median(generator.choices(times, k=len(times))))

    logs = sorted(median_log(baseline_ms) - median_log(candidate_ms) for _ in range(draws))
    value = statistics.median(baseline_ms) / statistics.median(candidate_ms)
    return Estimate(value, math.exp(logs[int(0.025 * draws)]), math.exp(logs[int(0.975 * draws)]))


def _around(centre: float, half: float) -> Estimate:
    return Estimate(math.exp(centre), math.exp(centre - half), math.exp(centre + half))
