"""One number from several processes, with an interval that the same measurement done again lands in.

Inside one process a ratio is soon known to 2 %; another process lays out memory, threads and compiled code anew and may
find another ratio, narrowly too. So a process is one draw, and the interval is a *prediction* interval: it holds the
result of as many new processes with 95 %, which makes it sqrt(2) wider than one for the true value alone.
Processes that follow each other share what the machine does in those minutes, so three of them tell less about another
hour than three draws would: `moment` is the variance of that shared part over the variance of one process.
Two to five draws tell little about their own spread, so it is pooled with the spread known for the device, which is
worth at most `TRUST` degrees of freedom because recipes differ, and `DOUBT` where the draws contradict it
(a variance shrunken towards others': Smyth, Stat. Appl. Genet. Mol. Biol. 3, 2004).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, median

from hybrid_core.errors import InvalidInput
from hybrid_core.measurement.student import f_tail, t_quantile, t_tail
from hybrid_core.records import Estimate

TRUST = 8
# Worth nothing, two draws would be left with one degree: simulated on recipes of which one in five is five times as
# unsteady, intervals would be four times as wide and hold 99.8 % of what they should hold 95 % of, instead of 98 %.
DOUBT = 1
POWER = 0.8
_UPPER = 0.975
_NORMAL = NormalDist().inv_cdf(_UPPER)
_CONTRADICTED = 0.1
_FLOOR_SHARE = 0.9875  # two-sided 97.5 %: less than 1.25 % of A/A comparisons look faster by more than the floor


@dataclass(frozen=True)
class Spread:
    """Standard deviation of the log ratio of the same recipe between processes, with its degrees of freedom.

    `within` is the part of `sd` that comes from the uncertainty inside each process; 0 where it is not known, which
    makes intervals a little too wide, never too narrow. `source` says of what it is known, for a person.
    """

    sd: float
    degrees: int
    within: float = 0.0
    source: str = ""


def spread_of(
    groups: Sequence[Sequence[float]], around_zero: Sequence[float] = (), errors: Sequence[float] = ()
) -> Spread | None:
    """The spread pooled over groups of log ratios, each of one recipe in several processes; None without a repeat.

    `around_zero` are log ratios of A/A comparisons, whose true value is known, so that each counts. `errors` are the
    standard errors inside the processes (`standard_error`); their median counts, since one race that ended at its time
    limit with a wide interval must not explain away how far all others differ.

    >>> spread = spread_of([[0.01, 0.03], [0.5, 0.5, 0.5]], around_zero=[0.02])
    >>> spread and (round(spread.sd, 4), spread.degrees)
    (0.0122, 4)
    """
    repeated = [group for group in groups if len(group) > 1]
    degrees = sum(len(group) - 1 for group in repeated) + len(around_zero)
    if not degrees:
        return None
    squares = sum(_squares(group, fmean(group)) for group in repeated) + _squares(around_zero, 0.0)
    return Spread(math.sqrt(squares / degrees), degrees, _typical(errors))


def spread_of_recipes(
    recipes: Sequence[Sequence[Sequence[float]]], errors: Sequence[float] = (), moment: float = 0.0
) -> Spread | None:
    """The spread of one process within its moment, from recipes that were measured at several; None without a repeat.

    `recipes` holds, for each recipe, the log ratios of every process of every measurement of it. Processes of one
    measurement tell the spread directly; the means of n processes differ between measurements with a variance that is
    `moment + 1/n` times as large.

    >>> spread = spread_of_recipes([[[0.01, 0.03], [0.05]], [[0.7]]], moment=0.5)
    >>> spread and (round(spread.sd, 4), spread.degrees)
    (0.0167, 2)
    """
    squares, degrees = 0.0, 0
    for measured in recipes:
        means = [fmean(group) for group in measured]
        weights = [1.0 / (moment + 1.0 / len(group)) for group in measured]
        centre = fmean(means, weights)
        squares += sum(_squares(group, mean) for group, mean in zip(measured, means, strict=True))
        squares += sum(weight * (mean - centre) ** 2 for weight, mean in zip(weights, means, strict=True))
        degrees += sum(map(len, measured)) - 1
    return Spread(math.sqrt(squares / degrees), degrees, _typical(errors)) if degrees else None


def without(spread: Spread, logs: Sequence[float]) -> Spread | None:
    """The spread without these log ratios, one of the groups it was pooled from; None where nothing else is in it.

    >>> rest = without(Spread(0.2, 3), [0.3, 0.5])
    >>> rest and (round(rest.sd, 4), rest.degrees)
    (0.2236, 2)
    """
    alone = spread_of([logs])
    if alone is None:
        return spread
    degrees = spread.degrees - alone.degrees
    squares = max(spread.sd**2 * spread.degrees - alone.sd**2 * alone.degrees, 0.0)
    return replace(spread, sd=math.sqrt(squares / degrees), degrees=degrees) if degrees else None


def pooled(one: Spread | None, other: Spread | None) -> Spread | None:
    """Both by their degrees of freedom; what the first owes to the inside of its processes is what both do.

    >>> both = pooled(Spread(0.1, 1), Spread(0.2, 3))
    >>> both and (round(both.sd, 4), both.degrees)
    (0.1803, 4)
    """
    if one is None or other is None:
        return one or other
    degrees = one.degrees + other.degrees
    return Spread(math.sqrt((one.sd**2 * one.degrees + other.sd**2 * other.degrees) / degrees), degrees, one.within)


def combine_rounds(rounds: Sequence[Estimate], known: Spread | None, moment: float = 0.0) -> Estimate:
    """The geometric mean over processes with the interval that as many new processes, later, land in with 95 %.

    >>> three = [Estimate(1.2, 1.19, 1.21), Estimate(1.3, 1.29, 1.31), Estimate(1.25, 1.24, 1.26)]
    >>> together = combine_rounds(three, None)
    >>> round(together.value, 3), round(together.low, 3), round(together.high, 3)
    (1.249, 1.085, 1.438)
    """
    if len(rounds) == 1 and known is None:
        return rounds[0]
    centre, sd, degrees = _draws(rounds, known)
    between = t_quantile(_UPPER, degrees) * sd * math.sqrt(2 * (1 / len(rounds) + moment))
    below, above = (max(between, side * math.sqrt(2 / len(rounds))) for side in _sides(rounds))
    return Estimate(_exp(centre), _exp(centre - below), _exp(centre + above))


def widen(estimate: Estimate, known: Spread | None, moment: float = 0.0) -> Estimate:
    """The estimate of one process with the interval that one new process lands in; unchanged where no spread is known.

    >>> wide = widen(Estimate(1.2, 1.19, 1.21), Spread(0.03, 12))
    >>> wide.value, round(wide.low, 3), round(wide.high, 3)
    (1.2, 1.087, 1.325)
    """
    return combine_rounds([estimate], known, moment)


def noise_floor(known: Spread | None, rounds: int) -> float:
    """The |ratio - 1| that the untouched model against itself stays below in 97.5 % of cases; 0 where nothing is known.

    >>> round(noise_floor(Spread(0.02, 100), 1), 4), round(noise_floor(Spread(0.02, 100), 4), 4)
    (0.0566, 0.0279)
    """
    if known is None:
        return 0.0
    return math.expm1(t_quantile(_FLOOR_SHARE, min(known.degrees, TRUST)) * known.sd / math.sqrt(rounds))


def detectable(estimate_half_width: float, power: float = POWER) -> float:
    """The smallest gain that such an interval (half width of the log ratio) calls faster in `power` of measurements.

    >>> round(detectable(0.02), 4), round(detectable(0.02, power=0.95), 4)
    (0.029, 0.0375)
    """
    return math.expm1(estimate_half_width * (1 + NormalDist().inv_cdf(power) / _NORMAL))


def p_value(rounds: Sequence[Estimate], known: Spread | None, moment: float = 0.0) -> float:
    """Two-sided chance of a ratio at least this far from 1 if the recipe changed nothing (t over processes).

    >>> round(p_value([Estimate(1.02, 1.0, 1.04)], None), 3), round(p_value([Estimate(1.02, 1.0, 1.04)] * 3, None), 4)
    (0.05, 0.0007)
    """
    centre, sd, degrees = _draws(rounds, known)
    below, above = _sides(rounds)
    inside = (below if centre > 0 else above) / _NORMAL / math.sqrt(len(rounds))
    between = sd * math.sqrt(1 / len(rounds) + moment)
    if max(between, inside) == 0:
        return 1.0 if centre == 0 else 0.0
    return max(t_tail(centre / scale, by) for scale, by in ((between, degrees), (inside, math.inf)) if scale > 0)


def log_half_width(estimate: Estimate) -> float:
    """Half the width of the interval of the logarithm: 0.02 reads as "±2 %"; infinite where nothing is known.

    >>> round(log_half_width(Estimate(1.0, 0.98, 1.02)), 4)
    0.02
    """
    if estimate.low <= 0 or math.isinf(estimate.high):
        return math.inf
    return math.log(estimate.high / estimate.low) / 2


def standard_error(estimate: Estimate) -> float:
    """The standard error of the log ratio that the 95 % interval implies.

    >>> round(standard_error(Estimate(1.0, 0.98, 1.02)), 4)
    0.0102
    """
    return log_half_width(estimate) / _NORMAL


def _draws(rounds: Sequence[Estimate], known: Spread | None) -> tuple[float, float, float]:
    """Mean log ratio, standard deviation of one process, and what this deviation is worth in degrees of freedom."""
    if not rounds:
        raise InvalidInput("no round to combine; give the estimate of at least one process")
    logs = [math.log(estimate.value) for estimate in rounds]
    inside, own_degrees = _inside(rounds), len(rounds) - 1
    if known is None and not own_degrees:
        return logs[0], inside, math.inf
    own = _squares(logs, fmean(logs)) / own_degrees if own_degrees else 0.0
    if known is None:
        return fmean(logs), math.sqrt(own), own_degrees
    elsewhere, trust = max(known.sd**2 - known.within**2, 0.0) + inside**2, min(known.degrees, TRUST)
    if own_degrees and _contradict(own, own_degrees, elsewhere, trust):
        trust = DOUBT
    pooled = (own * own_degrees + elsewhere * trust) / (own_degrees + trust)
    return fmean(logs), math.sqrt(pooled), own_degrees + trust


def _contradict(own: float, own_degrees: int, elsewhere: float, trust: int) -> bool:
    """True when rounds this far apart are too unlikely on the device as it is known: the recipe itself is unsteady."""
    if own <= elsewhere:
        return False
    return elsewhere == 0 or f_tail(own / elsewhere, own_degrees, trust) < _CONTRADICTED


def _inside(rounds: Sequence[Estimate]) -> float:
    """Root mean square of the standard errors inside the processes."""
    return math.sqrt(fmean(standard_error(estimate) ** 2 for estimate in rounds))


def _typical(errors: Sequence[float]) -> float:
    """Their median, 0 where none is known."""
    middle = median(errors) if errors else 0.0
    return middle if math.isfinite(middle) else 0.0


def _squares(values: Sequence[float], centre: float) -> float:
    return math.fsum((value - centre) ** 2 for value in values)


def _sides(rounds: Sequence[Estimate]) -> tuple[float, float]:
    """How far the intervals reach below and above their values, in logarithms, as a root mean square.

    They are kept apart: where blocks have two modes the median sits in one and the interval reaches to the other.
    """
    below = (math.log(one.value / one.low) if one.low > 0 else math.inf for one in rounds)
    above = (math.log(one.high / one.value) for one in rounds)
    return math.sqrt(fmean(x * x for x in below)), math.sqrt(fmean(x * x for x in above))


def _exp(value: float) -> float:
    return round(math.exp(value), 12) if abs(value) < 700 else (math.inf if value > 0 else 0.0)
