"""From raw samples to a number with an honest interval; numpy only.

Baseline and candidate are timed in ABBA blocks, so the unit that may be resampled is the block, not the single call:
inside a block the two orders cancel whatever helps the second of two calls, and neighbours share the machine's mood.
A block's value is the mean of its log ratios, the estimate is the median over blocks, and the interval comes from a
*smoothed* bootstrap: the plain percentile bootstrap of a median of six to fifteen blocks covers the truth in only
85-92 % of cases, and stopping at the first narrow interval makes that worse. With a little noise of the median's own
order added to each resample (Silverman and Young, Biometrika 74, 1987) the coverage is 95 % from six blocks on.
Quality is judged by a ratio of means whose rows (whole windows, whole images) are resampled together for both models.
"""

from __future__ import annotations

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
    blocks = block_means(log_ratios(pairs_ms))
    low, high = median_interval(blocks, seed)
    return Estimate(_exp(float(np.median(blocks))), _exp(low), _exp(high))


def half_width(pairs_ms: Sequence[tuple[float, float]], seed: int = 0) -> float:
    """Half the width of the 95 % interval of the median log ratio: 0.02 reads as "±2 %".

    >>> half_width([(3.0, 1.5)] * 6)
    0.0
    """
    low, high = median_interval(block_means(log_ratios(pairs_ms)), seed)
    return (high - low) / 2


def median_of_blocks(values: npt.ArrayLike, seed: int = 0) -> Estimate:
    """Median over blocks of a plain quantity (milliseconds) with its 95 % interval."""
    blocks = block_means(values)
    low, high = median_interval(blocks, seed)
    return Estimate(float(np.median(blocks)), low, high)


def median_interval(values: npt.ArrayLike, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the median of independent values by the smoothed bootstrap of the module's docstring."""
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        return -math.inf, math.inf
    low, high = np.quantile(resampled_medians(array, seed), _tails())
    return float(low), float(high)


def resampled_medians(values: npt.ArrayLike, seed: int = 0) -> Array:
    """The smoothed bootstrap's draws of the median, widened about it for small samples; at least two values."""
    array = np.asarray(values, dtype=np.float64)
    count = array.size
    generator = np.random.default_rng(seed)
    noise = _scale(array) / math.sqrt(count) * generator.standard_normal((RESAMPLES, count))
    medians = np.median(array[generator.integers(0, count, (RESAMPLES, count))] + noise, axis=1)
    centre = float(np.median(array))
    widened: Array = centre + (1.0 + 1.0 / count) * (medians - centre)
    return widened


def mean_of_rows(rows: npt.ArrayLike, seed: int = 0) -> Estimate:
    """Mean over rows with its 95 % percentile bootstrap interval.

    >>> mean_of_rows([0.5, 0.5, 0.5])
    Estimate(value=0.5, low=0.5, high=0.5)
    """
    array = np.asarray(rows, dtype=np.float64)
    means = array[_row_draws(array.size, seed)].mean(axis=1)
    low, high = np.quantile(means, _tails())
    return Estimate(float(array.mean()), float(low), float(high))


def ratio_of_means(candidate_rows: npt.ArrayLike, baseline_rows: npt.ArrayLike, seed: int = 0) -> Estimate:
    """Mean of the candidate's rows over mean of the baseline's, rows resampled as pairs.

    A row is a cluster: 256 predictions of one window stand or fall together, so they are one draw.

    >>> ratio_of_means([0.4, 0.2], [0.8, 0.4])
    Estimate(value=0.5, low=0.5, high=0.5)
    """
    candidate, baseline = (np.asarray(rows, dtype=np.float64) for rows in (candidate_rows, baseline_rows))
    if candidate.shape != baseline.shape or candidate.size == 0:
        raise InvalidInput(f"{candidate.size} candidate rows beside {baseline.size}; give the same rows for both")
    if baseline.mean() <= 0:
        raise InvalidInput(f"the baseline's mean is {baseline.mean():g}; a ratio needs a positive one")
    draws = _row_draws(candidate.size, seed)
    below = baseline[draws].mean(axis=1)
    ratios = candidate[draws].mean(axis=1)[below > 0] / below[below > 0]
    low, high = np.quantile(ratios, _tails())
    return Estimate(float(candidate.mean() / baseline.mean()), float(low), float(high))


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


def _row_draws(count: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def _tails() -> tuple[float, float]:
    return (1 - COVERAGE) / 2, (1 + COVERAGE) / 2


def _exp(value: float) -> float:
    return round(math.exp(value), 12) if abs(value) < 700 else (math.inf if value > 0 else 0.0)
