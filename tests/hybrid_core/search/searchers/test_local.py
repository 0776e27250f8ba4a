"""Local search: where it begins, when it moves and restarts, and that it climbs an additive landscape to the top."""

import random

from hybrid_core.records import Recipe
from hybrid_core.search.proposals import neighbours
from hybrid_core.search.searchers.base import Seen, Task
from hybrid_core.search.searchers.local import LocalSearch
from tests.hybrid_core.search.searchers.planted import Landscape, landscape, space_of

UNTOUCHED = Seen(Recipe(), 0.0, objectives=(0.0, 0.0))


def started(seed=0, told=(UNTOUCHED,)):
    searcher = LocalSearch(Task(space_of(), random.Random(seed)))
    for seen in told:
        searcher.tell(seen)
    return searcher


def is_new(searcher):
    known = {seen.recipe.key for seen in searcher.told}
    return lambda recipe: recipe.key not in known


def additive(seed):
    """No interaction, nothing forbidden, no failure, no noise: the only local optimum is the best recipe."""
    space, draw = space_of(), random.Random(seed)
    effect = {(s, n): draw.gauss(0, 0.3) for s, names in space.settings.items() for n in names}
    value = {r.key: sum(effect[step] for step in r.to_dict().items()) for r in space.recipes}
    return Landscape(space, {key: (x, x) for key, x in value.items()}, noise=0.0)


def test_the_first_neighbours_are_the_single_settings():
    searcher = started()
    asked = searcher.ask(len(searcher.space.singles), is_new(searcher))
    assert {recipe.key for recipe in asked} == {recipe.key for recipe in searcher.space.singles}


def test_it_moves_as_soon_as_a_neighbour_is_better():
    searcher = started()
    first = searcher.ask(1, is_new(searcher))[0]
    searcher.tell(Seen(first, -0.1))
    second = searcher.ask(1, is_new(searcher))[0]
    assert len(second.steps) == 1
    searcher.tell(Seen(second, 0.2))
    around = {recipe.key for recipe in neighbours(searcher.space, second)}
    assert {recipe.key for recipe in searcher.ask(5, is_new(searcher))} <= around
    assert searcher.notes()["incumbent"] == second.key


def test_what_others_found_becomes_the_incumbent():
    searcher = started()
    found = searcher.space.recipes[-1]
    searcher.tell(Seen(found, 0.5))
    searcher.ask(1, is_new(searcher))
    assert searcher.notes()["incumbent"] == found.key


def test_a_recipe_outside_the_bounds_or_failed_is_never_preferred():
    searcher = started()
    single = searcher.space.singles
    searcher.tell(Seen(single[0], 5.0, violation=0.01))
    searcher.tell(Seen.failed(single[1]))
    assert searcher.incumbent().recipe.is_baseline
    only_bad = started(told=(Seen.failed(single[0]), Seen(single[1], -1.0, violation=0.3), Seen(single[2], -3.0, 0.1)))
    assert only_bad.incumbent().recipe is single[2]


def test_it_restarts_when_every_neighbour_was_tried_and_not_before():
    searcher = started()
    for recipe in searcher.space.singles:
        assert searcher.restarts == 0
        searcher.tell(Seen(recipe, -0.1))
    asked = searcher.ask(3, is_new(searcher))
    assert searcher.restarts == 1 and len(asked) == 3
    for recipe, value in zip(asked, (-0.5, -0.3, -0.4), strict=True):
        searcher.tell(Seen(recipe, value))
    searcher.ask(1, is_new(searcher))
    assert searcher.notes()["incumbent"] == asked[1].key


def test_a_new_descent_uses_what_is_known_of_its_neighbours():
    """Else it would measure its way up a slope that was climbed before."""
    searcher = started()
    for recipe in searcher.space.singles:
        searcher.tell(Seen(recipe, -0.1))
    searcher.ask(1, is_new(searcher))
    pair = next(recipe for recipe in searcher.space.recipes if len(recipe.steps) == 2)
    searcher.tell(Seen(pair, -0.5))
    assert searcher.incumbent().recipe.is_baseline


def test_it_climbs_an_additive_landscape_to_the_top_before_the_first_restart():
    for seed in range(20):
        world = additive(seed)
        searcher = LocalSearch(Task(world.space, random.Random(seed)))
        searcher.tell(UNTOUCHED)
        best = 0.0
        while True:
            asked = searcher.ask(3, is_new(searcher))
            if searcher.restarts:
                break
            for recipe in asked:
                searcher.tell(world.measure(recipe))
            assert searcher.incumbent().value >= best
            best = searcher.incumbent().value
        assert best == world.best


def test_with_interactions_and_failures_every_descent_ends_in_a_local_optimum():
    world = landscape(5)
    searcher = LocalSearch(Task(world.space, random.Random(5)))
    searcher.tell(UNTOUCHED)
    ended = 0
    while ended < 4:
        before, value = searcher.restarts, searcher.incumbent()
        asked = searcher.ask(2, is_new(searcher))
        if searcher.restarts > before:
            ended += 1
            known = {seen.recipe.key: seen for seen in searcher.told}
            around = [r for r in neighbours(world.space, value.recipe) if not r.is_baseline]
            assert all(known[recipe.key].merit <= value.merit for recipe in around)
        for recipe in asked:
            searcher.tell(world.measure(recipe))
