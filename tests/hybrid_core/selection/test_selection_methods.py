"""Selection against exact probabilities: chi-square on many seeded draws, closed forms and invariances."""

import itertools
import math
import random
import sys
import types
from collections import Counter
from pathlib import Path

import pytest
from scipy import stats

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.records import SELECTION_METHODS, Recipe
from hybrid_core.selection import rank, registry, roulette, tournament
from hybrid_core.selection.base import ScoredCandidate

DRAWS = 20_000
CLASSICAL = (tournament, roulette, rank)
OPTIONS = HybridOptimizationConfig(enable_rl_optimization=False)


def scored(fitness, ok=None):
    ok = [True] * len(fitness) if ok is None else ok
    return [
        ScoredCandidate(Recipe.from_dict({"s": f"c{i}"}), value, good)
        for i, (value, good) in enumerate(zip(fitness, ok, strict=True))
    ]


def draw_counts(method, fitness, options=OPTIONS, seed=1):
    pool = scored(fitness)
    drawn = Counter(c.recipe.key for c in method.select(pool, DRAWS, random.Random(seed), options))
    return [drawn[candidate.recipe.key] for candidate in pool]


def fits_chi_square(counts, probabilities):
    observed = [c for c, p in zip(counts, probabilities, strict=True) if p > 0]
    expected = [p * sum(counts) for p in probabilities if p > 0]
    impossible = [c for c, p in zip(counts, probabilities, strict=True) if p == 0]
    assert sum(impossible) == 0
    return len(observed) < 2 or stats.chisquare(observed, expected).pvalue > 1e-4


def brute_force_tournament(fitness, k):
    """Every possible field of k, each equally likely; equals share."""
    wins, fields = [0.0] * len(fitness), list(itertools.combinations(range(len(fitness)), k))
    for field in fields:
        top = max(fitness[i] for i in field)
        winners = [i for i in field if fitness[i] == top]
        for i in winners:
            wins[i] += 1 / len(winners) / len(fields)
    return wins


FIELDS = [
    [3.0, 1.0, 2.0],
    [0.5, 0.9, 1.0, 1.1, 1.3, 2.0, 2.1, 0.1],
    [1.0, 1.0, 1.0, 1.0],
    [0.0, 0.0, 0.0],
    [-2.0, -1.0, 0.0, 1.0, -1.0],
    [1.0, 1.0, 2.0, 2.0, 0.5],
    [7.0],
]


@pytest.mark.parametrize("fitness", FIELDS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 99])
def test_tournament_draws_follow_all_possible_fields(fitness, size):
    options = HybridOptimizationConfig(enable_rl_optimization=False, tournament_size=size)
    exact = brute_force_tournament(fitness, min(size, len(fitness)))
    assert tournament.probabilities(fitness, size) == pytest.approx(exact)
    assert fits_chi_square(draw_counts(tournament, fitness, options), exact)


@pytest.mark.parametrize(("n", "k"), [(10, 3), (8, 4), (5, 1)])
def test_tournament_gives_the_best_k_of_n_and_the_worst_none(n, k):
    chance = tournament.probabilities([float(i) for i in range(n)], k)
    assert chance[-1] == pytest.approx(k / n)
    assert chance[: k - 1] == [0.0] * (k - 1)
    for position, p in enumerate(reversed(chance), start=1):
        assert p == pytest.approx(math.comb(n - position, k - 1) / math.comb(n, k))


@pytest.mark.parametrize("fitness", FIELDS)
def test_roulette_draws_follow_the_declared_windowing(fitness):
    low, high = min(fitness), max(fitness)
    raw = [f - low + 0.05 * (high - low) for f in fitness] if high > low else [1.0] * len(fitness)
    exact = [r / sum(raw) for r in raw]
    assert roulette.probabilities(fitness) == pytest.approx(exact)
    assert fits_chi_square(draw_counts(roulette, fitness), exact)


@pytest.mark.parametrize("fitness", FIELDS)
def test_rank_draws_follow_linear_ranking(fitness):
    n = len(fitness)
    by_rank = [(0.2 + 1.6 * (n - i) / (n - 1)) / n if n > 1 else 1.0 for i in range(1, n + 1)]
    mean_rank = stats.rankdata([-f for f in fitness])  # average rank of ties, 1 = best
    exact = [(0.2 + 1.6 * (n - r) / (n - 1)) / n if n > 1 else 1.0 for r in mean_rank]
    assert sum(by_rank) == pytest.approx(1.0)
    assert rank.probabilities(fitness) == pytest.approx(exact)
    assert fits_chi_square(draw_counts(rank, fitness), exact)


def test_linear_ranking_gives_the_best_eta_plus_copies_and_the_worst_the_rest():
    chance = rank.probabilities([1.0, 2.0, 3.0, 4.0], eta_plus=1.5)
    assert [4 * p for p in chance] == pytest.approx([0.5, 0.5 + 1 / 3, 0.5 + 2 / 3, 1.5])


def test_the_chi_square_check_notices_wrong_probabilities():
    counts = draw_counts(roulette, [1.0, 2.0, 3.0])
    assert not fits_chi_square(counts, rank.probabilities([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("method", CLASSICAL)
@pytest.mark.parametrize("fitness", FIELDS)
def test_adding_a_constant_or_scaling_changes_no_draw(method, fitness):
    changed = [4.0 * f + 16.0 for f in fitness]

    def names(values):
        return [c.recipe.key for c in method.select(scored(values), 50, random.Random(5), OPTIONS)]

    assert names(fitness) == names(changed)


@pytest.mark.parametrize("method", CLASSICAL)
def test_probabilities_sum_to_one_and_grow_with_fitness(method):
    rng = random.Random(0)
    for _ in range(50):
        fitness = [rng.choice([-1.0, 0.0, 0.5, rng.gauss(0, 3)]) for _ in range(rng.randint(1, 12))]
        extra = (rng.randint(1, 6),) if method is tournament else ()
        chance = method.probabilities(fitness, *extra)
        assert math.fsum(chance) == pytest.approx(1.0)
        ordered = [p for _, p in sorted(zip(fitness, chance, strict=True))]
        assert all(b >= a - 1e-12 for a, b in itertools.pairwise(ordered))


@pytest.mark.parametrize("method", CLASSICAL)
def test_a_failed_candidate_is_never_chosen(method):
    pool = scored([9.0, 1.0, math.nan, 2.0], ok=[False, True, False, True])
    chosen = {c.recipe.key for c in method.select(pool, 2000, random.Random(0), OPTIONS)}
    # The whole field meets in a tournament of three, so there the worse of the two cannot win.
    assert chosen == ({"s=c3"} if method is tournament else {"s=c1", "s=c3"})


@pytest.mark.parametrize("method", CLASSICAL)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_fitness_that_is_not_finite_is_refused_by_name(method, value):
    with pytest.raises(InvalidInput, match="fitness of 's=c1' is"):
        method.select(scored([1.0, value]), 1, random.Random(0), OPTIONS)


@pytest.mark.parametrize("method", CLASSICAL)
def test_nothing_to_choose_from_gives_nothing(method):
    assert method.select([], 3, random.Random(0), OPTIONS) == []
    assert method.select(scored([1.0], ok=[False]), 3, random.Random(0), OPTIONS) == []
    assert method.select(scored([1.0, 2.0]), 0, random.Random(0), OPTIONS) == []
    with pytest.raises(InvalidInput, match="count=-1"):
        method.select(scored([1.0]), -1, random.Random(0), OPTIONS)


@pytest.mark.parametrize("method", CLASSICAL)
def test_the_same_generator_state_gives_the_same_parents(method):
    pool = scored([1.0, 1.1, 0.9, 1.2])
    first = method.select(pool, 20, random.Random(4), OPTIONS)
    assert first == method.select(pool, 20, random.Random(4), OPTIONS)
    assert first != method.select(pool, 20, random.Random(5), OPTIONS)
    assert len(first) == 20


def test_tournament_switched_off_takes_the_fittest():
    options = HybridOptimizationConfig(enable_rl_optimization=False, enable_tournament_selection=False)
    pool = scored([1.0, 3.0, 2.0, 3.0])
    assert [c.recipe.key for c in tournament.select(pool, 3, random.Random(0), options)] == ["s=c1", "s=c3", "s=c2"]
    assert [c.fitness for c in tournament.select(pool, 6, random.Random(0), options)] == [3, 3, 2, 1, 3, 3]
    assert tournament.select([], 2, random.Random(0), options) == []


def test_tournament_ties_are_broken_at_random_not_by_position():
    counts = draw_counts(tournament, [1.0, 1.0])
    assert fits_chi_square(counts, [0.5, 0.5])


def test_the_registry_lists_every_documented_method_and_every_file():
    assert tuple(method.name for method in registry.METHODS) == SELECTION_METHODS
    folder = Path(registry.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "base", "registry"}
    assert files == set(SELECTION_METHODS)
    assert all(method.sentence.endswith(".") for method in registry.METHODS)


def test_an_unknown_method_is_refused_with_the_known_ones():
    known = "tournament, roulette, sus, rank, exponential_rank, pareto, rl"
    with pytest.raises(InvalidInput, match=f"'magic' is unknown; choose one of {known}"):
        registry.get_method("magic")


@pytest.mark.parametrize("name", ["tournament", "roulette", "rank"])
def test_the_choice_tells_the_exact_chance_of_each_eligible_candidate(name):
    pool = scored([1.0, 2.0, 5.0, 3.0], ok=[True, True, False, True])
    choice = registry.choose_parents(name, pool, 4, random.Random(0), OPTIONS)
    chances = choice.details["probabilities"]
    assert set(chances) == {"s=c0", "s=c1", "s=c3"}
    assert math.fsum(chances.values()) == pytest.approx(1.0)
    assert len(choice.parents) == 4


@pytest.fixture
def fake_policy(monkeypatch):
    calls = []

    class RLSelector:
        def __init__(self, options, seed):
            calls.append(seed)

        def choose(self, candidates, count):
            return [len(candidates) - 1] * count, {"candidates": len(candidates)}

    module = types.ModuleType("hybrid_core.rl.selector")
    module.RLSelector = RLSelector
    monkeypatch.setitem(sys.modules, "hybrid_core.rl.selector", module)
    return calls


def test_rl_positions_mean_the_eligible_candidates(fake_policy):
    pool = scored([1.0, 2.0, 9.0], ok=[True, True, False])
    choice = registry.choose_parents("rl", pool, 2, random.Random(0), OPTIONS)
    assert [c.recipe.key for c in choice.parents] == ["s=c1", "s=c1"]
    assert choice.details == {"candidates": 2}


def test_rl_takes_its_seed_from_the_generator(fake_policy):
    for seed in (1, 1, 2):
        registry.get_method("rl").select(scored([1.0, 2.0]), 1, random.Random(seed), OPTIONS)
    assert fake_policy[0] == fake_policy[1] != fake_policy[2]


def test_rl_refuses_and_returns_what_every_method_does(fake_policy):
    assert registry.get_method("rl").select([], 2, random.Random(0), OPTIONS) == []
    with pytest.raises(InvalidInput, match="is nan"):
        registry.get_method("rl").select(scored([math.nan]), 1, random.Random(0), OPTIONS)
    assert fake_policy == []
