"""From raw samples to a number with an honest interval; numpy only.

Baseline and candidate are timed in ABBA blocks, so the unit that may be resampled is the block, not the single call:
inside a block the two orders cancel whatever helps the second of two calls, and neighbours share the machine's mood.
A block's value is the mean of its log ratios, the estimate is the median over blocks, and the interval comes from a
*smoothed* bootstrap: the plain percentile bootstrap of a median of six to fifteen blocks covers the truth in only
85-92 % of cases, and stopping at the first narrow interval makes that worse. With a little noise of the median's own
order added to each resample (Silverman and Young, Biometrika 74, 1987) the coverage is 95 % from six blocks on.
Blocks that follow their neighbours tell less than independent ones, so the interval grows with their correlation, and
a race, which stops when its interval is narrow, is computed at 97 % to keep 95 % of what it says.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hybrid_core.errors import InvalidInput
from hybrid_core.records import Estimate

Array = npt.NDArray[np.float64]

PAIRS_PER_BLOCK = 2
RESAMPLES = 1000
COVERAGE = 0.95
RACE_LEVEL = 0.97
_SMOOTHING = 0.8
_MOST_CORRELATION = 0.7
_NEGLIGIBLE = 1e-24  # a sum of squares that rounding alone can make
_IQR_OF_NORMAL = 1.349  # interquartile range of a standard normal, turns an IQR into a standard deviation


def log_ratios(pairs_ms: Sequence[tuple[float, float]]) -> Array:
    """Natural logarithm of baseline / candidate for each pair; above 0 the candidate was faster.

    >>> log_ratios([(2.0, 1.0), (3.0, 3.0)]).round(4).tolist()
    [0.6931, 0.0]
    """
    pairs = _positive(pairs_ms)
    ratios: Array = np.log(pairs[:, 0]) - np.log(pairs[:, 1])
    return ratios


def block_means(values: npt.ArrayLike, per_block: int = PAIRS_PER_BLOCK) -> Array:
    """The mean of each block of `per_block` neighbours.

    >>> block_means([1.0, 3.0, 10.0, 20.0]).tolist()
    [2.0, 15.0]
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or array.size % per_block:
        raise InvalidInput(f"{array.size} samples do not fill blocks of {per_block}; give whole blocks")
    means: Array = array.reshape(-1, per_block).mean(axis=1)
    return means


def ratio_of_pairs(pairs_ms: Sequence[tuple[float, float]], seed: int = 0) -> Estimate:
    """Median of baseline / candidate over ABBA blocks with its 95 % interval: the speed improvement.

    >>> ratio_of_pairs([(3.0, 1.5)] * 6)
    Estimate(value=2.0, low=2.0, high=2.0)
    """
    low, middle, high = log_interval(pairs_ms, seed)
    return Estimate(_exp(middle), _exp(low), _exp(high))


def half_width(pairs_ms: Sequence[tuple[float, float]], seed: int = 0) -> float:
    """Half the width of the 95 % interval of the median log ratio: 0.02 reads as "±2 %".

    >>> half_width([(3.0, 1.5)] * 6)
    0.0
    """
    low, _, high = log_interval(pairs_ms, seed)
    return (high - low) / 2


def log_interval(pairs_ms: Sequence[tuple[float, float]], seed: int = 0) -> tuple[float, float, float]:
    """Low end, median and high end of the log ratio of a race that may stop when this is narrow."""
    blocks = block_means(log_ratios(pairs_ms))
    low, high = median_interval(blocks, seed, RACE_LEVEL)
    return low, float(np.median(blocks)), high


def median_of_blocks(values: npt.ArrayLike, seed: int = 0) -> Estimate:
    """Median over blocks of a plain quantity (milliseconds) with its 95 % interval."""
    blocks = block_means(values)
    low, high = median_interval(blocks, seed)
    return Estimate(float(np.median(blocks)), low, high)


def median_interval(values: npt.ArrayLike, seed: int = 0, level: float = COVERAGE) -> tuple[float, float]:
    """Interval of the median of values in the order they were taken, by the smoothed bootstrap described above."""
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        return -math.inf, math.inf
    low, high = np.quantile(resampled_medians(array, seed), _tails(level))
    return float(low), float(high)


def resampled_medians(values: npt.ArrayLike, seed: int = 0) -> Array:
    """The smoothed bootstrap's draws of the median of at least two values, widened for few and for correlated ones."""
    array = np.asarray(values, dtype=np.float64)
    count = array.size
    chosen, noise = _median_draws(count, seed)
    medians = _row_medians(array[chosen] + _SMOOTHING * _scale(array) / math.sqrt(count) * noise)
    centre = float(np.median(array))
    widened: Array = centre + (1.0 + 1.0 / count) * serial_widening(array) * (medians - centre)
    return widened


def serial_widening(values: npt.ArrayLike) -> float:
    """How much wider an interval must be because neighbours resemble each other; 1 where they do not.

    sqrt((1 + r) / (1 - r)), exact for a first-order autoregression, with the correlation r of neighbours after cutting
    outliers to three standard deviations; r of so few values is 1/n too low on average.

    >>> serial_widening([1.0, 2.0, 1.0, 2.0, 1.0, 2.0]), round(serial_widening([1.0, 1.1, 1.2, 2.0, 2.1, 2.2]), 2)
    (1.0, 2.38)
    """
    array = np.asarray(values, dtype=np.float64)
    middle, reach = np.median(array), 3 * _scale(array)
    cut = np.clip(array - middle, -reach, reach)
    cut -= cut.mean()
    total = float(cut @ cut)
    if total <= _NEGLIGIBLE:
        return 1.0
    correlation = min(max(float(cut[1:] @ cut[:-1]) / total + 1 / array.size, 0.0), _MOST_CORRELATION)
    return math.sqrt((1 + correlation) / (1 - correlation))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P values of several comparisons, each raised so that one false "different" among all stays as rare as it says.

    Holm's step-down needs no independence and rejects all that Bonferroni does (Scand. J. Stat. 6, 1979).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def relative_spread(values: npt.ArrayLike) -> float:
    """Interquartile range over median: how much single samples differ.

    >>> relative_spread([9.0, 10.0, 10.0, 11.0])
    0.05
    """
    array = np.asarray(values, dtype=np.float64)
    low, middle, high = np.quantile(array, (0.25, 0.5, 0.75))
    return float((high - low) / middle)


def drift(values: npt.ArrayLike) -> float:
    """Median of the last third over median of the first third, minus 1: a machine that warms up or slows down.

    >>> drift([10.0, 10.0, 10.0, 11.0, 12.0, 12.0])
    0.2
    """
    array = np.asarray(values, dtype=np.float64)
    third = max(1, array.size // 3)
    return round(float(np.median(array[-third:]) / np.median(array[:third]) - 1.0), 12)


def _positive(pairs_ms: Sequence[tuple[float, float]]) -> Array:
    pairs = np.asarray(pairs_ms, dtype=np.float64).reshape(-1, 2)
    if pairs.size and not (np.isfinite(pairs).all() and (pairs > 0).all()):
        raise InvalidInput(
            f"a timed sample of {pairs.min():g} ms is not a duration; only positive times can be compared"
        )
    return pairs


def _scale(array: Array) -> float:
    """Standard deviation, or the one the IQR implies where outliers blow the former up."""
    low, high = np.quantile(array, (0.25, 0.75))
    return float(min(array.std(ddof=1), (high - low) / _IQR_OF_NORMAL))


def _row_medians(rows: Array) -> Array:
    """The median of each row; sorting whole rows is several times faster than `np.median`, which selects."""
    count = rows.shape[1]
    ordered = np.sort(rows, axis=1)
    medians: Array = (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2
    return medians


@functools.lru_cache(maxsize=16)  # a race looks at few sizes, always with its own seed
def _median_draws(count: int, seed: int) -> tuple[npt.NDArray[np.int64], Array]:
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((RESAMPLES, count))
    return generator.integers(0, count, (RESAMPLES, count)), noise


def _tails(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _exp(value: float) -> float:
    return round(math.exp(value), 12) if abs(value) < 700 else (math.inf if value > 0 else 0.0)
