"""What searchers are worth on planted landscapes: random search by its closed forms, the others against it."""

import math
import random
import statistics

import pytest
from scipy import stats

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.search.searchers.base import Task
from hybrid_core.search.searchers.random import RandomSearch, chance_of_a_hit, expected_best_rank
from hybrid_core.search.searchers.registry import get_searcher
from tests.hybrid_core.search.searchers.planted import landscape, play, regret, space_of

BUDGET = 40
# Other landscapes than those on which population sizes and the like were chosen (100 to 260).
SEEDS = range(300, 330)
OPTIONS = HybridOptimizationConfig(enable_rl_optimization=False)
DRAWS = 2000


def random_ranks():
    """The best rank among `BUDGET` recipes, asked for in two portions, of many random searches."""
    space = space_of({"attention_fusion": 3, "kernel_fusion": 3, "quantization": 4})
    rank = {recipe.key: i for i, recipe in enumerate(space.recipes[1:], start=1)}
    found = []
    for seed in range(DRAWS):
        searcher = RandomSearch(Task(space, random.Random(seed)))
        first = {recipe.key for recipe in searcher.ask(10, lambda recipe: True)}
        second = {
            recipe.key for recipe in searcher.ask(BUDGET - 10, lambda recipe, first=first: recipe.key not in first)
        }
        assert len(first | second) == BUDGET
        found.append(min(rank[key] for key in first | second))
    return len(rank), found


def test_random_search_follows_its_closed_forms():
    total, ranks = random_ranks()
    n = BUDGET
    variance = n * (total + 1) * (total - n) / (n + 1) ** 2 / (n + 2)
    error = statistics.mean(ranks) - expected_best_rank(total, n)
    assert abs(error) < 4 * math.sqrt(variance / DRAWS)
    for wanted in (1, 2, 5):
        hits = sum(rank <= wanted for rank in ranks)
        assert stats.binomtest(hits, DRAWS, chance_of_a_hit(total, n, wanted)).pvalue > 1e-4


@pytest.fixture(scope="module")
def worlds():
    made = [landscape(seed) for seed in SEEDS]
    assert all(250 <= len(world.space.recipes) <= 400 for world in made)
    return made


def regrets_of(name, worlds):
    build = get_searcher(name).build
    return [regret(world, play(lambda task: build(task, OPTIONS), world, BUDGET, world.seed)) for world in worlds]


@pytest.fixture(scope="module")
def at_random(worlds):
    return regrets_of("random", worlds)


@pytest.mark.parametrize("name", ["local", "evolution", "selection"])
def test_it_beats_random_search_after_forty_evaluations(name, worlds, at_random):
    """In the median, and landscape by landscape with less than one chance in a hundred of luck."""
    ours = regrets_of(name, worlds)
    assert statistics.median(ours) < statistics.median(at_random)
    assert stats.wilcoxon(ours, at_random, alternative="less").pvalue < 0.01


def test_random_search_does_not_beat_itself(worlds, at_random):
    """The comparison above is no matter of course: other random draws do not pass it."""
    again = [regret(world, play(RandomSearch, world, BUDGET, world.seed + 1000)) for world in worlds]
    assert stats.wilcoxon(again, at_random, alternative="less").pvalue > 0.01
