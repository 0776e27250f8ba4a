"""The Gaussian process against another library, its promises against integration, and what other models teach."""

import itertools
import math
import random

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct

from hybrid_core.records import Recipe
from hybrid_core.search.searchers.adaptive import AdaptiveSearch, Bandit
from hybrid_core.search.searchers.base import Seen, Task
from hybrid_core.search.searchers.gp import GaussianProcess, Kernel, expected_improvement
from hybrid_core.search.searchers.random import RandomSearch
from hybrid_core.search.searchers.surrogate import SurrogateSearch
from hybrid_core.search.searchers.transfer import Prior, rank_agreement
from hybrid_core.search.space import Space

STRATEGIES = ("attention_fusion", "kernel_fusion", "memory_pooling", "quantization")


def small_space(counts=(2, 3, 2, 3)):
    settings = {s: tuple(f"s{i}" for i in range(n)) for s, n in zip(STRATEGIES, counts, strict=True)}
    rows = itertools.product(*(["", *settings[s]] for s in STRATEGIES))
    recipes = [Recipe.from_dict({s: n for s, n in zip(STRATEGIES, row, strict=True) if n}) for row in rows]
    return Space(settings=settings, recipes=tuple(sorted(recipes, key=lambda r: (len(r.steps), r.key))))


def planted(space, seed, spread=0.2, common=None, share=0.0):
    """Additive log effects of every setting, part of them those of `common`."""
    rng = np.random.default_rng(seed)
    effects = {(s, n): rng.normal(0, spread) for s, names in space.settings.items() for n in names}
    if common is not None:
        effects = {k: share * common[k] + math.sqrt(1 - share**2) * v for k, v in effects.items()}
    value = {r.key: sum(effects[step.strategy, step.setting] for step in r.steps) for r in space.recipes}
    return effects, value


def told_of(space, value, keys, sd=0.02):
    return [Seen(space.by_key[key], value[key], sd) for key in keys]


def is_new(searcher):
    return lambda recipe: recipe.key not in {seen.recipe.key for seen in searcher.told}


def one_hot(codes, widths):
    return np.concatenate([np.eye(w)[np.asarray(codes)[:, i]] for i, w in enumerate(widths)], axis=1)


def test_the_additive_posterior_agrees_with_scikit_learn():
    """With single slots only the kernel is a dot product of one-hot rows; the anchor is one more noiseless row."""
    rng = np.random.default_rng(0)
    widths = (3, 4, 3)
    codes = np.array(list(itertools.product(*map(range, widths))))
    chosen = codes[rng.choice(len(codes), 12, replace=False)]
    values = rng.normal(0, 0.3, 12)
    noise = np.full(12, 0.05)
    ours = GaussianProcess(Kernel(0.3, 0.0, 0.0)).fit(chosen, values, noise)
    theirs = GaussianProcessRegressor(
        kernel=DotProduct(sigma_0=0.0, sigma_0_bounds="fixed"),
        alpha=np.array([1e-10, *(noise**2 / 0.3)]),
        optimizer=None,
    ).fit(one_hot([[0, 0, 0], *chosen], widths), [0.0, *(values / math.sqrt(0.3))])
    mean, sd = theirs.predict(one_hot(codes, widths), return_std=True)
    got_mean, got_sd = ours.predict(codes)
    np.testing.assert_allclose(got_mean, mean * math.sqrt(0.3), atol=1e-6)
    np.testing.assert_allclose(got_sd, sd * math.sqrt(0.3), atol=1e-4)


def test_the_marginal_likelihood_is_that_of_the_conditioned_normal_distribution():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 3, (7, 4))
    kernel, noise = Kernel(0.2, 0.05, 0.1), np.full(7, 0.1)
    values = rng.normal(0, 0.5, 7)
    every = np.vstack([np.zeros((1, 4), dtype=int), codes])
    full = kernel(every, every)
    conditioned = full[1:, 1:] - np.outer(full[1:, 0], full[0, 1:]) / full[0, 0] + np.diag(noise**2)
    wanted = stats.multivariate_normal(np.zeros(7), conditioned).logpdf(values)
    assert GaussianProcess(kernel).fit(codes, values, noise).log_likelihood == pytest.approx(wanted, abs=1e-8)


def test_the_kernel_is_positive_semidefinite_on_every_code():
    codes = np.array(list(itertools.product(range(3), range(3), range(2))))
    assert np.linalg.eigvalsh(Kernel(0.2, 0.1, 0.05)(codes, codes)).min() > -1e-10


def test_the_untouched_model_is_known_exactly_and_far_recipes_are_not():
    process = GaussianProcess().fit([[1, 0, 0, 0]], [0.4], [0.01])
    mean, sd = process.predict([[0, 0, 0, 0], [1, 0, 0, 0], [0, 2, 2, 2]])
    assert (mean[0], sd[0]) == (0.0, pytest.approx(0.0, abs=1e-7))
    assert mean[1] == pytest.approx(0.4, abs=0.02) and sd[1] < 0.02 < sd[2]


def test_without_values_the_process_says_nothing_but_how_little_it_knows():
    mean, sd = GaussianProcess().predict([[0, 0], [1, 0], [1, 1]])
    assert mean.tolist() == [0, 0, 0] and 0 == pytest.approx(sd[0], abs=1e-7) and sd[1] < sd[2]


@pytest.mark.parametrize(("mean", "sd", "best"), [(0.1, 0.2, 0.3), (0.5, 0.05, 0.2), (-1.0, 0.3, 0.0)])
def test_expected_improvement_agrees_with_integration(mean, sd, best):
    wanted, _ = integrate.quad(lambda v: (v - best) * stats.norm(mean, sd).pdf(v), best, mean + 12 * sd)
    got = expected_improvement(np.array([mean]), np.array([sd]), best)[0]
    assert got == pytest.approx(wanted, abs=1e-9)


def test_expected_improvement_without_doubt_is_the_gain_itself():
    got = expected_improvement(np.array([0.3, 0.1]), np.zeros(2), 0.2)
    assert got.tolist() == [pytest.approx(0.1), 0.0]


def test_surrogate_search_finds_an_additive_best_long_before_random_does():
    space = small_space()
    found = {}
    for name, make in (("surrogate", SurrogateSearch), ("random", lambda task: RandomSearch(task))):
        needed = []
        for seed in range(8):
            _, value = planted(space, seed)
            best, rng = max(value, key=value.get), random.Random(seed)
            searcher = make(Task(space, rng))
            searcher.tell(Seen(Recipe(), 0.0))
            while searcher.told[-1].recipe.key != best:
                (recipe,) = searcher.ask(1, is_new(searcher))
                searcher.tell(Seen(recipe, value[recipe.key] + rng.gauss(0, 0.01), 0.01))
            needed.append(len(searcher.told) - 1)
        found[name] = sorted(needed)[4]
    assert found["surrogate"] < 20 < found["random"]


def test_several_recipes_asked_at_once_are_distinct_and_not_all_alike():
    space = small_space()
    searcher = SurrogateSearch(Task(space, random.Random(0)))
    searcher.tell(Seen(Recipe(), 0.0))
    asked = searcher.ask(4, is_new(searcher))
    assert len(set(asked)) == 4
    assert [p["key"] for p in searcher.notes()["proposals"]] == [recipe.key for recipe in asked]


def test_what_contains_a_wrong_recipe_is_asked_last():
    space = small_space()
    searcher = SurrogateSearch(Task(space, random.Random(0)))
    searcher.tell(Seen(Recipe(), 0.0))
    wrong = Recipe.from_dict({"quantization": "s0"})
    searcher.tell(Seen(wrong, 0.9, 0.01, violation=0.05, is_inaccurate=True))
    good = Recipe.from_dict({"attention_fusion": "s0"})
    searcher.tell(Seen(good, 0.3, 0.01))
    for _ in range(8):
        (recipe,) = searcher.ask(1, is_new(searcher))
        assert wrong.steps[0] not in recipe.steps
        searcher.tell(Seen(recipe, 0.0, 0.01))


def test_the_blame_for_a_wrong_pair_goes_to_the_step_that_was_never_right():
    space = small_space()
    searcher = SurrogateSearch(Task(space, random.Random(0)))
    cleared, suspect = Recipe.from_dict({"attention_fusion": "s0"}), Recipe.from_dict({"quantization": "s1"})
    searcher.tell(Seen(cleared, 0.1, 0.01))
    searcher.tell(Seen.failed(Recipe.from_dict({"attention_fusion": "s0", "quantization": "s1"})))
    chance = dict(zip([r.key for r in space.recipes], searcher.chance_ok(), strict=True))
    assert chance[cleared.key] == 1.0 and chance[suspect.key] == pytest.approx(0.1)


def test_recipes_below_the_speed_bound_lose_their_promise():
    space = small_space()
    searcher = SurrogateSearch(Task(space, random.Random(0), least_log_speed=0.0))
    slow = Recipe.from_dict({"memory_pooling": "s0"})
    searcher.tell(Seen(slow, 0.4, 0.01, objectives=(-0.5, 1.5), violation=0.4))
    chance = dict(zip([r.key for r in space.recipes], searcher.chance_ok(), strict=True))
    assert chance[slow.key] < 0.01 and chance["attention_fusion=s0"] > 0.4


def test_a_dear_recipe_needs_a_larger_promise():
    space = small_space((1, 1, 1, 1))
    dear = "kernel_fusion=s0"
    task = Task(space, random.Random(0), expected_s=lambda recipe: 100.0 if dear in recipe.key else 1.0)
    searcher = SurrogateSearch(task)
    searcher.tell(Seen(Recipe(), 0.0))
    (recipe,) = searcher.ask(1, is_new(searcher))
    assert dear not in recipe.key


def history_of(space, count, share, common):
    found = {}
    for i in range(count):
        _, value = planted(space, 100 + i, common=common, share=share)
        keys = random.Random(i).sample([r.key for r in space.recipes if r.steps], 40)
        found[f"m{i}"] = tuple(told_of(space, value, keys))
    return found


def test_history_of_alike_models_ranks_an_unseen_model():
    space = small_space()
    common, _ = planted(space, 7)
    prior = Prior(space, history_of(space, 5, 0.95, common))
    _, value = planted(space, 8, common=common, share=0.95)
    truth = np.array([value[r.key] for r in space.recipes])
    assert stats.spearmanr(prior.values(), truth).statistic > 0.8


def test_rank_agreement_is_kendalls_tau_without_ties():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=20), rng.normal(size=20)
    assert rank_agreement(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)


def test_an_earlier_model_that_ranks_upside_down_loses_its_weight():
    space = small_space()
    _, value = planted(space, 7)
    keys = [r.key for r in space.recipes if r.steps]
    opposite = {key: -v for key, v in value.items()}
    history = {"opposite": tuple(told_of(space, opposite, keys[:60])), "alike": tuple(told_of(space, value, keys[:60]))}
    prior = Prior(space, history)
    assert prior.weights[0] > prior.weights[1]
    prior.learn(told_of(space, value, keys[60:72]))
    assert prior.weights.tolist() == [0.0, 1.0]


def test_history_that_only_misleads_counts_for_nothing():
    space = small_space()
    _, value = planted(space, 7)
    keys = [r.key for r in space.recipes if r.steps]
    prior = Prior(space, {"opposite": tuple(told_of(space, {k: -v for k, v in value.items()}, keys))})
    prior.learn(told_of(space, value, keys[:12]))
    assert prior.is_empty and not prior.values().any()


def test_the_portfolio_is_the_greedy_cover_of_earlier_models():
    """By brute force over the earlier models' predictions: each pick adds the most that any recipe could add."""
    space = small_space()
    common, _ = planted(space, 7)
    prior = Prior(space, history_of(space, 4, 0.5, common))
    picks = [space.recipes.index(r) for r in prior.portfolio(3)]
    reached = np.zeros(4)
    for pick in picks:
        gains = [float(prior.weights @ np.maximum(prior._means[:, i] - reached, 0)) for i in range(len(space.recipes))]
        assert gains[pick] == pytest.approx(max(gains))
        reached = np.maximum(reached, prior._means[:, pick])


def test_a_setting_that_was_inaccurate_elsewhere_is_doubted_and_not_excluded():
    space = small_space()
    bad = Seen(Recipe.from_dict({"quantization": "s0"}), 0.9, 0.01, violation=0.1, is_inaccurate=True)
    prior = Prior(space, {f"m{i}": (bad,) for i in range(3)})
    chance = dict(zip([r.key for r in space.recipes], prior.chance_ok(), strict=True))
    assert chance["quantization=s0"] == pytest.approx(2 / 5) and chance["quantization=s1"] == 1.0


class Fixed:
    """A proposer with a list of its own."""

    def __init__(self, recipes):
        self.recipes, self.told = list(recipes), []

    def ask(self, count, is_open):
        return [recipe for recipe in self.recipes if is_open(recipe)][:count]

    def tell(self, seen):
        self.told.append(seen)

    def notes(self):
        return {"own": True}


def adaptive_on(space, value, others, turns, history=None):
    rng = random.Random(0)
    searcher = AdaptiveSearch(Task(space, rng, history or {}), others)
    searcher.tell(Seen(Recipe(), 0.0))
    by = []
    for _ in range(turns):
        (recipe,) = searcher.ask(1, is_new(searcher))
        by.append(searcher.notes()["proposals"][0]["by"])
        searcher.tell(Seen(recipe, value[recipe.key], 0.01))
    return searcher, by


def test_every_fourth_turn_belongs_to_another_proposer():
    space = small_space()
    _, value = planted(space, 3)
    other = Fixed(space.recipes[1:])
    _, by = adaptive_on(space, value, {"fixed": other}, 16)
    assert [name for i, name in enumerate(by) if i % 4 == 3 and i > 3] == ["fixed"] * 3
    assert "fixed" not in [name for i, name in enumerate(by) if i % 4 != 3]
    assert len(other.told) == 17


def test_the_proposer_that_gains_gets_the_turns():
    space = small_space()
    _, value = planted(space, 3, spread=0.3)
    ranked = sorted(space.recipes[1:], key=lambda recipe: value[recipe.key])
    # The good one climbs slowly, so that there is something to gain in each of its turns.
    good, bad = Fixed(ranked[-30:]), Fixed(ranked)
    bandit = Bandit(("bad", "good"))
    for _ in range(30):
        name = bandit.choose()
        bandit.credits[name].asked += 1
        bandit.credits[name].gained += 0.3 if name == "good" else 0.0
    assert bandit.credits["good"].asked > 2 * bandit.credits["bad"].asked > 0
    searcher, _ = adaptive_on(space, value, {"bad": bad, "good": good}, 24)
    account = searcher.notes()["proposers"]
    assert account["bad"]["asked"] + account["good"]["asked"] == 5
    assert account["bad"]["gained"] == 0.0


def test_with_history_the_portfolio_begins_and_without_it_one_single_of_each_strategy():
    space = small_space()
    common, value = planted(space, 7)
    _, warm = adaptive_on(space, value, {}, 6, history_of(space, 3, 0.9, common))
    assert warm[0] == "portfolio" and "likeliest" in warm
    searcher, cold = adaptive_on(space, value, {}, 6)
    assert cold[:4] == ["first single"] * 4
    assert {s.recipe.strategies for s in searcher.told[1:5]} == {(name,) for name in STRATEGIES}


def test_starts_come_before_everything_else():
    space = small_space()
    _, value = planted(space, 7)
    wanted = (Recipe.from_dict({"kernel_fusion": "s2", "quantization": "s1"}),)
    searcher = AdaptiveSearch(Task(space, random.Random(0), starts=wanted), {})
    assert searcher.ask(1, is_new(searcher)) == list(wanted)
    assert searcher.notes()["proposals"][0]["by"] == "start"
