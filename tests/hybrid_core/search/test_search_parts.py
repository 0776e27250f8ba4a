"""The parts of the search: costs, limits, proposals and finalists, each on its own."""

import itertools
import random

import pytest

from hybrid_core.records import Estimate, Outcome, Purpose, Recipe, Step, Trial, Verdict
from hybrid_core.search import proposals
from hybrid_core.search.book import TrialBook
from hybrid_core.search.costs import Budget, CostModel, limits_for
from hybrid_core.search.final import choose_finalists, crown, overlap

FLOORS = {"speed": 0.02, "memory": 0.01, "accuracy": 0.01}


def recipe_of(key):
    return Recipe.from_key(key)


def trial_of(key, measurement=None, purpose=Purpose.SEARCH, outcome=Outcome.OK, seconds=10.0, **more):
    return Trial(key, "run", recipe_of(key), purpose, outcome, measurement=measurement, seconds=seconds, **more)


# -- costs ---------------------------------------------------------------------------------------------------------


def test_the_overhead_is_learned_from_the_baseline(planted):
    costs = CostModel(planted.make_space())
    costs.observe(trial_of("baseline", seconds=20.0))
    assert costs.expected_s(recipe_of("attention_fusion=sdpa")) == 21.0
    assert costs.expected_s(recipe_of("attention_fusion=sdpa+kernel_fusion=compile")) == 51.0


def test_a_setting_that_was_served_from_a_cache_becomes_cheap(planted):
    costs = CostModel(planted.make_space())
    costs.observe(trial_of("baseline", seconds=10.0))
    costs.observe(trial_of("kernel_fusion=compile", seconds=40.0))
    assert costs.expected_s(recipe_of("kernel_fusion=compile+quantization=int8_dynamic")) == pytest.approx(41.0)
    costs.observe(trial_of("attention_fusion=sdpa+kernel_fusion=compile", seconds=16.2))
    assert costs.expected_s(recipe_of("kernel_fusion=compile+memory_pooling=in_place")) == pytest.approx(16.5)


def test_one_outlier_does_not_make_a_setting_free_or_unaffordable(planted):
    costs = CostModel(planted.make_space())
    costs.observe(trial_of("baseline", seconds=10.0))
    costs.observe(trial_of("attention_fusion=sdpa", seconds=5000.0))
    assert costs.expected_s(recipe_of("attention_fusion=sdpa")) == 30.0
    costs.observe(trial_of("kernel_fusion=compile", seconds=1.0))
    assert costs.expected_s(recipe_of("kernel_fusion=compile")) == pytest.approx(11.5)


def test_a_trial_that_failed_early_teaches_no_cost(planted):
    costs = CostModel(planted.make_space())
    costs.observe(trial_of("kernel_fusion=compile", outcome=Outcome.UNSUPPORTED, seconds=1.0))
    assert costs.expected_s(recipe_of("kernel_fusion=compile")) == 38.0


def test_the_rounds_of_a_final_share_twice_the_timing_of_a_search_trial(planted):
    costs, limits = CostModel(planted.make_space()), limits_for(120, Purpose.SEARCH, 60)
    unseen = recipe_of("memory_pooling=in_place")
    assert costs.expected_round_s(unseen, limits, 1) == costs.expected_s(unseen) + limits.max_timed_s
    costs.observe(trial_of("attention_fusion=sdpa", seconds=9.0, phases_s={"timing": 2.5}))
    for rounds in (1, 2, 3, 5):
        one = costs.expected_round_s(recipe_of("attention_fusion=sdpa"), limits, rounds)
        assert rounds * one == pytest.approx(rounds * (9.0 - 2.5) + 2 * 2.5)


@pytest.mark.parametrize(("budget_s", "timed_s"), [(10, 1.5), (120, 3.0), (200, 5.0), (86_400, 8.0)])
def test_timing_takes_a_fortieth_of_the_budget_within_bounds(budget_s, timed_s):
    assert limits_for(budget_s, Purpose.SEARCH, 100).max_timed_s == timed_s
    assert limits_for(budget_s, Purpose.FINAL, 100).max_timed_s == 2 * timed_s


def test_hard_timeouts_leave_room_for_the_rest_of_the_plan():
    assert limits_for(120, Purpose.SEARCH, 55).total_timeout_s == 55
    assert limits_for(120, Purpose.SEARCH, -5).total_timeout_s == 30
    assert limits_for(600, Purpose.SEARCH, 500).total_timeout_s == 300
    assert limits_for(36_000, Purpose.SEARCH, 30_000).total_timeout_s == 3600
    for available in (-5, 55, 500):
        limits = limits_for(120, Purpose.SEARCH, available)
        assert limits.transform_timeout_s <= limits.total_timeout_s


def test_a_replayed_trial_is_charged_what_it_cost_then():
    now = [0.0]
    budget = Budget(100.0, lambda: now[0])
    budget.charge(30.0, waited_s=0.0)
    assert budget.elapsed_s == 30.0
    now[0] = 12.0
    budget.charge(10.0, waited_s=12.0)
    assert budget.elapsed_s == 42.0 and budget.remaining_s == 58.0


# -- proposals -----------------------------------------------------------------------------------------------------


def test_one_setting_of_every_strategy_comes_before_a_second_of_any(planted):
    claimed = {"quantization": {"speed": 1.5, "memory": 2.0, "accuracy": 0.97}, "kernel_fusion": {"speed": 1.01}}
    space = planted.make_space(claimed=claimed)
    ordered = proposals.order_singles(space, space.expected_cost_s, planted.plain_options())
    assert sorted(r.key for r in ordered) == sorted(r.key for r in space.singles)
    assert len({r.strategies[0] for r in ordered[:4]}) == 4
    assert ordered[0].strategies == ("quantization",)


def test_expensive_singles_are_those_far_above_the_cheapest_and_the_budget(planted):
    space = planted.make_space()
    cheap, expensive = proposals.split_expensive(space.singles, space.expected_cost_s, 120)
    assert [r.key for r in expensive] == ["kernel_fusion=compile"]
    assert len(cheap) + 1 == len(space.singles)
    assert proposals.split_expensive(space.singles, space.expected_cost_s, 4000)[1] == []
    assert proposals.split_expensive([], space.expected_cost_s, 120) == ([], [])


def test_pairs_are_ordered_by_the_product_of_their_singles(planted):
    good = {
        "attention_fusion=sdpa": planted.make_measurement(1.5),
        "memory_pooling=in_place": planted.make_measurement(1.1, 1.2),
        "memory_pooling=static_cache": planted.make_measurement(1.05),
        "kernel_fusion=fold": planted.make_measurement(0.9),
    }
    pairs = proposals.pairs_of_good(planted.make_space(), good, planted.plain_options(), lambda recipe: True)
    assert pairs[0].key == "attention_fusion=sdpa+memory_pooling=in_place"
    assert len(pairs) == 5 and all(len(set(pair.strategies)) == 2 for pair in pairs)
    closed = proposals.pairs_of_good(planted.make_space(), good, planted.plain_options(), lambda r: r != pairs[0])
    assert closed == pairs[1:]


def test_crossover_takes_every_step_from_a_parent():
    rng = random.Random(0)
    first = recipe_of("attention_fusion=sdpa+quantization=bfloat16")
    second = recipe_of("kernel_fusion=fold+quantization=int8_dynamic")
    children = [proposals.crossover(first, second, rng) for _ in range(4000)]
    parental = set(first.steps) | set(second.steps)
    assert all({Step(*item) for item in child.items()} <= parental for child in children)
    assert all("quantization" in child for child in children)
    shares = [sum(c["quantization"] == "bfloat16" for c in children), sum("kernel_fusion" in c for c in children)]
    assert shares[0] / 4000 == pytest.approx(0.5, abs=0.04) and shares[1] / 4000 == pytest.approx(0.75, abs=0.04)


def test_crossover_of_equal_parents_changes_nothing():
    parent = recipe_of("attention_fusion=sdpa+quantization=bfloat16")
    assert proposals.crossover(parent, parent, random.Random(1)) == parent.to_dict()


def test_mutation_changes_at_most_one_strategy(planted):
    rng, space = random.Random(0), planted.make_space()
    parent = {"attention_fusion": "sdpa", "kernel_fusion": "fold"}
    changed = 0
    for _ in range(3000):
        child = proposals.mutate(parent, space, rng)
        different = {k for k in space.settings if child.get(k) != parent.get(k)}
        assert len(different) <= 1
        changed += bool(different)
    # A strategy that is absent may be "dropped" again, so a little less than every mutation shows.
    assert 0.2 < changed / 3000 <= proposals.MUTATION_CHANCE + 0.03


def test_neighbours_are_exactly_one_step_away(planted):
    space = planted.make_space()

    def distance(a, b):
        return sum(a.to_dict().get(k) != b.to_dict().get(k) for k in space.settings)

    for recipe in space.recipes[:20]:
        expected = {other.key for other in space.recipes if distance(recipe, other) == 1}
        assert {other.key for other in proposals.neighbours(space, recipe)} == expected


@pytest.mark.parametrize("seed", range(10))
def test_recombination_gives_new_open_recipes_only_and_as_many_as_there_are(planted, seed):
    space = planted.make_space()
    closed = set(random.Random(seed).sample(sorted(space.by_key), 40))
    parents = [recipe_of("attention_fusion=sdpa"), recipe_of("memory_pooling=in_place")]
    made = proposals.recombine(space, parents, 8, random.Random(seed), lambda recipe: recipe.key not in closed)
    assert len({r.key for r in made}) == len(made) == 8
    assert all(r.key in space.by_key and r.key not in closed for r in made)
    rest = proposals.recombine(space, parents, 999, random.Random(seed), lambda recipe: recipe.key not in closed)
    assert len(rest) == len(space.recipes) - 40


def test_recombination_without_parents_or_open_recipes(planted):
    space = planted.make_space()
    assert len(proposals.recombine(space, [], 3, random.Random(0), lambda recipe: True)) == 3
    assert proposals.recombine(space, [Recipe()], 3, random.Random(0), lambda recipe: False) == []


# -- book ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "blocks"),
    [("unsupported", True), ("wrong", True), ("crashed", True), ("timeout", True), ("out_of_memory", False)],
)
def test_what_a_failure_says_about_recipes_that_contain_it(planted, outcome, blocks):
    book = TrialBook(planted.plain_options())
    reason = book.add(trial_of("quantization=bfloat16", outcome=Outcome(outcome), reason="because"))
    assert (reason is not None) == blocks
    assert book.is_blocked(recipe_of("kernel_fusion=fold+quantization=bfloat16")) == blocks
    assert not book.is_blocked(recipe_of("kernel_fusion=fold+quantization=int8_dynamic"))


def test_the_noise_floor_comes_from_the_newest_measured_baseline(planted):
    book = TrialBook(planted.plain_options())
    book.add(trial_of("baseline", planted.make_measurement(1.05, half=0.02), Purpose.BASELINE))
    assert book.noise_floors["speed"] == pytest.approx(1.05 * 1.02 - 1)
    book.add(trial_of("baseline", None, Purpose.FINAL, Outcome.CRASHED))
    assert book.noise_floors["speed"] == pytest.approx(1.05 * 1.02 - 1)
    book.add(trial_of("baseline", planted.make_measurement(1.0, half=0.015), Purpose.FINAL))
    assert book.noise_floors["speed"] == pytest.approx(0.015)


# -- the final race ------------------------------------------------------------------------------------------------


def test_finalists_are_the_fittest_feasible_ones_that_may_still_win(planted):
    trials = [
        trial_of("baseline", planted.make_measurement(1.0), Purpose.BASELINE),
        trial_of("a=1", planted.make_measurement(1.5)),
        trial_of("a=2", planted.make_measurement(1.4)),
        trial_of("a=3", planted.make_measurement(1.3)),
        trial_of("a=4", planted.make_measurement(1.2)),
        trial_of("a=5", planted.make_measurement(3.0, accuracy=0.9)),
        trial_of("a=6", planted.make_measurement(0.9)),
        trial_of("a=7", None, outcome=Outcome.CRASHED),
    ]
    for order in itertools.islice(itertools.permutations(trials), 0, 5000, 611):
        assert [r.key for r in choose_finalists(order, planted.plain_options(), FLOORS)] == ["a=1", "a=2", "a=3"]


def test_candidates_inside_the_noise_do_not_enter_the_race(planted):
    trials = [trial_of("a=1", planted.make_measurement(1.005, half=0.005))]
    assert choose_finalists(trials, planted.plain_options(), FLOORS) == []


def test_the_simplest_of_the_tied_recipes_is_raced_too(planted):
    trials = [trial_of(f"a={i}+b=1", planted.make_measurement(1.50 + i / 1000)) for i in range(3)]
    trials.append(trial_of("c=1", planted.make_measurement(1.495)))
    keys = [r.key for r in choose_finalists(trials, planted.plain_options(), FLOORS)]
    assert keys == ["a=2+b=1", "a=1+b=1", "a=0+b=1", "c=1"]


def final(key, measurement):
    return trial_of(key, measurement, Purpose.FINAL)


def test_the_race_is_won_by_value_when_intervals_are_apart(planted):
    finals = [final("a=1", planted.make_measurement(1.2)), final("a=1+b=1", planted.make_measurement(1.5))]
    crowned = crown(finals, planted.plain_options(), FLOORS)
    assert crowned.winner.key == "a=1+b=1" and "tied" not in crowned.sentence
    assert crowned.verdicts["speed"] is Verdict.BETTER and crowned.fitness.value == pytest.approx(1.2)


def test_a_finalist_that_breaks_a_bound_in_the_race_is_out(planted):
    finals = [
        final("a=1", planted.make_measurement(1.2)),
        final("b=1", planted.make_measurement(2.0, accuracy=0.97)),
    ]
    assert crown(finals, planted.plain_options(), FLOORS).winner.key == "a=1"
    alone = crown(finals[1:], planted.plain_options(), FLOORS)
    assert alone.winner.is_baseline and "b=1: accuracy preservation 0.970" in alone.sentence


def test_a_gain_within_the_noise_floor_does_not_win(planted):
    finals = [final("a=1", planted.make_measurement(1.05, half=0.01))]
    quiet = crown(finals, planted.plain_options(), FLOORS)
    noisy = crown(finals, planted.plain_options(), {**FLOORS, "speed": 0.08})
    assert quiet.winner.key == "a=1"
    assert noisy.winner.is_baseline and "A/A noise floor 0.080" in noisy.sentence


def test_a_gain_in_an_objective_without_weight_does_not_win(planted):
    options = planted.plain_options(objective_weights={"speed": 1.0})
    finals = [final("a=1", planted.make_measurement(1.005, memory=3.0))]
    assert crown(finals, options, FLOORS).winner.is_baseline
    weighted = planted.plain_options(objective_weights={"speed": 1.0, "memory": 1.0})
    assert crown(finals, weighted, FLOORS).winner.key == "a=1"


def test_a_better_objective_does_not_win_against_a_larger_loss(planted):
    options = planted.plain_options(min_speed_improvement=0.0)
    finals = [final("a=1", planted.make_measurement(0.5, memory=1.3))]
    crowned = crown(finals, options, FLOORS)
    assert crowned.winner.is_baseline and "does not exceed the untouched model's 1.000" in crowned.sentence


def test_the_untouched_models_own_final_trial_is_published_when_it_wins(planted):
    finals = [final("baseline", planted.make_measurement(1.001)), final("a=1", planted.make_measurement(0.8))]
    crowned = crown(finals, planted.plain_options(), FLOORS)
    assert crowned.trial is finals[0] and crowned.fitness.value == pytest.approx(1.0004)


@pytest.mark.parametrize(
    ("a", "b", "shared"), [((1, 2), (2, 3), True), ((1, 2), (2.1, 3), False), ((0, 9), (4, 5), True)]
)
def test_overlap_of_intervals(a, b, shared):
    first, second = Estimate(sum(a) / 2, *a), Estimate(sum(b) / 2, *b)
    assert overlap(first, second) is shared and overlap(second, first) is shared
