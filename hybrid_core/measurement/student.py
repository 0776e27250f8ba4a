"""Student's t and Fisher's F: a spread that comes from a few processes has tails that a normal would cut off.

Both are an incomplete beta function, computed here as a continued fraction (Lentz's way; DLMF 8.17.22). scipy would
do, but at run time nothing else needs it; the tests compare with it.
"""

from __future__ import annotations

import functools
import math

_TINY = 1e-300
_MOST_TERMS = 10_000


def t_tail(value: float, degrees: float) -> float:
    """Chance that |t| is at least |value|: the two-sided p value.

    >>> round(t_tail(12.7062, 1), 4), round(t_tail(1.96, math.inf), 4)
    (0.05, 0.05)
    """
    if math.isinf(degrees):
        return math.erfc(abs(value) / math.sqrt(2))
    return beta_share(degrees / 2, 0.5, degrees / (degrees + value * value))


def f_tail(value: float, above: float, below: float) -> float:
    """Chance that F with these degrees (of numerator and denominator) is at least `value`.

    >>> round(f_tail(161.45, 1, 1), 3), round(f_tail(3.0, 2, math.inf), 4)
    (0.05, 0.0498)
    """
    # 1e7 degrees differ from infinitely many in the seventh digit
    below = min(below, 1e7)
    return beta_share(below / 2, above / 2, below / (below + above * value))


@functools.lru_cache(maxsize=256)
def t_quantile(share: float, degrees: float) -> float:
    """The value that t stays below in `share` of cases; share above one half.

    >>> round(t_quantile(0.975, 1), 3), round(t_quantile(0.975, 4), 3), round(t_quantile(0.975, math.inf), 3)
    (12.706, 2.776, 1.96)
    """
    tail, low, high = 2 * (1 - share), 0.0, 2.0
    while t_tail(high, degrees) > tail:
        low, high = high, high * 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, degrees) > tail else (low, middle)
    return (low + high) / 2


def beta_share(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_share(b, a, 1 - x)
    scale = a * math.log(x) + b * math.log1p(-x) - math.log(a)
    scale += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(scale) / _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    value, upper, lower = 1.0, 1.0, 0.0
    for term in range(1, _MOST_TERMS):
        half = term // 2
        if term % 2:
            factor = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            factor = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        lower = 1 / _away_from_zero(1 + factor * lower)
        upper = _away_from_zero(1 + factor / upper)
        value *= upper * lower
        if abs(upper * lower - 1) < 1e-14:
            return value
    raise ArithmeticError(f"the continued fraction of I_{x}({a}, {b}) did not settle in {_MOST_TERMS} terms")


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
