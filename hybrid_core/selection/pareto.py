"""Pareto selection as in NSGA-II: who is better in every objective comes first, then who stands more alone.

Two different candidates meet; the lower front wins, inside a front the larger crowding distance. Constrained domination
comes before both: a feasible candidate beats every infeasible one, among infeasible ones the smaller violation wins.
The functions on points (one tuple of objectives per candidate, larger is better) serve searchers too. Source: Deb,
Pratap, Agarwal and Meyarivan 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II", sections III and VI.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.fitness import active_weights, dominates, objectives_of, shortfall
from hybrid_core.records import Measurement
from hybrid_core.selection import tournament
from hybrid_core.selection.base import ScoredCandidate, check_count, eligible

Point = Sequence[float]
# A ratio of 0 (nothing of the quality is left) has no logarithm; it counts as this, worse than anything measured.
LEAST_RATIO = 1e-6


@dataclass(frozen=True)
class Compared:
    """What the candidates are compared by: names of the objectives, a point and a violation per candidate."""

    objectives: tuple[str, ...]
    points: list[tuple[float, ...]]
    violations: list[float]


def select(
    scored: Sequence[ScoredCandidate], count: int, rng: random.Random, options: HybridOptimizationConfig
) -> list[ScoredCandidate]:
    """`count` winners of binary crowded tournaments; one candidate alone wins them all."""
    pool = eligible(scored)
    if check_count(count) == 0 or not pool:
        return []
    compared = compare(pool, options)
    places = crowded_places(compared.points, compared.violations)
    return [pool[crowded_tournament(places, rng)] for _ in range(count)]


def probabilities(pool: Sequence[ScoredCandidate], options: HybridOptimizationConfig) -> list[float]:
    """The exact chance of each candidate to win one crowded tournament."""
    compared = compare(pool, options)
    return tournament.probabilities(crowded_places(compared.points, compared.violations), 2)


def facts(pool: Sequence[ScoredCandidate], options: HybridOptimizationConfig) -> dict[str, Any]:
    """What the candidates were compared by, and the front of each, 0 the best; JSON-able."""
    compared = compare(pool, options)
    ranks = constrained_rank(compared.points, compared.violations)
    fronts = {candidate.recipe.key: rank for candidate, rank in zip(pool, ranks, strict=True)}
    return {"objectives": list(compared.objectives), "fronts": fronts}


def compare(pool: Sequence[ScoredCandidate], options: HybridOptimizationConfig) -> Compared:
    """Logarithms of the ratios whose weight is above zero, with how far each candidate falls short of the bounds.

    Points of different objectives cannot be compared: where one candidate has no measurement, fitness alone is the
    objective of all, and then nobody violates anything.
    """
    measured = [(candidate, candidate.measurement) for candidate in pool if candidate.measurement is not None]
    if len(measured) < len(pool):
        return Compared(("fitness",), [(candidate.fitness,) for candidate in pool], [0.0] * len(pool))
    names = tuple(name for name, weight in active_weights(options).items() if weight > 0)
    points = [_logarithms(candidate, measurement, names) for candidate, measurement in measured]
    return Compared(names, points, [_violation(candidate, m, options) for candidate, m in measured])


def non_dominated_sort(points: Sequence[Point]) -> list[list[int]]:
    """Positions by front: the first is dominated by nobody, the next only by those before it. Equal points share one.

    >>> non_dominated_sort([(1.0, 1.0), (2.0, 1.0), (1.0, 3.0), (0.0, 0.0)])
    [[1, 2], [0], [3]]

    Raises:
        InvalidInput: a coordinate is NaN or infinite, or the points differ in the number of objectives.
    """
    _check_points(points)
    beaten = [[j for j, other in enumerate(points) if dominates(point, other)] for point in points]
    better_left = Counter(j for losers in beaten for j in losers)
    fronts, front = [], [i for i in range(len(points)) if not better_left[i]]
    while front:
        fronts.append(front)
        better_left.subtract(j for i in front for j in beaten[i])
        front = sorted({j for i in front for j in beaten[i] if not better_left[j]})
    return fronts


def crowding_distances(points: Sequence[Point]) -> list[float]:
    """How far the neighbours of each point of one front lie apart, summed over objectives; infinite at the extremes.

    d_i = sum over m of (f_m(i+1) - f_m(i-1)) / (max_m - min_m), neighbours in the order of objective m; an objective in
    which all are equal adds nothing. Equal points share one place: each of k copies gets a k-th of its distance. Points
    that tie in one objective are ordered by all of them, so the order given never matters.

    >>> crowding_distances([(0.0, 4.0), (1.0, 3.0), (4.0, 0.0)])
    [inf, 2.0, inf]
    """
    _check_points(points)
    copies = Counter(tuple(point) for point in points)
    distance = dict.fromkeys(copies, 0.0 if len(copies) > 1 else math.inf)
    for m in range(len(points[0]) if points else 0):
        ordered = sorted(distance, key=lambda point: (point[m], point))
        span = ordered[-1][m] - ordered[0][m]
        if span == 0:
            continue
        distance[ordered[0]] = distance[ordered[-1]] = math.inf
        for before, point, after in zip(ordered, ordered[1:], ordered[2:], strict=False):
            distance[point] += (after[m] - before[m]) / span
    return [distance[tuple(point)] / copies[tuple(point)] for point in points]


def constrained_rank(points: Sequence[Point], violations: Sequence[float]) -> list[int]:
    """The front of each point, 0 the best: feasible points by domination, then the others by violation alone.

    A violation of 0 is feasible, infinity is allowed (a failed trial); equal violations share a rank, and what the
    objectives of an infeasible point are does not matter, so they may be NaN.

    >>> constrained_rank([(1.0,), (9.0,), (2.0,), (9.0,)], [0.0, 0.5, 0.0, 0.1])
    [1, 3, 0, 2]
    """
    _check_violations(points, violations)
    feasible = [i for i, violation in enumerate(violations) if violation == 0]
    fronts = [[feasible[i] for i in front] for front in non_dominated_sort([points[i] for i in feasible])]
    for violation in sorted({v for v in violations if v > 0}):
        fronts.append([i for i, v in enumerate(violations) if v == violation])
    rank_of = {i: rank for rank, front in enumerate(fronts) for i in front}
    return [rank_of[i] for i in range(len(points))]


def crowded_places(points: Sequence[Point], violations: Sequence[float]) -> list[float]:
    """One number per point that orders them as the crowded comparison does: larger is better, equal is a tie.

    First the lower front, then, inside a front of feasible points, the larger crowding distance. Who survives are those
    with the largest numbers.

    >>> crowded_places([(0.0, 4.0), (1.0, 3.0), (4.0, 0.0), (0.0, 0.0)], [0.0] * 4)
    [2.0, 1.0, 2.0, 0.0]
    """
    ranks, crowding = constrained_rank(points, violations), [0.0] * len(points)
    for rank in {r for r, violation in zip(ranks, violations, strict=True) if violation == 0}:
        front = [i for i, r in enumerate(ranks) if r == rank]
        for i, distance in zip(front, crowding_distances([points[i] for i in front]), strict=True):
            crowding[i] = distance
    keys = [(-rank, distance) for rank, distance in zip(ranks, crowding, strict=True)]
    place = {key: float(i) for i, key in enumerate(sorted(set(keys)))}
    return [place[key] for key in keys]


def crowded_tournament(places: Sequence[float], rng: random.Random) -> int:
    """The winner of one binary tournament between two different positions; ties at random, a lone one wins."""
    return max(rng.sample(range(len(places)), min(2, len(places))), key=places.__getitem__)


def _violation(candidate: ScoredCandidate, measurement: Measurement, options: HybridOptimizationConfig) -> float:
    if candidate.recipe.is_baseline:
        return 0.0
    return shortfall(measurement.accuracy_preservation, measurement.speed_improvement, options)


def _logarithms(candidate: ScoredCandidate, measurement: Measurement, names: Sequence[str]) -> tuple[float, ...]:
    ratios = {name: objectives_of(measurement)[name].value for name in names}
    for name, ratio in ratios.items():
        if not 0 <= ratio < math.inf:
            raise InvalidInput(
                f"{name} of '{candidate.recipe.key}' is {ratio}; give a finite ratio from 0 up or set ok=False"
            )
    return tuple(math.log(max(ratio, LEAST_RATIO)) for ratio in ratios.values())


def _check_points(points: Sequence[Point]) -> None:
    for position, point in enumerate(points):
        if len(point) != len(points[0]):
            raise InvalidInput(
                f"point {position} has {len(point)} objectives and point 0 has {len(points[0])}; give all the same"
            )
        if not all(math.isfinite(value) for value in point):
            raise InvalidInput(
                f"point {position} is {tuple(point)}; give finite numbers or a violation above 0 to mark it as failed"
            )


def _check_violations(points: Sequence[Point], violations: Sequence[float]) -> None:
    if len(points) != len(violations):
        raise InvalidInput(f"{len(violations)} violations for {len(points)} points; give one violation per point")
    for position, violation in enumerate(violations):
        if not violation >= 0:
            raise InvalidInput(f"violation {position} is {violation}; give 0 for a feasible point, more for the others")
