"""Selection against its theory: closed forms, brute force over all fields, selection intensity, loss of diversity.

Intensity is how many standard deviations better the parents of normally distributed candidates are; it is computed here
from the exact chances on many normal quantiles and compared with quadrature of the published integrals.
"""

import itertools
import math
import random
import statistics
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from hybrid_core.config import ROULETTE_SCALINGS, HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.selection import exponential_rank, rank, registry, roulette, tournament
from hybrid_core.selection.base import truncate
from tests.contracts.selection_contract import make_pool

DRAWS = 100_000
TIED = [1.0, 1.0, 2.0, 2.0, 0.5]
SPREAD = [0.5, 0.9, 1.0, 1.1, 1.3, 2.0, 2.1, 0.1]
# The middles of 2,000 equally likely slices of a standard normal distribution, best last.
NORMAL = [float(q) for q in stats.norm.ppf([(i + 0.5) / 2000 for i in range(2000)])]
FITNESS = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6, allow_nan=False))
FIELDS = st.lists(FITNESS, min_size=1, max_size=12)

POSITIVE = {
    "tournament": lambda f: tournament.probabilities(f, 3),
    "tournament with replacement": lambda f: tournament.probabilities(f, 3, replacement=True),
    "rank": lambda f: rank.probabilities(f, 1.5),
    "exponential_rank": lambda f: exponential_rank.probabilities(f, 0.8),
    **{f"roulette {s}": lambda f, s=s: roulette.probabilities(f, s) for s in ROULETTE_SCALINGS},
}
ORDER_ONLY = ("tournament", "tournament with replacement", "rank", "exponential_rank")


def intensity(chances):
    """Mean of the chosen in standard deviations above the mean of all, for candidates at the normal quantiles."""
    assert abs(statistics.fmean(NORMAL)) < 1e-9
    return math.fsum(p * z for p, z in zip(chances, NORMAL, strict=True)) / statistics.pstdev(NORMAL)


def expected_maximum(k):
    """Mean of the largest of k standard normal values, by quadrature."""
    return integrate.quad(lambda z: z * k * stats.norm.pdf(z) * stats.norm.cdf(z) ** (k - 1), -9, 9)[0]


def never_drawn(chances):
    """The share of candidates that N independent draws are expected to lose."""
    n = len(chances)
    return math.fsum((1 - p) ** n for p in chances) / n


def all_fields_with_replacement(fitness, k):
    """Every ordered field of k, each equally likely; those who tie at the top share."""
    wins = [0.0] * len(fitness)
    for field in itertools.product(range(len(fitness)), repeat=k):
        top = [i for i in field if fitness[i] == max(fitness[j] for j in field)]
        for i in top:
            wins[i] += 1 / len(top) / len(fitness) ** k
    return wins


def exponential_by_hand(fitness, c):
    """p_i = c^(i-1) (1 - c) / (1 - c^N), those who tie share the places they hold."""
    n = len(fitness)
    by_rank = [c ** (i - 1) * (1 - c) / (1 - c**n) for i in range(1, n + 1)]
    first, last = (stats.rankdata([-f for f in fitness], method=m) for m in ("min", "max"))
    return [statistics.fmean(by_rank[int(a) - 1 : int(b)]) for a, b in zip(first, last, strict=True)]


def linear_by_hand(fitness, eta):
    n, mean_rank = len(fitness), stats.rankdata([-f for f in fitness])
    return [((2 - eta) + (2 * eta - 2) * (n - r) / (n - 1)) / n for r in mean_rank]


def sigma_by_hand(fitness):
    raw = [max(0.0, 1 + (f - statistics.fmean(fitness)) / (2 * statistics.pstdev(fitness))) for f in fitness]
    return [r / sum(raw) for r in raw]


def boltzmann_by_hand(fitness):
    raw = [math.exp(f / statistics.pstdev(fitness)) for f in fitness]
    return [r / sum(raw) for r in raw]


def window_by_hand(fitness):
    raw = [f - min(fitness) + 0.05 * (max(fitness) - min(fitness)) for f in fitness]
    return [r / sum(raw) for r in raw]


EXACT = [
    ("tournament", {"tournament_replacement": True}, lambda f: all_fields_with_replacement(f, 3)),
    ("tournament", {"tournament_replacement": True, "tournament_size": 1}, lambda f: [1 / len(f)] * len(f)),
    ("roulette", {}, window_by_hand),
    ("roulette", {"roulette_scaling": "sigma"}, sigma_by_hand),
    ("roulette", {"roulette_scaling": "boltzmann"}, boltzmann_by_hand),
    ("rank", {"rank_pressure": 1.3}, lambda f: linear_by_hand(f, 1.3)),
    ("exponential_rank", {}, lambda f: exponential_by_hand(f, 0.9)),
    ("exponential_rank", {"rank_decay": 0.5}, lambda f: exponential_by_hand(f, 0.5)),
]


@pytest.mark.parametrize(("name", "changes", "by_hand"), EXACT)
@pytest.mark.parametrize("fitness", [TIED, SPREAD], ids=["tied", "spread"])
def test_a_hundred_thousand_draws_follow_the_probabilities_worked_out_by_hand(name, changes, by_hand, fitness):
    options, pool, exact = HybridOptimizationConfig(**changes), make_pool(fitness), by_hand(fitness)
    method = registry.get_method(name)
    assert method.chances(pool, options) == pytest.approx(exact, abs=1e-12)
    drawn = Counter(c.recipe.key for c in method.select(pool, DRAWS, random.Random(17), options))
    able = [i for i, p in enumerate(exact) if p > 0]
    assert sum(drawn[pool[i].recipe.key] for i in able) == DRAWS
    counts = [drawn[pool[i].recipe.key] for i in able]
    assert stats.chisquare(counts, [DRAWS * exact[i] for i in able]).pvalue > 1e-4


def test_a_hundred_thousand_tournaments_without_replacement_follow_all_fields():
    exact = [0.0] * len(SPREAD)
    for field in itertools.combinations(range(len(SPREAD)), 3):
        exact[max(field, key=SPREAD.__getitem__)] += 1 / math.comb(len(SPREAD), 3)
    pool = make_pool(SPREAD)
    drawn = Counter(c.recipe.key for c in tournament.select(pool, DRAWS, random.Random(5), HybridOptimizationConfig()))
    able = [i for i, p in enumerate(exact) if p > 0]
    assert len(able) == 6 and sum(drawn[pool[i].recipe.key] for i in able) == DRAWS
    counts = [drawn[pool[i].recipe.key] for i in able]
    assert stats.chisquare(counts, [DRAWS * exact[i] for i in able]).pvalue > 1e-4


def test_the_best_of_ten_wins_a_tournament_of_three_with_replacement_as_published():
    chance = tournament.probabilities([float(i) for i in range(10)], 3, replacement=True)
    assert chance[-1] == pytest.approx(0.271) and chance[0] == pytest.approx(0.001)


@pytest.mark.parametrize("name", POSITIVE)
@given(fitness=FIELDS)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_chances_sum_to_one_and_never_prefer_the_worse(name, fitness):
    chances = POSITIVE[name](fitness)
    assert math.fsum(chances) == pytest.approx(1.0, abs=1e-12) and min(chances) >= 0
    for (f, p), (g, q) in itertools.product(zip(fitness, chances, strict=True), repeat=2):
        assert f < g or p >= q - 1e-12
        assert f != g or p == pytest.approx(q, abs=1e-12)


@pytest.mark.parametrize("name", POSITIVE)
@given(fitness=st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=10), stretch=st.sampled_from([0.5, 8.0]))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_a_shift_or_a_stretch_of_all_fitness_changes_no_chance(name, fitness, stretch):
    moved = [stretch * value - 64.0 for value in fitness]
    assert POSITIVE[name](moved) == pytest.approx(POSITIVE[name](fitness), abs=1e-12)


@pytest.mark.parametrize("name", ORDER_ONLY)
@given(fitness=st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=10))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_methods_of_order_heed_no_distance(name, fitness):
    assert POSITIVE[name]([math.exp(value) for value in fitness]) == POSITIVE[name](fitness)


@pytest.mark.parametrize("scaling", ROULETTE_SCALINGS)
@given(fitness=FIELDS)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_wheel_gains_the_relative_spread_of_its_slices(scaling, fitness):
    """Of any proportional selection: the chosen slice exceeds the mean one by variance / mean."""
    wheel = roulette.slices(fitness, scaling)
    mean = statistics.fmean(wheel)
    chosen = math.fsum(p * s for p, s in zip(roulette.probabilities(fitness, scaling), wheel, strict=True))
    assert chosen - mean == pytest.approx(statistics.pvariance(wheel) / mean, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("scaling", ROULETTE_SCALINGS)
@pytest.mark.parametrize("fitness", [[0.0, 0.0, 0.0], [-2.0, -2.0], [5.0], [1e308, 1e308]])
def test_a_wheel_of_equals_is_divided_equally(scaling, fitness):
    assert roulette.probabilities(fitness, scaling) == [1 / len(fitness)] * len(fitness)


@pytest.mark.parametrize("scaling", ROULETTE_SCALINGS)
def test_the_largest_and_smallest_finite_numbers_make_a_wheel(scaling):
    chances = roulette.probabilities([-1.7e308, 0.0, 1.7e308], scaling)
    assert math.fsum(chances) == pytest.approx(1.0) and chances == sorted(chances) and chances[0] < chances[2]
    assert roulette.probabilities([], scaling) == []


def test_an_unknown_scaling_is_refused_with_the_known_ones():
    with pytest.raises(InvalidInput, match="'raw' is unknown; choose one of window, sigma, boltzmann"):
        roulette.slices([1.0], "raw")


@pytest.mark.parametrize(("k", "published"), [(2, 0.5642), (3, 0.8463), (4, 1.0294), (5, 1.1630), (8, 1.4236)])
def test_the_intensity_of_a_tournament_is_the_expected_maximum_of_k_normals(k, published):
    assert expected_maximum(k) == pytest.approx(published, abs=5e-5)
    for replacement in (False, True):
        chances = tournament.probabilities(NORMAL, k, replacement)
        assert intensity(chances) == pytest.approx(published, abs=3e-3)


@pytest.mark.parametrize(("eta", "published"), [(1.0, 0.0), (1.5, 0.282), (1.8, 0.4514), (2.0, 0.5642)])
def test_the_intensity_of_linear_ranking_is_its_pressure_by_the_root_of_pi(eta, published):
    assert (eta - 1) / math.sqrt(math.pi) == pytest.approx(published, abs=2e-4)
    assert intensity(rank.probabilities(NORMAL, eta)) == pytest.approx((eta - 1) / math.sqrt(math.pi), abs=2e-3)


@pytest.mark.parametrize(("kappa", "published"), [(0.1, 0.605), (0.01, 1.027), (0.001, 1.287)])
def test_the_intensity_of_exponential_ranking_is_its_integral(kappa, published):
    def gain(u):
        return stats.norm.ppf(u) * -math.log(kappa) * kappa ** (1 - u) / (1 - kappa)

    exact = integrate.quad(gain, 0, 1)[0]
    assert exact == pytest.approx(published, abs=2e-3)
    chances = exponential_rank.probabilities(NORMAL, kappa ** (1 / len(NORMAL)))
    assert intensity(chances) == pytest.approx(exact, abs=4e-3)


@pytest.mark.parametrize(("n", "k"), [(20, 2), (33, 3), (45, 4)])
def test_the_default_decay_presses_like_the_tournament_that_the_documentation_names(n, k):
    kappa = HybridOptimizationConfig().rank_decay ** n
    gain = integrate.quad(lambda u: stats.norm.ppf(u) * -math.log(kappa) * kappa ** (1 - u) / (1 - kappa), 0, 1)[0]
    assert gain == pytest.approx(expected_maximum(k), abs=0.02)


def test_the_intensity_of_the_scaled_wheels_is_what_quadrature_says():
    def sigma(z):
        return max(0.0, 1 + z / 2)

    whole = integrate.quad(lambda z: sigma(z) * stats.norm.pdf(z), -9, 9, points=[-2])[0]
    gain = integrate.quad(lambda z: z * sigma(z) * stats.norm.pdf(z), -9, 9, points=[-2])[0]
    assert intensity(roulette.probabilities(NORMAL, "sigma")) == pytest.approx(gain / whole, abs=3e-3)
    assert gain / whole == pytest.approx(0.5, abs=0.02)
    # Boltzmann at temperature T gains sd / T, and here T is one standard deviation.
    assert intensity(roulette.probabilities(NORMAL, "boltzmann")) == pytest.approx(1.0, abs=0.02)


def test_the_intensity_of_taking_the_best_fifth_is_the_published_one():
    chosen = truncate(make_pool(NORMAL), len(NORMAL) // 5)
    mean = statistics.fmean(candidate.fitness for candidate in chosen)
    z = stats.norm.ppf(0.8)
    assert mean == pytest.approx(stats.norm.pdf(z) / 0.2, abs=2e-3)
    assert mean == pytest.approx(1.40, abs=5e-3)


@pytest.mark.parametrize(("k", "published"), [(2, 0.432), (3, 0.504), (4, 0.561), (5, 0.606)])
def test_a_tournament_loses_the_exact_share_of_candidates(k, published):
    """(1/N) sum (1 - p)^N, as Motoki (2002) corrects the formula of Blickle and Thiele."""
    limit = integrate.quad(lambda u: math.exp(-k * u ** (k - 1)), 0, 1)[0]
    assert limit == pytest.approx(published, abs=1e-3)
    assert never_drawn(tournament.probabilities(NORMAL, k, replacement=True)) == pytest.approx(limit, abs=2e-3)


def test_linear_ranking_loses_the_exact_share_of_candidates():
    low, high = 2 - 1.8, 1.8
    limit = (math.exp(-low) - math.exp(-high)) / (high - low)
    assert never_drawn(rank.probabilities(NORMAL, 1.8)) == pytest.approx(limit, abs=2e-3)


def test_the_hardest_linear_ranking_is_the_binary_tournament_of_many():
    ranked, fought = rank.probabilities(NORMAL, 2.0), tournament.probabilities(NORMAL, 2)
    assert ranked == pytest.approx(fought, abs=1e-12)


def test_a_decay_near_one_treats_all_alike_and_a_small_one_takes_the_best():
    assert exponential_rank.probabilities(SPREAD, 1 - 1e-12) == pytest.approx([1 / 8] * 8)
    best = exponential_rank.probabilities(SPREAD, 1e-300)
    assert best[SPREAD.index(max(SPREAD))] == 1.0
