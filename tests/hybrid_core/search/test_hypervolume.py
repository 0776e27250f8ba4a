"""Hypervolume against inclusion-exclusion over all subsets, a Monte-Carlo estimate, and what holds of any volume."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_core.errors import InvalidInput
from hybrid_core.search.hypervolume import hypervolume, hypervolume_gain

COORDINATE = st.one_of(st.integers(-1, 4).map(float), st.floats(-1, 4, allow_nan=False, width=32))


def clouds(most=7):
    return st.sampled_from((2, 3)).flatmap(lambda d: st.lists(st.tuples(*[COORDINATE] * d), min_size=1, max_size=most))


def origin(points):
    return (0.0,) * len(points[0])


def inclusion_exclusion(points, reference):
    """The union of boxes from the volumes of all intersections: 2^n terms, no sweep and no front."""
    total = []
    for size in range(1, len(points) + 1):
        for chosen in itertools.combinations(points, size):
            sides = [max(0.0, min(c) - r) for c, r in zip(zip(*chosen, strict=True), reference, strict=True)]
            total.append((-1) ** (size + 1) * math.prod(sides))
    return math.fsum(total)


@given(clouds())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_it_is_the_union_of_boxes_by_inclusion_and_exclusion(points):
    for reference in (origin(points), tuple(-0.5 for _ in points[0])):
        assert hypervolume(points, reference) == pytest.approx(inclusion_exclusion(points, reference), abs=1e-9)


@pytest.mark.parametrize(("dims", "seed"), [(2, 1), (3, 2)])
def test_it_agrees_with_a_monte_carlo_estimate(dims, seed):
    rng = random.Random(seed)
    points = [tuple(rng.random() for _ in range(dims)) for _ in range(12)]
    draws = 20_000
    inside = sum(
        any(all(x < p for x, p in zip(spot, point, strict=True)) for point in points)
        for spot in ([rng.random() for _ in range(dims)] for _ in range(draws))
    )
    share = hypervolume(points, (0.0,) * dims)
    assert abs(inside / draws - share) < 4 * math.sqrt(share * (1 - share) / draws)


def test_hand_cases():
    assert hypervolume([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)], (0.0, 0.0)) == 6.0
    # A cube of 1 and a slab of 2 x 2 x 0.5: together 1 + 2 - 0.5 shared.
    assert hypervolume([(1.0, 1.0, 1.0), (2.0, 2.0, 0.5)], (0.0, 0.0, 0.0)) == 2.5
    assert hypervolume([(0.2, 0.3)], (-0.1, -0.1)) == pytest.approx(0.3 * 0.4)
    assert hypervolume([], (0.0, 0.0)) == 0.0


@given(clouds(), st.data())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_further_point_never_takes_anything_away_and_a_dominated_one_adds_exactly_nothing(points, data):
    reference = origin(points)
    new = data.draw(st.tuples(*[COORDINATE] * len(reference)))
    before = hypervolume(points, reference)
    assert hypervolume([*points, new], reference) >= before - 1e-12 * max(1.0, before)
    worse = tuple(x - data.draw(st.sampled_from([0.0, 0.25, 1.0])) for x in data.draw(st.sampled_from(points)))
    assert hypervolume([*points, worse], reference) == before
    assert hypervolume_gain(worse, points, reference) == 0.0


@given(clouds(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_order_and_copies_do_not_change_a_bit_of_it(points, rng):
    shuffled = points * 2
    rng.shuffle(shuffled)
    assert hypervolume(shuffled, origin(points)) == hypervolume(points, origin(points))


@given(st.lists(st.tuples(COORDINATE, COORDINATE), min_size=1, max_size=7))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_three_dimensions_of_equal_height_are_two_dimensions_times_the_height(points):
    lifted = [(*point, 2.0) for point in points]
    assert hypervolume(lifted, (0.0, 0.0, -1.0)) == pytest.approx(3.0 * hypervolume(points, (0.0, 0.0)))


def test_a_point_counts_only_where_it_beats_the_reference_everywhere():
    assert hypervolume([(5.0, 0.0), (0.0, 5.0), (5.0, -1.0)], (0.0, 0.0)) == 0.0
    assert hypervolume([(5.0, 1.0)], (0.0, 0.0)) == 5.0
    # A reference further away counts more: the number means nothing without it.
    assert hypervolume([(5.0, 1.0)], (-1.0, -1.0)) == 12.0


def test_the_gain_is_what_the_point_alone_covers():
    assert hypervolume_gain((2.0, 2.0), [(1.0, 3.0), (3.0, 1.0)], (0.0, 0.0)) == 1.0


def test_what_cannot_be_measured_is_refused_by_name():
    with pytest.raises(InvalidInput, match="reference of 1 objectives"):
        hypervolume([], (0.0,))
    with pytest.raises(InvalidInput, match=r"point 1 is \(nan, 0.0\)"):
        hypervolume([(1.0, 1.0), (math.nan, 0.0)], (0.0, 0.0))
    with pytest.raises(InvalidInput, match=r"reference is \(-inf, 0.0\)"):
        hypervolume([(1.0, 1.0)], (-math.inf, 0.0))
    with pytest.raises(InvalidInput, match="point 0 has 3 objectives; give 2"):
        hypervolume([(1.0, 1.0, 1.0)], (0.0, 0.0))
