"""NSGA-II: who survives, that bounds come first, and that its fronts cover more than those of random search."""

import itertools
import math
import random
import statistics

from hybrid_core.fitness import dominates
from hybrid_core.records import Recipe
from hybrid_core.search.hypervolume import hypervolume
from hybrid_core.search.searchers.base import Seen, Task
from hybrid_core.search.searchers.nsga2 import POPULATION, NsgaII
from hybrid_core.search.searchers.random import RandomSearch
from tests.hybrid_core.search.searchers.planted import landscape, play, space_of

REFERENCE = (math.log(0.9), math.log(0.9))


def searcher_told(answers, seed=0):
    searcher = NsgaII(Task(space_of(), random.Random(seed)))
    for recipe, (objectives, violation) in zip(searcher.space.recipes, answers, strict=False):
        value = sum(objectives) / 2
        searcher.tell(Seen(recipe, value, objectives=objectives, violation=violation))
    return searcher


def random_answers(seed, count=30):
    draw = random.Random(seed)
    return [((draw.gauss(0, 1), draw.gauss(0, 1)), draw.choice((0.0, 0.0, draw.random()))) for _ in range(count)]


def beats(a, b):
    """Constrained domination, from the paper's words."""
    if a.violation != b.violation:
        return a.violation < b.violation if min(a.violation, b.violation) > 0 else a.violation == 0
    return a.violation == 0 and dominates(a.objectives, b.objectives)


def test_nobody_survives_who_is_beaten_by_one_that_does_not():
    for seed in range(30):
        searcher = searcher_told(random_answers(seed))
        alive, _ = searcher.survivors()
        assert len(alive) == POPULATION
        dead = [seen for seen in searcher.told if seen not in alive]
        assert not [(a, b) for a, b in itertools.product(dead, alive) if beats(a, b)]


def test_the_extremes_of_the_first_front_survive():
    for seed in range(30):
        searcher = searcher_told([(objectives, 0.0) for objectives, _ in random_answers(seed)])
        alive, _ = searcher.survivors()
        for m in (0, 1):
            best = max(seen.objectives[m] for seen in searcher.told)
            assert best in [seen.objectives[m] for seen in alive]


def test_recipes_outside_the_bounds_survive_only_where_too_few_are_inside():
    inside = [((0.1 * i, -0.1 * i), 0.0) for i in range(POPULATION - 2)]
    outside = [((9.0, 9.0), 0.5), ((9.0, 9.0), 0.1), ((9.0, 9.0), 0.3), ((9.0, 9.0), 0.2)]
    alive, _ = searcher_told(outside + inside).survivors()
    assert sorted(seen.violation for seen in alive)[-3:] == [0.0, 0.1, 0.2]


def test_failed_recipes_and_unknown_objectives_come_last():
    searcher = searcher_told(random_answers(1, 6))
    failed, unknown = searcher.space.recipes[20:22]
    searcher.tell(Seen.failed(failed))
    searcher.tell(Seen(unknown, 5.0))
    alive, places = searcher.survivors()
    assert {alive[-1].recipe, alive[-2].recipe} == {failed, unknown}
    assert places == sorted(places, reverse=True)


def test_children_come_from_survivors_and_differ_by_at_most_one_slot_from_a_crossover():
    searcher = searcher_told(random_answers(2))
    known = {seen.recipe.key for seen in searcher.told}
    for _ in range(40):
        searcher.ask(2, lambda recipe: recipe.key not in known)
        notes = searcher.notes()
        for child, (first, second) in notes["children"].items():
            assert {first, second} <= set(notes["population"])
            a, b, c = (searcher.space.encode(searcher.space.by_key[key]) for key in (first, second, child))
            foreign = [x for x, y, z in zip(a, b, c, strict=True) if z not in (x, y, 0)]
            assert len(foreign) <= 1


def covered(told):
    return hypervolume([seen.objectives for seen in told if seen.is_ok], REFERENCE)


def test_its_recipes_cover_more_than_random_ones_after_forty_evaluations():
    gains = []
    for seed in range(30):
        world = landscape(seed, bound=-0.2)
        ours, theirs = (covered(play(build, world, 40, seed)) for build in (NsgaII, RandomSearch))
        gains.append(ours - theirs)
    assert statistics.median(gains) > 0
    assert sum(gain > 0 for gain in gains) >= 22, gains


def test_nothing_told_gives_random_recipes():
    searcher = NsgaII(Task(space_of(), random.Random(0)))
    assert searcher.survivors() == ([], [])
    assert len(searcher.ask(12, lambda recipe: not recipe.is_baseline)) == 12
    assert Recipe() not in searcher.ask(12, lambda recipe: True)
