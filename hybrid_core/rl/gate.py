"""May a policy be trained on what other models teach? Answered by leaving each earlier model out once.

A policy trained on a surrogate is at best as good as the surrogate, and a surrogate made of other models is worthless
where models have nothing in common. So each earlier model plays the new one: the others predict it, and the prediction
must rank its recipes and its first picks must lose less than picks at random. Where that fails, reinforcement learning
steps back to a portfolio and local search, and the sentence made here says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_core.errors import InvalidInput

Array = NDArray[np.float64]
LEAST_MODELS = 3
LEAST_ROWS = 8
# The middle rank correlation over the models left out; 0.3 is where picking by rank clearly beats drawing lots.
LEAST_CORRELATION = 0.3
PICKS = 3


@dataclass(frozen=True)
class LeftOut:
    """One earlier model predicted by the others: predicted and measured value of the same recipes.

    `measured` is NaN where the recipe failed or broke a bound: picking it gains nothing.
    """

    name: str
    predicted: Sequence[float]
    measured: Sequence[float]

    def __post_init__(self) -> None:
        """Both sides tell of the same recipes."""
        if len(self.predicted) != len(self.measured):
            sizes = f"{len(self.predicted)} predictions for {len(self.measured)} measurements"
            raise InvalidInput(f"{sizes} of {self.name!r}; give one prediction per measurement")

    @property
    def correlation(self) -> float:
        """Spearman's rank correlation over the recipes that worked; NaN where either side is constant."""
        works = np.isfinite(np.asarray(self.measured, dtype=np.float64))
        return rank_correlation(np.asarray(self.predicted)[works], np.asarray(self.measured)[works])

    def regret(self, picks: int = PICKS) -> float:
        """What the best of the `picks` highest predictions misses of the best recipe; 0 is the untouched model."""
        gains = self._gains()
        first = np.argsort(-np.asarray(self.predicted), kind="stable")[:picks]
        return float(gains.max() - gains[first].max())

    def random_regret(self, picks: int = PICKS) -> float:
        """The same expected of recipes drawn without replacement."""
        gains = self._gains()
        return float(gains.max()) - expected_best(gains.tolist(), picks)

    def _gains(self) -> Array:
        return np.maximum(np.nan_to_num(np.asarray(self.measured, dtype=np.float64), nan=0.0), 0.0)

    def to_json(self) -> dict[str, Any]:
        """The figures of this model."""
        correlation = self.correlation
        return {
            "model": self.name,
            "rows": len(self.measured),
            "rank_correlation": correlation if math.isfinite(correlation) else None,
            "regret": self.regret(),
            "random_regret": self.random_regret(),
        }


@dataclass(frozen=True)
class Gate:
    """The verdict. `case`: "none" (no history), "too_little", "failed" or "passed".

    `passed` is None where nothing could be judged. `figures` are medians and means over the models left out.
    """

    case: str
    sentence: str
    figures: dict[str, Any]
    models: tuple[LeftOut, ...] = ()

    @property
    def passed(self) -> bool | None:
        """True or False where it was judged."""
        return {"passed": True, "failed": False}.get(self.case)

    def to_json(self) -> dict[str, Any]:
        """Everything a page can show: case, passed, sentence, picks, the figures, and a row per model left out."""
        rows = [left_out.to_json() for left_out in self.models]
        return {"case": self.case, "passed": self.passed, "sentence": self.sentence, **self.figures, "models": rows}


def judge(left_out: Sequence[LeftOut]) -> Gate:
    """The verdict over all earlier models; those with fewer than eight recipes say too little and do not count."""
    if not left_out:
        return Gate("none", "No other model was measured before, so learning rests on this run's own measurements.", {})
    enough = tuple(one for one in left_out if len(one.measured) >= LEAST_ROWS and math.isfinite(one.correlation))
    if len(enough) < LEAST_MODELS:
        known = f"with {LEAST_ROWS} or more recipes"
        many = {0: f"No other model {known} is", 1: f"Only one other model {known} is"}
        return Gate(
            "too_little",
            f"{many.get(len(enough), f'Only {len(enough)} other models {known} are')} known, and {LEAST_MODELS} are "
            "needed to judge whether models are alike; what is known of others is set aside, and learning rests on "
            "this run's own results.",
            {},
        )
    correlation = median(one.correlation for one in enough)
    regret, random_regret = (fmean(f(one) for one in enough) for f in (LeftOut.regret, LeftOut.random_regret))
    figures = {
        "picks": PICKS,
        "rank_correlation": correlation,
        "regret": regret,
        "random_regret": random_regret,
        "least_correlation": LEAST_CORRELATION,
    }
    told = (
        f"each of {len(enough)} earlier models predicted by the others: middle rank correlation {correlation:.2f} "
        f"(at least {LEAST_CORRELATION} is needed), the best of {PICKS} picks misses {lost(regret)} of the best "
        f"fitness, {PICKS} random ones {lost(random_regret)}"
    )
    if correlation >= LEAST_CORRELATION and regret < random_regret:
        return Gate("passed", f"Other models may teach this one; {told}.", figures, enough)
    sentence = f"Other models do not predict one another, so portfolio and local search propose instead; {told}."
    return Gate("failed", sentence, figures, enough)


def lost(regret: float) -> str:
    """A regret in log fitness as a share of the fitness.

    >>> lost(0.1)
    '9.5 %'
    """
    return f"{100 * -math.expm1(-regret):.1f} %"


def rank_correlation(one: Array, other: Array) -> float:
    """Spearman's, ties sharing the mean of their ranks; NaN for fewer than two values or a constant side."""
    if len(one) < 2:
        return math.nan
    a, b = (ranks - ranks.mean() for ranks in map(_ranks, (one, other)))
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size > 0 else math.nan


def expected_best(values: Sequence[float], picks: int) -> float:
    """Expected maximum of `picks` values drawn without replacement: each value times its chance to be the largest.

    >>> expected_best([0.0, 1.0, 2.0], 2)
    1.6666666666666667
    """
    ordered, total = sorted(values), len(values)
    picks = min(picks, total)
    chances = [math.comb(below, picks - 1) / math.comb(total, picks) for below in range(total)]
    return sum(chance * value for chance, value in zip(chances, ordered, strict=True))


def _ranks(values: Array) -> Array:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: Array = (last - (counts - 1) / 2).astype(np.float64)
    return middle[place]
