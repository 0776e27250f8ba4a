"""How much of the objective space a set of points covers, as one number: the exact hypervolume in 2 or 3 dimensions.

It is the volume of everything that some point beats and that beats the reference, a point a bit worse than the
untouched model. In two dimensions a sweep adds rectangles; in three a sweep along the last axis adds slabs whose base
is a two-dimensional hypervolume (Zitzler and Thiele 1998; Beume et al. 2009). The reference decides the number: keep it
beside the number, and compare only numbers that share it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from hybrid_core.errors import InvalidInput
from hybrid_core.fitness import dominates


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume between `reference` and the points, larger is better; points not above it everywhere add nothing.

    The same points in another order give exactly the same number.

    >>> hypervolume([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)], (0.0, 0.0))
    6.0

    Raises:
        InvalidInput: not two or three dimensions, points of another dimension, or a coordinate that is not finite.
    """
    _check(points, reference)
    above = sorted({tuple(p) for p in points if all(x > r for x, r in zip(p, reference, strict=True))}, reverse=True)
    if len(reference) == 2:
        return _area(above, reference)
    # A dominated point would only cut slabs in two; without it the number stays the same to the last bit.
    return _volume([p for p in above if not any(dominates(other, p) for other in above)], reference)


def hypervolume_gain(point: Sequence[float], points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """What `point` would add to the hypervolume of `points`; exactly 0 when one of them is as good everywhere."""
    return hypervolume([*points, point], reference) - hypervolume(points, reference)


def _area(points: Sequence[tuple[float, ...]], reference: Sequence[float]) -> float:
    """Rectangles of points sorted by the first coordinate, largest first: each adds what is above the last height."""
    strips, height = [], reference[1]
    for x, y in points:
        if y > height:
            strips.append((x - reference[0]) * (y - height))
            height = y
    return math.fsum(strips)


def _volume(points: Sequence[tuple[float, ...]], reference: Sequence[float]) -> float:
    """Slabs from the highest third coordinate down: below each point its area is added to the base."""
    levels = [*sorted({point[2] for point in points}, reverse=True), reference[2]]
    slabs = []
    for level, below in itertools.pairwise(levels):
        base = [point[:2] for point in points if point[2] >= level]
        slabs.append(_area(base, reference) * (level - below))
    return math.fsum(slabs)


def _check(points: Sequence[Sequence[float]], reference: Sequence[float]) -> None:
    if len(reference) not in (2, 3):
        raise InvalidInput(f"a reference of {len(reference)} objectives is not supported; give two or three")
    for name, point in (("reference", reference), *((f"point {i}", p) for i, p in enumerate(points))):
        if len(point) != len(reference):
            raise InvalidInput(f"{name} has {len(point)} objectives; give {len(reference)}, as the reference has")
        if not all(math.isfinite(value) for value in point):
            raise InvalidInput(f"{name} is {tuple(point)}; give finite numbers and leave failed trials out")
