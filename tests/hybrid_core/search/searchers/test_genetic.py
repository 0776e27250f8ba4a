"""The genetic algorithm: who may be a parent, that the method draws them, and what children are made of."""

import json
import math
import random
from collections import Counter

import pytest
from scipy import stats

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.fitness import baseline_fitness
from hybrid_core.records import Recipe
from hybrid_core.search.searchers.base import Seen, Task
from hybrid_core.search.searchers.genetic import BEGINNING, GeneticSearch, may_be_parent, scored
from hybrid_core.selection.registry import METHODS, choose_parents
from tests.hybrid_core.search.searchers.planted import landscape, space_of

CLASSICAL = [method.name for method in METHODS if method.name not in ("rl", "pareto")]


def options_of(method="tournament", **changes):
    return HybridOptimizationConfig(enable_rl_optimization=False, selection_strategy=method, **changes)


def told_searcher(options, seed=0, count=12):
    world = landscape(seed, failing_share=0.2)
    searcher = GeneticSearch(Task(world.space, random.Random(seed)), options)
    searcher.tell(world.measure(Recipe()))
    for recipe in random.Random(seed).sample(world.space.recipes[1:], count):
        searcher.tell(world.measure(recipe))
    return searcher


def is_new(searcher):
    known = {seen.recipe.key for seen in searcher.told}
    return lambda recipe: recipe.key not in known


def test_fitness_comes_back_from_the_logarithm_of_its_ratio():
    options = options_of(objective_weights={"speed": 2.0, "memory": 1.0, "accuracy": 1.0})
    fitness = 5.3
    seen = Seen(Recipe(), math.log(fitness / baseline_fitness(options)))
    assert scored(seen, options).fitness == pytest.approx(fitness)


def test_who_may_be_a_parent_is_the_rule_of_the_staged_search():
    options, recipe = options_of(performance_threshold=0.8), Recipe()
    assert may_be_parent(Seen(recipe, 0.0), options)
    assert may_be_parent(Seen(recipe, 0.1, violation=0.2), options), "too slow, which a partner can repair"
    assert not may_be_parent(Seen(recipe, 0.9, violation=0.2, is_inaccurate=True), options)
    assert not may_be_parent(Seen.failed(recipe), options)
    assert not may_be_parent(Seen(recipe, math.log(0.79)), options)
    assert may_be_parent(Seen(recipe, math.log(0.79), sd=0.02), options), "the interval reaches the threshold"


@pytest.mark.parametrize("method", CLASSICAL)
def test_the_parents_are_what_the_method_draws_and_the_notes_carry_its_chances(method):
    options = options_of(method)
    searcher = told_searcher(options)
    pool = [scored(seen, options) for seen in searcher.told]
    state = searcher.rng.getstate()
    expected = choose_parents(method, pool, 4, searcher.rng, options)
    searcher.rng.setstate(state)
    searcher.ask(4, is_new(searcher))
    notes = searcher.notes()
    assert notes["method"] == method
    assert notes["parents"] == [parent.recipe.key for parent in expected.parents]
    assert notes["details"] == expected.details
    assert set(notes["details"]["probabilities"]) == {c.recipe.key for c in pool if c.ok}


def test_failed_and_inaccurate_recipes_are_never_parents():
    for method in (*CLASSICAL, "pareto"):
        searcher = told_searcher(options_of(method), seed=3)
        lost = searcher.space.recipes[-1]
        searcher.tell(Seen(lost, 9.0, 0.0, (9.0, 9.0), 0.1, is_inaccurate=True))
        bad = {seen.recipe.key for seen in searcher.told if seen.is_wrong}
        assert len(bad) > 1
        for _ in range(5):
            assert not bad & {parent.recipe.key for parent in searcher.choose(40).parents}


def test_pareto_draws_with_the_chances_that_it_states():
    searcher = told_searcher(options_of("pareto"), seed=2)
    drawn: Counter[str] = Counter()
    for _ in range(10):
        choice = searcher.choose(1000)
        drawn.update(parent.recipe.key for parent in choice.parents)
    chances = choice.details["probabilities"]
    assert sum(chances.values()) == pytest.approx(1.0)
    assert set(drawn) == {key for key, chance in chances.items() if chance > 0}
    observed = [drawn[key] for key in chances if chances[key] > 0]
    assert stats.chisquare(observed, [chance * 10_000 for chance in chances.values() if chance > 0]).pvalue > 1e-4


def test_pareto_compares_speed_and_memory_and_bounds_before_either():
    options = options_of("pareto")
    searcher = GeneticSearch(Task(space_of(), random.Random(0)), options)
    fast, small, worse, slow = searcher.space.recipes[1:5]
    searcher.tell(Seen(fast, 0.1, objectives=(0.4, 0.0)))
    searcher.tell(Seen(small, 0.1, objectives=(0.0, 0.4)))
    searcher.tell(Seen(worse, 0.3, objectives=(-0.1, 0.3)))
    searcher.tell(Seen(slow, 0.9, objectives=(2.0, 2.0), violation=0.1))
    details = searcher.choose(2).details
    assert details["objectives"] == ["speed", "memory"]
    assert details["fronts"] == {fast.key: 0, small.key: 0, worse.key: 1, slow.key: 2}
    assert details["probabilities"][slow.key] == 0.0


def test_a_policy_may_draw_the_parents_and_reports_its_training():
    searcher = told_searcher(HybridOptimizationConfig(rl_hidden_dim=8, rl_max_episodes=1), seed=5)
    assert len(searcher.ask(2, is_new(searcher))) == 2
    notes = json.loads(json.dumps(searcher.notes(), allow_nan=False))
    assert notes["method"] == "rl" and notes["details"]["trained"] is True
    assert len(set(notes["parents"])) == 2


def test_children_have_their_parents_steps_but_for_one_mutation():
    searcher = told_searcher(options_of("roulette"), seed=4)
    inherited = 0
    for _ in range(40):
        children = searcher.ask(2, is_new(searcher))
        steps = {step for key in searcher.notes()["parents"] for step in Recipe.from_key(key).steps}
        for child in children:
            assert len(set(child.steps) - steps) <= 1
            inherited += len(set(child.steps) & steps) > 0
    assert inherited > 60


def test_the_first_generation_is_random_unless_others_have_proposed_one():
    searcher = GeneticSearch(Task(space_of(), random.Random(0)), options_of())
    searcher.tell(Seen(Recipe(), 0.0))
    searcher.ask(3, is_new(searcher))
    assert searcher.notes() == {}
    for recipe in searcher.space.recipes[1 : BEGINNING + 1]:
        searcher.tell(Seen(recipe, 0.1))
    searcher.ask(1, is_new(searcher))
    assert len(searcher.notes()["parents"]) == 2
