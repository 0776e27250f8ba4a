"""NSGA-II's parts against brute force: fronts by definition, the textbook's crowding loop, Deb's constrained order."""

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hybrid_core.errors import InvalidInput
from hybrid_core.fitness import pareto_front
from hybrid_core.selection import pareto, tournament

# Few distinct values make ties, duplicates and dominated points common.
COARSE = st.integers(-2, 3).map(float)
FINE = st.floats(-4, 4, allow_nan=False, width=32)


def clouds(coordinate=COARSE, dims=(1, 2, 3), most=10):
    return st.sampled_from(dims).flatmap(lambda d: st.lists(st.tuples(*[coordinate] * d), max_size=most))


def beats(a, b):
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))


def peeled_fronts(points):
    """The definition: take out what nobody left beats, and again."""
    left, fronts = set(range(len(points))), []
    while left:
        front = {i for i in left if not any(beats(points[j], points[i]) for j in left)}
        fronts.append(sorted(front))
        left -= front
    return fronts


def textbook_crowding(points):
    """Deb's loop as printed (sort by each objective, ends infinite), for points without any tie."""
    distance = [0.0] * len(points)
    for m in range(len(points[0])):
        order = sorted(range(len(points)), key=lambda i: points[i][m])
        span = points[order[-1]][m] - points[order[0]][m]
        distance[order[0]] = distance[order[-1]] = math.inf
        for k in range(1, len(order) - 1):
            distance[order[k]] += (points[order[k + 1]][m] - points[order[k - 1]][m]) / span
    return distance


@given(clouds())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_fronts_are_what_peeling_by_definition_gives(points):
    assert pareto.non_dominated_sort(points) == peeled_fronts(points)


@given(clouds(dims=(3,)))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_first_front_is_the_pareto_front_that_the_pages_show(points):
    fronts = pareto.non_dominated_sort(points)
    assert (fronts[0] if fronts else []) == pareto_front(points)


@given(clouds(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_ranks_crowding_and_places_follow_the_points_wherever_they_stand(points, rng):
    order = list(range(len(points)))
    rng.shuffle(order)
    violations = [rng.choice([0.0, 0.0, 0.5, math.inf]) for _ in points]
    shuffled, moved = [points[i] for i in order], [violations[i] for i in order]
    for function, arguments, changed in (
        (pareto.crowding_distances, (points,), (shuffled,)),
        (pareto.constrained_rank, (points, violations), (shuffled, moved)),
        (pareto.crowded_places, (points, violations), (shuffled, moved)),
    ):
        before = function(*arguments)
        assert function(*changed) == [before[i] for i in order]


@given(st.lists(st.tuples(FINE, FINE, FINE), min_size=2, max_size=9))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_crowding_is_the_textbooks_where_nothing_is_tied(points):
    if all(len({p[m] for p in points}) == len(points) for m in range(3)):
        assert pareto.crowding_distances(points) == pytest.approx(textbook_crowding(points))


def test_crowding_of_a_hand_case():
    points = [(0.0, 10.0), (1.0, 8.0), (5.0, 7.0), (10.0, 0.0)]
    middle = [5 / 10 + 3 / 10, 9 / 10 + 8 / 10]
    assert pareto.crowding_distances(points) == [math.inf, *map(pytest.approx, middle), math.inf]


def test_an_objective_in_which_all_are_equal_adds_nothing():
    flat = [(1.0, 10.0, 0.0), (2.0, 8.0, 0.0), (6.0, 7.0, 0.0), (11.0, 0.0, 0.0)]
    assert pareto.crowding_distances(flat) == pareto.crowding_distances([p[:2] for p in flat])


@pytest.mark.parametrize("scale", [0.001, 1.0, 4096.0])
def test_crowding_does_not_depend_on_an_objectives_unit(scale):
    points = [(0.0, 10.0), (1.0, 8.0), (5.0, 7.0), (10.0, 0.0)]
    stretched = [(scale * a + 3.0, b) for a, b in points]
    assert pareto.crowding_distances(stretched) == pytest.approx(pareto.crowding_distances(points))


def test_copies_share_the_place_of_one_so_that_a_crowd_of_them_does_not_look_lonely():
    alone = pareto.crowding_distances([(0.0, 4.0), (1.0, 3.0), (4.0, 0.0)])
    crowd = pareto.crowding_distances([(0.0, 4.0), (1.0, 3.0), (4.0, 0.0), (1.0, 3.0), (1.0, 3.0), (1.0, 3.0)])
    assert crowd[1] == crowd[3] == crowd[4] == crowd[5] == alone[1] / 4
    assert pareto.crowding_distances([(1.0, 2.0)] * 3) == [math.inf] * 3


@given(clouds(most=8), st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_constrained_rank_is_the_depth_under_debs_definition(points, data):
    kinds = st.sampled_from([0.0, 0.0, 0.25, 1.0, math.inf])
    violations = data.draw(st.lists(kinds, min_size=len(points), max_size=len(points)))

    def dominates(i, j):
        if violations[i] == violations[j] == 0:
            return beats(points[i], points[j])
        return violations[i] < violations[j]

    left, depth, rank = set(range(len(points))), {}, 0
    while left:
        front = {j for j in left if not any(dominates(i, j) for i in left)}
        depth |= dict.fromkeys(front, rank)
        left, rank = left - front, rank + 1
    assert pareto.constrained_rank(points, violations) == [depth[i] for i in range(len(points))]


def test_what_a_failed_trial_scored_does_not_matter():
    nothing = (math.nan, math.nan)
    assert pareto.constrained_rank([(1.0, 1.0), nothing, (2.0, 2.0)], [0.0, math.inf, 0.0]) == [1, 2, 0]
    assert pareto.crowded_places([(1.0, 1.0), nothing, (9.0, 9.0)], [0.0, math.inf, 0.5]) == [2.0, 0.0, 1.0]


def test_a_crowded_tournament_is_won_as_often_as_brute_force_over_all_pairs_says():
    points = [(0.0, 10.0), (1.0, 8.0), (5.0, 7.0), (10.0, 0.0), (0.0, 0.0), (20.0, 20.0)]
    violations = [0.0, 0.0, 0.0, 0.0, 0.0, 0.1]
    ranks = pareto.constrained_rank(points, violations)
    crowding = [*textbook_crowding(points[:4]), 0.0, 0.0]
    expected = Counter()
    for i, j in itertools.combinations(range(6), 2):
        a, b = (-ranks[i], crowding[i]), (-ranks[j], crowding[j])
        for winner in [i, j] if a == b else [i if a > b else j]:
            expected[winner] += (0.5 if a == b else 1.0) / 15
    places, rng, draws = pareto.crowded_places(points, violations), random.Random(11), 100_000
    assert tournament.probabilities(places, 2) == pytest.approx([expected[i] for i in range(6)])
    won = Counter(pareto.crowded_tournament(places, rng) for _ in range(draws))
    assert won[5] == 0 and expected[5] == 0
    able = [i for i in range(6) if expected[i] > 0]
    assert stats.chisquare([won[i] for i in able], [draws * expected[i] for i in able]).pvalue > 1e-4


def test_a_lone_candidate_wins_its_tournament():
    assert pareto.crowded_tournament([0.0], random.Random(0)) == 0


@pytest.mark.parametrize("function", [pareto.non_dominated_sort, pareto.crowding_distances])
def test_points_that_cannot_be_compared_are_refused_by_position(function):
    with pytest.raises(InvalidInput, match=r"point 1 is \(nan, 0.0\)"):
        function([(1.0, 2.0), (math.nan, 0.0)])
    with pytest.raises(InvalidInput, match=r"point 0 is \(inf,\)"):
        function([(math.inf,)])
    with pytest.raises(InvalidInput, match="point 1 has 1 objectives and point 0 has 2"):
        function([(1.0, 2.0), (1.0,)])
    assert function([]) == []


def test_a_violation_that_says_nothing_is_refused():
    for value in (math.nan, -0.5):
        with pytest.raises(InvalidInput, match=f"violation 1 is {value}"):
            pareto.constrained_rank([(1.0,), (2.0,)], [0.0, value])
    with pytest.raises(InvalidInput, match="1 violations for 2 points"):
        pareto.constrained_rank([(1.0,), (2.0,)], [0.0])
