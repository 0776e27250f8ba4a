"""What held-out rows prove about rows nobody has seen: open intervals where all agree, and when they are enough.

Resampling the rows at hand says [1, 1] where all of them agree, although 64 equal rows say little about a 65th. So one
*unseen row* joins the rows at hand, a bad one for the pessimistic end and a good one for the optimistic end, and all
get random weights (Bayesian bootstrap; Rubin, Ann. Statist. 9, 1981). With the worst row possible that is Gaffke's
bound (2005; Learned-Miller and Thomas 2020), and for rows that are right or wrong as a whole it is Clopper and
Pearson's interval: with 64 equal rows at most 1 - 0.025^(1/64) = 5.6 % is lost, the rule of three.

How bad the unseen row is: at least as bad as the worst row seen, and it loses at least one *independent* prediction
(`one_prediction`). A window of 256 next bytes counts for as many as the baseline's own rows scatter like: nearly 30
with our language models. That windows fail as a whole but rarely is therefore not covered.

A bound may be tested while rows still come in. Looking often invites false decisions, so early looks need 99.9 % per
side and only the last one 97.5 %: with all looks together a false decision stays below 5 % (simulated in the tests).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hybrid_core.records import Estimate

Array = npt.NDArray[np.float64]

DRAWS = 5000
LAST_TAIL = 0.025
EARLY_TAIL = 0.001
FIRST_LOOK = 32


def one_prediction(baseline_rows: Sequence[float]) -> float:
    """What one independent prediction is of a row's score, between 0 and 1.

    A mean of k independent rights and wrongs scatters by p (1 - p) / k; solved for k, but never more than the scores'
    own steps allow.

    >>> one_prediction([1.0, 1.0, 0.0, 1.0])
    1.0
    >>> one_prediction([0.5, 0.5, 0.5])
    0.5
    """
    rows = np.asarray(baseline_rows, dtype=np.float64)
    step = float(np.diff(np.unique(np.concatenate((rows, (0.0, 1.0))))).min())
    mean = float(rows.mean())
    scatter = float(rows.var()) / (mean * (1 - mean)) if 0 < mean < 1 else 0.0
    return min(1.0, max(step, scatter))


def ratio_of_rows(
    candidate_rows: Sequence[float], baseline_rows: Sequence[float], loss: float, seed: int = 0, tail: float = LAST_TAIL
) -> Estimate:
    """Mean of the candidate's rows over mean of the baseline's with the share `tail` left out at each end.

    `loss` is what an unseen row loses at least, in units of the score; the interval is open to both sides.

    >>> found = ratio_of_rows([1.0] * 64, [1.0] * 64, loss=1.0)
    >>> found.value, round(found.low, 2), found.high > 1.0
    (1.0, 0.94, True)
    """
    candidate, baseline = (np.asarray(rows, dtype=np.float64) for rows in (candidate_rows, baseline_rows))
    lost = max(loss, float((baseline - candidate).max()))
    gained = max(loss, float((candidate - baseline).max()))
    weights = row_weights(candidate.size, seed)
    low = _ratios(candidate, baseline, weights, unseen=_beside(baseline, -lost))
    high = _ratios(candidate, baseline, weights, unseen=_beside(baseline, gained))
    value = float(candidate.mean() / baseline.mean())
    ends = float(np.quantile(low, tail)), float(np.quantile(high, 1 - tail))
    return Estimate(value, min(value, ends[0]), max(value, ends[1]))


def mean_of_rows(rows: Sequence[float], loss: float, seed: int = 0, tail: float = LAST_TAIL) -> Estimate:
    """Mean of scores between 0 and 1 with its interval; `loss` as above, on either side of the mean.

    >>> found = mean_of_rows([1.0] * 64, loss=1.0)
    >>> found.value, round(found.low, 2), found.high
    (1.0, 0.94, 1.0)
    """
    scores = np.asarray(rows, dtype=np.float64)
    mean, weights = float(scores.mean()), row_weights(scores.size, seed)
    worst = max(0.0, min(float(scores.min()), mean - loss))
    best = min(1.0, max(float(scores.max()), mean + loss))
    low, high = (weights[:, :-1] @ scores + weights[:, -1] * unseen for unseen in (worst, best))
    return Estimate(mean, min(mean, float(np.quantile(low, tail))), max(mean, float(np.quantile(high, 1 - tail))))


def verdict(ratio: Estimate, bound: float) -> str:
    """Where a whole interval lies: "above" the bound (or on it), "below" it, or "" where it holds the bound."""
    if ratio.low >= bound:
        return "above"
    return "below" if ratio.high < bound else ""


def rows_to_show(loss: float, mean: float, bound: float, tail: float = LAST_TAIL) -> int:
    """How many rows that all agree would show that the bound is kept.

    >>> rows_to_show(loss=1.0, mean=1.0, bound=0.98)
    183
    """
    allowed = min(1.0, max(1e-9, (1 - bound) * max(mean, loss) / loss))
    return int(np.ceil(np.log(tail) / np.log1p(-min(allowed, 1 - 1e-9))))


def row_weights(count: int, seed: int) -> Array:
    """Random weights of `count` rows and one unseen row (last), uniform on the simplex, (DRAWS, count + 1)."""
    spacings = np.random.default_rng(seed).standard_exponential((DRAWS, count + 1))
    weights: Array = spacings / spacings.sum(axis=1, keepdims=True)
    return weights


def _beside(baseline: Array, difference: float) -> tuple[float, float]:
    """An unseen row as (candidate, baseline): the baseline's mean row, moved where the difference needs room."""
    size = abs(difference)
    top = max(float(baseline.mean()), size)
    return (top - size, top) if difference < 0 else (top, top - size)


def _ratios(candidate: Array, baseline: Array, weights: Array, unseen: tuple[float, float]) -> Array:
    above = weights[:, :-1] @ candidate + weights[:, -1] * unseen[0]
    below = weights[:, :-1] @ baseline + weights[:, -1] * unseen[1]
    ratios: Array = above / np.maximum(below, 1e-12)
    return ratios
