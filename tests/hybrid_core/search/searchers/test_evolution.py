"""Regularized evolution: one slot changes, age kills, and the tournament presses as its formula says."""

import random
from collections import Counter

from scipy import stats

from hybrid_core.records import Recipe
from hybrid_core.search.searchers.base import Seen, Task
from hybrid_core.search.searchers.evolution import POPULATION, SAMPLE, RegularizedEvolution, mutated, tournament
from tests.hybrid_core.search.searchers.planted import landscape, space_of


def differing_slots(space, a, b):
    return sum(x != y for x, y in zip(space.encode(a), space.encode(b), strict=True))


def play_noting(world, seed, evaluations=60):
    """(child, parent, the keys alive when it was born) of every child."""
    searcher = RegularizedEvolution(Task(world.space, random.Random(seed)))
    searcher.tell(world.measure(Recipe()))
    born = []
    for _ in range(evaluations):
        alive = [seen.recipe.key for seen in searcher.told[-POPULATION:]]
        known = {seen.recipe.key for seen in searcher.told}
        (recipe,) = searcher.ask(1, lambda r, known=known: r.key not in known)
        born += [(child, parent, alive) for child, parent in searcher.notes()["children"].items()]
        searcher.tell(world.measure(recipe))
    return born


def test_every_child_differs_from_its_parent_in_one_slot_and_the_parent_is_young():
    world = landscape(1)
    born = play_noting(world, 1)
    assert len(born) > 45
    for child, parent, alive in born:
        assert differing_slots(world.space, world.space.by_key[child], world.space.by_key[parent]) == 1
        assert parent in alive


def test_nobody_has_children_until_the_population_is_full():
    searcher = RegularizedEvolution(Task(space_of(), random.Random(0)))
    searcher.tell(Seen(Recipe(), 0.0))
    asked = searcher.ask(POPULATION - 1, lambda recipe: not recipe.is_baseline)
    assert len(asked) == POPULATION - 1 and searcher.notes()["children"] == {}
    searcher.ask(POPULATION + 2, lambda recipe: not recipe.is_baseline)
    assert len(searcher.notes()["children"]) == 3


def test_the_best_of_all_dies_of_age():
    searcher = RegularizedEvolution(Task(space_of(), random.Random(0)))
    wonder, *others = searcher.space.recipes[1 : POPULATION + 2]
    searcher.tell(Seen(wonder, 9.0))
    for recipe in others[: POPULATION - 1]:
        searcher.tell(Seen(recipe, -1.0))
    known = {seen.recipe.key for seen in searcher.told}
    parents = set()
    for _ in range(20):
        searcher.ask(1, lambda recipe: recipe.key not in known)
        parents |= set(searcher.notes()["children"].values())
    assert wonder.key in parents
    searcher.tell(Seen(others[POPULATION - 1], -1.0))
    for _ in range(50):
        searcher.ask(1, lambda recipe: recipe.key not in known)
        assert wonder.key not in searcher.notes()["children"].values()


def test_the_tournament_wins_with_the_chances_of_draws_with_replacement():
    """Rank i of N wins with ((N-i+1)^S - (N-i)^S) / N^S."""
    recipes = space_of().recipes[:POPULATION]
    population = [Seen(recipe, -float(rank)) for rank, recipe in enumerate(recipes)]
    draw, n, k = random.Random(2), POPULATION, SAMPLE
    won = Counter(tournament(population, draw).recipe.key for _ in range(20_000))
    expected = [20_000 * ((n - i + 1) ** k - (n - i) ** k) / n**k for i in range(1, n + 1)]
    observed = [won[recipe.key] for recipe in recipes]
    assert stats.chisquare(observed[:5] + [sum(observed[5:])], expected[:5] + [sum(expected[5:])]).pvalue > 1e-4


def test_a_failed_recipe_wins_only_among_failed_ones():
    recipes = space_of().recipes[:4]
    mixed = [Seen.failed(recipes[0]), Seen(recipes[1], 3.0, violation=0.5), Seen(recipes[2], -9.0)]
    draw = random.Random(3)
    won = Counter(tournament(mixed, draw).recipe.key for _ in range(2000))
    assert won[recipes[2].key] > won[recipes[1].key] > won[recipes[0].key]
    assert 2000 * (1 / 3) ** SAMPLE * 0.3 < won[recipes[0].key] < 2000 * (1 / 3) ** SAMPLE * 3


def test_a_mutation_draws_the_slot_and_then_its_choice_evenly():
    space = space_of({"attention_fusion": 1, "kernel_fusion": 2, "memory_pooling": 0, "quantization": 3})
    parent, draw = space.find({"kernel_fusion": "k1"}), random.Random(4)
    found = Counter(mutated(space, parent, draw).key for _ in range(12_000))
    slots = {"attention_fusion": 1, "kernel_fusion": 2, "quantization": 3}
    expected = {}
    for slot, choices in slots.items():
        for setting in ("", *space.settings[slot]):
            if parent.to_dict().get(slot, "") != setting:
                steps = {k: v for k, v in (parent.to_dict() | {slot: setting}).items() if v}
                expected[Recipe.from_dict(steps).key] = 12_000 / len(slots) / choices
    assert set(found) == set(expected)
    assert stats.chisquare([found[key] for key in expected], list(expected.values())).pvalue > 1e-4


def test_an_illegal_mutation_gives_nothing_and_no_slot_gives_nothing():
    forbidden = ((("kernel_fusion", "k0"), ("quantization", "q0")),)
    space, draw = space_of({"kernel_fusion": 1, "quantization": 1}, forbidden), random.Random(0)
    parent = space.find({"kernel_fusion": "k0"})
    assert {mutated(space, parent, draw) for _ in range(50)} == {Recipe(), None}
    empty = space_of({"kernel_fusion": 0})
    assert mutated(empty, Recipe(), draw) is None
