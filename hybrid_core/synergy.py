"""Synergy: what an ensemble gained against the product of what its parts gained alone.

If steps do not help or hinder each other, ratios multiply: 1.2x and 1.3x make 1.56x. Synergy is the measured ratio of
the ensemble over that product, 1.0 for no interaction; on the log scale it is a difference, log r(AB) - log r(A) -
log r(B), as the interaction of a factorial experiment (Box, Hunter and Hunter, Statistics for Experimenters, 2005,
chapter 5).

Every trial was measured in a process of its own against its own baseline, so their errors are independent: the median
log ratio of each trial is resampled over its own blocks (the smoothed bootstrap of `measurement.statistics`), the
draws are subtracted, and the 95 % interval is read off the differences. What repeats the block do not see (one process
is luckier than the next) is in the A/A noise floor: a synergy counts only if it also exceeds that floor times the root
of the number of trials in it. Memory is counted, not timed; its interval ends combine in quadrature on the log scale.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from hybrid_core.fitness import SMALLEST_NOISE_FLOOR, objectives_of
from hybrid_core.measurement.statistics import PAIRS_PER_BLOCK, block_means, log_ratios, resampled_medians
from hybrid_core.records import Estimate, Measurement, Purpose, Recipe, Trial

OBJECTIVES = ("speed", "memory")
# An interval that lies within this of 1 says that the parts do not interact in any way that matters.
SAME_WITHIN = 0.05
_FEWEST_BLOCKS = 4
_TAILS = (0.025, 0.975)


class Interaction(StrEnum):
    """What a synergy's interval and the noise floor say."""

    BETTER = "better together"
    EXPECTED = "as expected"
    WORSE = "worse together"
    UNTOLD = "cannot be told"


@dataclass(frozen=True)
class Synergy:
    """One ensemble against the product of its single settings, for one objective; all ratios are baseline / candidate.

    `trials` names the trials it rests on, the ensemble's first.
    """

    recipe: Recipe
    key: str
    objective: str
    measured: Estimate
    product: Estimate
    synergy: Estimate
    verdict: Interaction
    trials: tuple[str, ...]


def synergies(trials: Sequence[Trial], noise_floors: Mapping[str, float]) -> list[Synergy]:
    """The synergy of every ensemble whose single settings were all measured, for speed and for memory.

    A recipe measured twice counts with its final race, whose numbers nobody selected.
    """
    measured = {trial.recipe.key: trial for trial in trials if trial.is_ok and trial.purpose is not Purpose.FINAL}
    measured |= {trial.recipe.key: trial for trial in trials if trial.is_ok and trial.purpose is Purpose.FINAL}
    found = []
    for trial in measured.values():
        alone = [measured.get(Recipe((step,)).key) for step in trial.recipe.steps]
        singles = [single for single in alone if single is not None]
        if len(singles) > 1 and len(singles) == len(alone):
            floors = (noise_floors.get(name, SMALLEST_NOISE_FLOOR) for name in OBJECTIVES)
            found += [_synergy(trial, singles, name, floor) for name, floor in zip(OBJECTIVES, floors, strict=True)]
    return sorted(found, key=lambda s: (len(s.recipe.steps), s.key, OBJECTIVES.index(s.objective)))


def judge_synergy(synergy: Estimate, noise: float) -> Interaction:
    """Better or worse only if the interval excludes 1 and the difference exceeds the noise.

    >>> judge_synergy(Estimate(1.2, 1.1, 1.3), 0.03), judge_synergy(Estimate(1.0, 0.97, 1.03), 0.03)
    (<Interaction.BETTER: 'better together'>, <Interaction.EXPECTED: 'as expected'>)
    >>> judge_synergy(Estimate(1.1, 0.9, 1.3), 0.03)
    <Interaction.UNTOLD: 'cannot be told'>
    """
    if not all(math.isfinite(x) for x in (synergy.value, synergy.low, synergy.high)):
        return Interaction.UNTOLD
    if synergy.low > 1.0 and synergy.value - 1.0 > noise:
        return Interaction.BETTER
    if synergy.high < 1.0 and 1.0 - synergy.value > noise:
        return Interaction.WORSE
    if 1.0 / (1.0 + SAME_WITHIN) <= synergy.low and synergy.high <= 1.0 + SAME_WITHIN:
        return Interaction.EXPECTED
    return Interaction.UNTOLD


def ratio_of_trials(
    ensemble: Sequence[tuple[float, float]], singles: Sequence[Sequence[tuple[float, float]]]
) -> tuple[Estimate, Estimate, Estimate]:
    """(measured, product, synergy) of speed from the raw pairs of each trial, in milliseconds.

    >>> [estimate.value for estimate in ratio_of_trials([(6.0, 1.0)] * 8, [[(2.0, 1.0)] * 8, [(3.0, 1.0)] * 8])]
    [6.0, 6.0, 1.0]
    """
    whole, parts = _Draws.of(ensemble), [_Draws.of(pairs, place) for place, pairs in enumerate(singles, start=1)]
    product = _Draws(sum(part.centre for part in parts), np.sum([part.draws for part in parts], axis=0))
    difference = _Draws(whole.centre - product.centre, whole.draws - product.draws)
    return whole.estimate(), product.estimate(), difference.estimate()


def ratio_of_estimates(ensemble: Estimate, singles: Sequence[Estimate]) -> tuple[Estimate, Estimate, Estimate]:
    """(measured, product, synergy) from finished estimates: half-widths of logs combine in quadrature.

    >>> ratio_of_estimates(Estimate.exact(3.0), [Estimate.exact(1.5), Estimate.exact(2.0)])[2]
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    logs = [_log(single) for single in singles]
    product = (sum(centre for centre, _ in logs), math.hypot(*(half for _, half in logs)))
    whole = _log(ensemble)
    return ensemble, _from_log(*product), _from_log(whole[0] - product[0], math.hypot(whole[1], product[1]))


@dataclass(frozen=True)
class _Draws:
    """A median on the log scale with its bootstrap draws."""

    centre: float
    draws: npt.NDArray[np.float64]

    @classmethod
    def of(cls, pairs_ms: Sequence[tuple[float, float]], place: int = 0) -> _Draws:
        """The draws of one trial; `place` and the samples seed them, so that two trials never share their chance."""
        blocks = block_means(log_ratios(pairs_ms))
        seed = zlib.crc32(blocks.tobytes()) + place
        return cls(float(np.median(blocks)), resampled_medians(blocks, seed))

    def estimate(self) -> Estimate:
        """Back on the scale of ratios."""
        low, high = np.quantile(self.draws, _TAILS)
        return Estimate(*(round(math.exp(value), 12) for value in (self.centre, float(low), float(high))))


def _synergy(trial: Trial, singles: Sequence[Trial], objective: str, floor: float) -> Synergy:
    measurements = [t.measurement for t in (trial, *singles) if t.measurement is not None]
    if objective == "speed" and all(_has_blocks(measurement) for measurement in measurements):
        pairs = [measurement.pairs_ms for measurement in measurements]
        measured, product, synergy = ratio_of_trials(pairs[0], pairs[1:])
    else:
        ratios = [objectives_of(measurement)[objective] for measurement in measurements]
        measured, product, synergy = ratio_of_estimates(ratios[0], ratios[1:])
    noise = floor * math.sqrt(len(measurements))
    names = tuple(t.trial_id for t in (trial, *singles))
    verdict = judge_synergy(synergy, noise)
    return Synergy(trial.recipe, trial.recipe.key, objective, measured, product, synergy, verdict, names)


def _has_blocks(measurement: Measurement) -> bool:
    count = len(measurement.pairs_ms)
    return count % PAIRS_PER_BLOCK == 0 and count >= _FEWEST_BLOCKS * PAIRS_PER_BLOCK


def _log(estimate: Estimate) -> tuple[float, float]:
    """Centre and half-width on the log scale; NaN for what has none."""
    if not all(math.isfinite(x) and x > 0 for x in (estimate.value, estimate.low, estimate.high)):
        return math.nan, math.nan
    return math.log(estimate.value), (math.log(estimate.high) - math.log(estimate.low)) / 2


def _from_log(centre: float, half: float) -> Estimate:
    return Estimate(*(round(math.exp(value), 12) for value in (centre, centre - half, centre + half)))
