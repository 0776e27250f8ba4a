"""What every selection method must keep, whatever it prefers; imported by the tests of the registry and of new ones.

`check_selection_method(method, options)` runs one method of the registry on fields with ties, failures, negative and
equal fitness. It fails when the method chooses a failed or foreign candidate, gives another number than was asked for,
looks at positions, draws from anything but its generator, changes its input, accepts a fitness that is no number, or
draws otherwise than the chances it tells.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.records import Recipe
from hybrid_core.selection.base import ScoredCandidate
from hybrid_core.selection.registry import SelectionMethod

FIELDS = (
    (3.0, 1.0, 2.0, 2.5),
    (0.9, 1.0, 1.0, 1.1, 1.3, 2.0, 0.1),
    (1.0, 1.0, 1.0, 1.0),
    (0.0, 0.0),
    (-2.0, -1.0, 0.0, 1.0, -1.0),
    (7.0,),
)
DRAWS = 3000
# Chances are proportions: five standard deviations are passed once in a million draws.
SIGMAS = 5.0


def make_pool(fitness: Sequence[float], failed: Sequence[int] = ()) -> list[ScoredCandidate]:
    """One candidate of one step for each value; those at the `failed` positions may not be chosen."""
    recipes = [Recipe.from_dict({"quantization": f"c{i}"}) for i in range(len(fitness))]
    return [ScoredCandidate(r, v, i not in failed) for i, (r, v) in enumerate(zip(recipes, fitness, strict=True))]


def check_selection_method(method: SelectionMethod, options: HybridOptimizationConfig) -> None:
    """Everything below; `options` should keep a method that learns quick."""
    assert method.name.isidentifier() and method.sentence.endswith(".")
    check_edges(method, options)
    check_failures(method, options)
    check_generator(method, options)
    if method.chances is not None:
        for fitness in FIELDS:
            check_chances(method, options, fitness)


def check_edges(method: SelectionMethod, options: HybridOptimizationConfig) -> None:
    """Nothing to choose from, nothing asked for, one candidate, a fitness that is no number."""
    for pool in ([], make_pool([1.0, 2.0], failed=(0, 1))):
        assert method.select(pool, 3, random.Random(0), options) == [], "chose from nothing"
    assert method.select(make_pool([1.0, 2.0]), 0, random.Random(0), options) == []
    lone = make_pool([1.0])
    assert method.select(lone, 3, random.Random(0), options) == lone * 3, "one candidate did not get every place"
    for pool in ([], make_pool([1.0, 2.0])):
        refuses("count=-1", lambda pool=pool: method.select(pool, -1, random.Random(0), options))
    for value in (math.nan, math.inf, -math.inf):
        bad = make_pool([1.0, value, 2.0, 3.0])
        refuses("quantization=c1", lambda bad=bad: method.select(bad, 1, random.Random(0), options))


def check_failures(method: SelectionMethod, options: HybridOptimizationConfig) -> None:
    """A failed candidate is never chosen, however fit it looks and whatever its fitness is."""
    pool = make_pool([99.0, 1.0, math.nan, 1.5, 1.2, 0.9], failed=(0, 2))
    before = list(pool)
    for seed in range(3):
        chosen = method.select(pool, 20, random.Random(seed), options)
        assert len(chosen) == 20, f"{len(chosen)} parents instead of 20"
        assert all(any(parent is member for member in pool) for parent in chosen), "made a candidate up"
        assert all(parent.ok for parent in chosen), "chose a failed candidate"
    assert [id(candidate) for candidate in pool] == [id(c) for c in before], "changed the list it was given"


def check_generator(method: SelectionMethod, options: HybridOptimizationConfig) -> None:
    """The same generator state gives the same parents, and Python's own generator is left alone."""
    pool = make_pool([1.0, 1.1, 0.9, 1.2, 1.05])
    random.seed(1)
    state = random.getstate()
    first = method.select(pool, 6, random.Random(4), options)
    assert random.getstate() == state, "drew from the global generator"
    random.seed(2)
    assert method.select(pool, 6, random.Random(4), options) == first, "the same seed chose others"


def check_chances(method: SelectionMethod, options: HybridOptimizationConfig, fitness: Sequence[float]) -> None:
    """The chances are chances, heed fitness alone, and are what the method draws by."""
    assert method.chances is not None
    pool = make_pool(fitness)
    chances = method.chances(pool, options)
    assert math.isclose(math.fsum(chances), 1.0, rel_tol=1e-12) and min(chances) >= 0
    for i, value in enumerate(fitness):
        for j, other in enumerate(fitness):
            assert value <= other or chances[i] >= chances[j] - 1e-15, "a fitter candidate has less chance"
            assert value != other or math.isclose(chances[i], chances[j], rel_tol=1e-12), "equals are told apart"
    moved = method.chances(make_pool([4.0 * value + 16.0 for value in fitness]), options)
    assert all(math.isclose(a, b, abs_tol=1e-12) for a, b in zip(chances, moved, strict=True)), "heeds the unit"
    turned = method.chances(list(reversed(pool)), options)
    assert all(math.isclose(a, b, abs_tol=1e-12) for a, b in zip(chances, reversed(turned), strict=True)), "heeds order"
    chosen = method.select(pool, DRAWS, random.Random(3), options)
    for candidate, p in zip(pool, chances, strict=True):
        share = sum(parent is candidate for parent in chosen) / DRAWS
        assert abs(share - p) <= SIGMAS * math.sqrt(p * (1 - p) / DRAWS) + 1 / DRAWS, "draws otherwise than it tells"


def refuses(said: str, call) -> None:  # type: ignore[no-untyped-def]
    """`call` must raise `InvalidInput` with these words."""
    try:
        call()
    except InvalidInput as error:
        assert said in str(error), f"{error} does not name {said}"
        return
    raise AssertionError(f"accepted what has to be refused: {said}")
