"""Stochastic universal sampling: floor or ceiling of what each expects, no bias over all spins, one spin per call."""

import math
import random
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hybrid_core.config import ROULETTE_SCALINGS, HybridOptimizationConfig
from hybrid_core.selection import roulette, sus
from tests.contracts.selection_contract import make_pool

WHEELS = st.lists(st.one_of(st.integers(0, 4).map(float), st.floats(0, 1e3)), min_size=1, max_size=9)
SPINS = st.one_of(st.sampled_from([0.0, 0.5, 1 - 2**-53]), st.floats(0, 1, exclude_max=True))


def by_pointers(wheel, count, spin):
    """The definition: walk the pointers (j + spin) / count around the wheel, in exact fractions."""
    total, landed = sum(map(Fraction, wheel)), [0] * len(wheel)
    for j in range(count):
        at, slot = (j + Fraction(spin)) / count * total, 0
        while at >= Fraction(wheel[slot]):
            at -= Fraction(wheel[slot])
            slot += 1
        landed[slot] += 1
    return landed


@given(WHEELS.filter(any), st.integers(1, 25), SPINS)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_candidate_gets_what_it_expects_rounded_down_or_up(wheel, count, spin):
    landed = sus.copies(wheel, count, spin)
    total = sum(map(Fraction, wheel))
    for part, n in zip(wheel, landed, strict=True):
        expected = count * Fraction(part) / total
        assert n in (math.floor(expected), math.ceil(expected))
    assert sum(landed) == count
    assert landed == by_pointers(wheel, count, spin)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), st.integers(1, 20), st.sampled_from(ROULETTE_SCALINGS))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_parents_are_that_many_copies_of_each(fitness, count, scaling):
    options, pool = HybridOptimizationConfig(roulette_scaling=scaling), make_pool(fitness)
    parents = Counter(c.recipe.key for c in sus.select(pool, count, random.Random(count), options))
    for candidate, p in zip(pool, roulette.probabilities(fitness, scaling), strict=True):
        assert abs(parents[candidate.recipe.key] - count * p) < 1 + 1e-9
    assert sum(parents.values()) == count


def test_whole_expectations_are_met_exactly_whatever_the_spin():
    for spin in (0.0, 0.1, 1 / 3, 1 - 2**-53):
        assert sus.copies([0.1] * 10, 10, spin) == [1] * 10
        assert sus.copies([1.0, 2.0, 3.0], 12, spin) == [2, 4, 6]


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_over_all_spins_nobody_is_favoured(count):
    """The mean over a uniform spin is exactly count * p: integrated piece by piece between the spins where it jumps."""
    wheel = [0.25, 1.0, 0.0, 2.5, 0.75]
    parts = [count * Fraction(part) / Fraction(sum(wheel)) for part in wheel]
    jumps = sorted({Fraction(0), Fraction(1), *(sum(parts[: i + 1]) % 1 for i in range(len(parts)))})
    mean = [Fraction(0)] * len(wheel)
    for begin, end in zip(jumps, jumps[1:], strict=False):
        for i, n in enumerate(sus.copies(wheel, count, float((begin + end) / 2))):
            mean[i] += n * (end - begin)
    assert mean == parts


def test_a_hundred_thousand_spins_for_one_parent_are_the_roulette():
    fitness = [1.0, 1.0, 2.0, 4.0]
    wheel, rng, draws = roulette.slices(fitness), random.Random(23), 100_000
    landed = Counter(sus.copies(wheel, 1, rng.random()).index(1) for _ in range(draws))
    expected = [draws * p for p in roulette.probabilities(fitness)]
    assert stats.chisquare([landed[i] for i in range(4)], expected).pvalue > 1e-4


def test_it_spreads_less_than_independent_spins():
    """Its variance of copies is frac (1 - frac) of the expectation, below the binomial n p (1 - p)."""
    fitness, count = [1.0, 2.0, 3.0, 4.0, 5.0], 8
    wheel, rng = roulette.slices(fitness), random.Random(2)
    best = [sus.copies(wheel, count, rng.random())[4] for _ in range(2000)]
    p = roulette.probabilities(fitness)[4]
    frac = count * p - math.floor(count * p)
    variance = sum((n - count * p) ** 2 for n in best) / len(best)
    assert variance == pytest.approx(frac * (1 - frac), rel=0.1)
    assert variance < 0.5 * count * p * (1 - p)


def test_the_parents_come_in_random_order():
    pool, options = make_pool([1.0, 5.0, 4.9]), HybridOptimizationConfig()
    orders = {tuple(c.recipe.key for c in sus.select(pool, 6, random.Random(seed), options)) for seed in range(20)}
    assert len(orders) > 5
