"""Search by a learned policy: when it may propose, what it learns from, what it says, and whether lots are beaten."""

from __future__ import annotations

import json
import math
import random
import statistics

import pytest

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.records import Recipe
from hybrid_core.search.searchers.base import Seen, Task
from hybrid_core.search.searchers.random import RandomSearch
from hybrid_core.search.searchers.rl import MINIMUM_MEASURED, ROUND, RLSearcher
from hybrid_core.search.searchers.stepback import PortfolioThenLocal
from tests.hybrid_core.search.searchers.planted import landscape, play, regret, space_of

SIZES = {"attention_fusion": 2, "kernel_fusion": 3, "quantization": 3}
QUICK = {"rl_max_episodes": 24, "rl_hidden_dim": 16, "rl_learning_rate": 5e-3, "rl_value_learning_rate": 1e-2}


def searcher(task: Task, **options) -> RLSearcher:
    return RLSearcher(task, HybridOptimizationConfig(**QUICK | options), PortfolioThenLocal(task))


def values(space, seed: int, common: random.Random | None = None, likeness: float = 0.0) -> dict[str, float]:
    """Additive effects per setting; `likeness` of them are those of `common`'s draws."""
    own, shared = random.Random(seed), random.Random(99)
    effects = {}
    for name, settings in sorted(space.settings.items()):
        for setting in settings:
            part, mine = shared.gauss(0, 0.3), own.gauss(0, 0.3)
            effects[name, setting] = likeness * part + math.sqrt(1 - likeness**2) * mine
    return {r.key: sum(effects[s.strategy, s.setting] for s in r.steps) for r in space.recipes}


def history(space, likeness: float, count: int = 5) -> dict[str, tuple[Seen, ...]]:
    return {
        f"m{n}": tuple(
            Seen(space.by_key[key], value, 0.01) for key, value in values(space, n, likeness=likeness).items()
        )
        for n in range(count)
    }


def started(space, told: int, options=None, earlier=None, likeness: float = 0.95):
    """A searcher that was told the untouched model and the first recipes of the space, and what they are worth."""
    truth = values(space, 1234, likeness=likeness)
    search = searcher(Task(space, random.Random(1), earlier or {}), **(options or {}))
    known = {}
    for recipe in space.recipes[: told + 1]:
        known[recipe.key] = Seen(recipe, truth[recipe.key], 0.01)
        search.tell(known[recipe.key])
    return search, truth, known


def ask(search, known, count=1):
    return search.ask(count, lambda recipe: recipe.key not in known)


def test_without_history_it_steps_back_until_enough_worked_and_says_so():
    space = space_of(SIZES)
    search, truth, known = started(space, 0)
    while len(known) < MINIMUM_MEASURED:
        (recipe,) = ask(search, known)
        report = search.notes()["learning"]
        assert report["trained"] is False and report["gate"]["case"] == "none"
        assert f"{len(known)} of the {MINIMUM_MEASURED} recipes" in report["reason"]
        known[recipe.key] = Seen(recipe, truth[recipe.key], 0.01)
        search.tell(known[recipe.key])
    ask(search, known)
    report = search.notes()["learning"]
    assert report["trained"] is True and "of this run alone" in report["reason"]


def test_failures_do_not_count_as_measured():
    space = space_of(SIZES)
    search, _, known = started(space, 1)
    for recipe in space.recipes[2:8]:
        known[recipe.key] = Seen.failed(recipe)
        search.tell(known[recipe.key])
    ask(search, known)
    assert search.notes()["learning"]["trained"] is False


def test_where_other_models_predict_one_another_it_proposes_after_the_untouched_model_alone():
    space = space_of(SIZES)
    search, truth, known = started(space, 0, earlier=history(space, 0.95))
    asked = ask(search, known, 4)
    report = search.notes()["learning"]
    assert report["trained"] and report["gate"]["case"] == "passed" and report["behaviour_cloning"]["examples"] >= 5
    # Better than nearly all: the first picks of a policy that knows models alike to this one.
    better = sum(value > truth[asked[0].key] for value in truth.values())
    assert better <= 0.1 * len(truth)


def test_where_they_do_not_it_steps_back_for_good_with_a_sentence_and_figures():
    space = space_of(SIZES)
    search, _, known = started(space, 12, earlier=history(space, 0.0))
    twin = PortfolioThenLocal(Task(space, random.Random(1), history(space, 0.0)))
    for seen in known.values():
        twin.tell(seen)
    assert search.gate.passed is False
    search.rng.seed(5)
    twin.rng.seed(5)
    assert ask(search, known, 3) == ask(twin, known, 3)
    notes = search.notes()
    assert "portfolio and local search propose instead" in notes["learning"]["gate"]["sentence"]
    assert notes["learning"]["trained"] is False and notes["learning"]["gate"]["rank_correlation"] < 0.3
    assert {proposal["by"] for proposal in notes["proposals"]} <= {"portfolio", "local"}
    assert search.surrogate.prior.is_empty


def test_history_that_cannot_be_judged_is_set_aside_and_that_is_said():
    space = space_of(SIZES)
    search, _, known = started(space, 6, earlier=history(space, 0.95, count=2))
    ask(search, known)
    report = search.notes()["learning"]
    assert report["gate"]["case"] == "too_little" and "Only 2 other models" in report["gate"]["sentence"]
    assert report["trained"] is True and search.surrogate.prior.is_empty


def test_it_trains_once_per_round_and_reports_each_training_once():
    space = space_of(SIZES)
    search, truth, known = started(space, 4)
    trained = []
    for _ in range(2 * ROUND + 1):
        (recipe,) = ask(search, known)
        trained.append("learning" in search.notes())
        known[recipe.key] = Seen(recipe, truth[recipe.key], 0.01)
        search.tell(known[recipe.key])
    assert trained == [True, *[False] * (ROUND - 1)] * 2 + [True]


def test_what_it_says_is_json_and_every_proposal_has_its_prediction_and_its_propensity():
    space = space_of(SIZES)
    search, _, known = started(space, 5)
    asked = ask(search, known, 3)
    notes = search.notes()
    json.dumps(notes, allow_nan=False)
    assert [p["key"] for p in notes["proposals"]] == [recipe.key for recipe in asked]
    chances = {
        key: float(c) for key, c in zip(search._learner.env.keys, search._learner.log_probabilities(), strict=True)
    }
    for proposal in notes["proposals"]:
        assert proposal["by"] == "rl" and proposal["log_probability"] == pytest.approx(
            chances[proposal["key"]], abs=1e-6
        )
        assert {"predicted", "sd", "expected_improvement"} <= set(proposal)
    gains = [proposal["expected_improvement"] for proposal in notes["proposals"]]
    assert gains == sorted(gains, reverse=True)


def test_closed_and_broken_recipes_earn_less_than_anything_that_works():
    space = space_of(SIZES)
    search, truth, known = started(space, 6)
    broken = space.recipes[7]
    search.tell(Seen(broken, 5.0, 0.01, violation=0.2, is_inaccurate=True))
    shut = {recipe.key for recipe in space.recipes[-5:]}
    search.ask(1, lambda recipe: recipe.key not in known and recipe.key != broken.key and recipe.key not in shut)
    game = search._learner.env
    reward = {key: float(r) for key, r in zip(game.keys, game.rewards, strict=True)}
    worst = min(truth[key] for key in known)
    assert all(reward[key] < worst for key in {broken.key, *shut})
    assert all(reward[key] == pytest.approx(truth[key], abs=1e-5) for key in known)


def test_the_variant_of_the_options_is_what_runs():
    space = space_of(SIZES)
    for options, name in (({}, "VAPO + DAPO + ORZ"), ({"enable_vapo": False, "enable_orz": False}, "DAPO")):
        search, _, known = started(space, 4, options)
        ask(search, known)
        report = search.notes()["learning"]
        assert report["variant"] == name and bool(report["value_loss"]) is (name != "DAPO")


def test_a_limit_of_steps_keeps_the_policy_to_the_first_slots():
    space = space_of(SIZES)
    search, _, known = started(space, 8, {"rl_max_steps_per_episode": 1})
    while asked := ask(search, known):
        if search.notes()["proposals"][0]["by"] == "rl":
            assert asked[0].strategies == ("attention_fusion",)
        known[asked[0].key] = Seen(asked[0], 0.0, 0.01)
        if len(known) > len(space.recipes) // 2:
            break


def test_equal_seeds_and_answers_give_equal_questions():
    world = landscape(3, sizes=SIZES)
    first, second = (play(searcher, world, 9, seed=4, batch=1) for _ in range(2))
    assert [seen.recipe.key for seen in first] == [seen.recipe.key for seen in second]


def test_on_planted_landscapes_it_loses_less_than_random_search():
    """Few seeds and a short training: what each method is really worth is measured by the bake-off, not here."""
    worlds = [landscape(seed, sizes=SIZES) for seed in range(4)]
    learned = [regret(world, play(searcher, world, 16, seed=i, batch=1)) for i, world in enumerate(worlds)]
    lots = [
        statistics.fmean(regret(world, play(RandomSearch, world, 16, seed=s, batch=1)) for s in range(10))
        for world in worlds
    ]
    assert statistics.fmean(learned) < 0.5 * statistics.fmean(lots)


def test_the_untouched_model_is_never_asked_for():
    space = space_of({"quantization": 2})
    search, _, known = started(space, 2, likeness=0.0)
    search.tell(Seen(space.recipes[1], 0.1))
    search.tell(Seen(space.recipes[2], 0.1))
    assert search.ask(3, lambda recipe: recipe.key not in known or recipe.is_baseline) == []
    assert Recipe().key in known
