"""A Gaussian process over whole recipes: what an unmeasured one is probably worth, and how sure that is.

A recipe is a code, one choice per slot. Two recipes are alike as far as they share choices: the kernel adds what single
slots contribute, what pairs of slots contribute, and a product over slots that falls with the number of differences
(Hamming), so effects may add up, interact in pairs, or be a recipe's own. Its few scales are chosen on a grid by
marginal likelihood (Rasmussen & Williams 2006, algorithm 2.1 and section 5.4); spaces here have a few hundred recipes,
so everything is exact and every recipe is scored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

# Variances of log fitness that a single slot, a pair of slots and a recipe of its own may have: standard deviations of
# 10 to 60 %, since settings move the speed by anything from nothing to five times.
SCALES = (0.01, 0.06, 0.36)
# (single slots, pairs, a recipe's own) as shares of the scale.
SHARES = ((1.0, 0.1, 0.01), (1.0, 0.5, 0.1), (0.5, 1.0, 0.5))
# What lies between two processes that measure the same recipe: never less than 1 %.
SMALLEST_SD = 0.01
HAMMING_LENGTH = 1.0


@dataclass(frozen=True)
class Kernel:
    """Variances of a slot, of a pair of slots and of a recipe of its own."""

    single: float
    pair: float
    own: float

    def __call__(self, a: Codes, b: Codes) -> Array:
        """Covariances of the rows of `a` (n, slots) and `b` (m, slots), shape (n, m)."""
        return self.of_matches(matches(a, b))

    def of_matches(self, same: Array) -> Array:
        """The same from `matches`, which does not depend on the variances."""
        count = same.shape[-1]
        shared = same.sum(axis=-1)
        pairs = shared * (shared - 1) / 2
        differences = count - shared
        own = self.own * np.exp(-differences / HAMMING_LENGTH)
        return np.asarray(self.single * shared + self.pair * pairs + own, dtype=np.float64)


def matches(a: Codes, b: Codes) -> Array:
    """1 where two codes make the same choice, shape (n, m, slots)."""
    return np.asarray(a[:, None, :] == b[None, :, :], dtype=np.float64)


KERNELS = tuple(Kernel(*(scale * share for share in shares)) for scale, shares in itertools.product(SCALES, SHARES))


class GaussianProcess:
    """The posterior given exact knowledge of the untouched model and noisy values of other recipes.

    Everything is conditioned on the code of zeros (nothing applied) having the value `anchor` exactly, because values
    are relative to the untouched model. `kernel` is fixed, or the likeliest of `KERNELS` where it is None.
    """

    def __init__(self, kernel: Kernel | None = None) -> None:
        self._fixed = kernel
        self.kernel = kernel or KERNELS[len(KERNELS) // 2]
        self.log_likelihood = 0.0
        self._codes: Codes = np.zeros((0, 0), dtype=np.int64)
        self._weights: Array = np.zeros(0)
        self._factor: Array = np.zeros((0, 0))

    def fit(
        self, codes: Sequence[Sequence[int]], values: Sequence[float] | Array, sds: Sequence[float]
    ) -> GaussianProcess:
        """Condition on values (n,) with standard deviations (n,) at codes (n, slots); returns itself."""
        self._codes = np.asarray(codes, dtype=np.int64)
        y = np.asarray(values, dtype=np.float64)
        noise = np.maximum(np.asarray(sds, dtype=np.float64), SMALLEST_SD) ** 2
        if not len(y):
            return self
        same, to_zero = matches(self._codes, self._codes), self._to_zero(self._codes)
        best = -math.inf
        for kernel in (self._fixed,) if self._fixed else KERNELS:
            covariance = kernel.of_matches(same) - _explained(kernel, to_zero, to_zero) + np.diag(noise)
            factor = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
            half = np.linalg.solve(factor, y)
            likelihood = -0.5 * float(half @ half) - float(np.log(np.diag(factor)).sum())
            if likelihood > best:
                best, self.kernel, self._factor = likelihood, kernel, factor
                self._weights = np.linalg.solve(factor.T, half)
        self.log_likelihood = best - 0.5 * len(y) * math.log(2 * math.pi)
        return self

    def predict(self, codes: Sequence[Sequence[int]] | Codes) -> tuple[Array, Array]:
        """Mean and standard deviation of the true values at codes (m, slots), each of shape (m,)."""
        wanted = np.asarray(codes, dtype=np.int64)
        to_zero = self._to_zero(wanted)
        size = wanted.shape[-1]
        full = self.kernel.of_matches(np.ones((1, 1, size)))[0, 0]
        at_zero = self.kernel.of_matches(to_zero[:, None, :])[:, 0]
        variance = full - at_zero**2 / full
        if not len(self._codes):
            return np.zeros(len(wanted)), np.sqrt(np.maximum(variance, 0.0))
        cross = self.kernel(wanted, self._codes) - _explained(self.kernel, to_zero, self._to_zero(self._codes))
        mean: Array = cross @ self._weights
        variance = variance - (np.linalg.solve(self._factor, cross.T) ** 2).sum(axis=0)
        return mean, np.sqrt(np.maximum(variance, 0.0))

    @staticmethod
    def _to_zero(codes: Codes) -> Array:
        """Which choices are off: the matches with the untouched model, shape (n, slots)."""
        return np.asarray(codes == 0, dtype=np.float64)


def _explained(kernel: Kernel, a: Array, b: Array) -> Array:
    """What knowing the untouched model exactly takes from the covariance of codes with these matches to it."""
    to_a = kernel.of_matches(a[:, None, :])[:, 0]
    to_b = kernel.of_matches(b[:, None, :])[:, 0]
    full = kernel.of_matches(np.ones((1, 1, a.shape[-1])))[0, 0]
    return np.asarray(np.outer(to_a, to_b) / full, dtype=np.float64)


def expected_improvement(mean: Array, sd: Array, best: float) -> Array:
    """`E[max(0, value - best)]` of normal values; 0 where nothing is unknown and nothing gained (Jones et al. 1998)."""
    gain = mean - best
    z = gain / np.where(sd > 0, sd, 1.0)
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    improvement: Array = np.where(sd > 0, gain * normal_below(z) + sd * density, np.maximum(gain, 0.0))
    return np.maximum(improvement, 0.0)


def normal_below(z: Array) -> Array:
    """The chance that a standard normal value lies below z.

    >>> normal_below(np.array([0.0])).tolist()
    [0.5]
    """
    return np.asarray(0.5 * (1.0 + _erf(z / math.sqrt(2.0))), dtype=np.float64)


_erf = np.vectorize(math.erf, otypes=[np.float64])
