"""Every searcher of the registry keeps the contract, and each check of the kit fails on a searcher that breaks it."""

import random

import pytest

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.records import SEARCH_METHODS, Recipe
from hybrid_core.search.searchers.base import Remembering
from hybrid_core.search.searchers.random import RandomSearch
from hybrid_core.search.searchers.registry import SEARCHERS, get_searcher
from hybrid_core.selection.registry import METHODS
from tests.hybrid_core.search.searchers.searcher_contract import CHECKS, failures

# The learned policy is trained as shortly as it can be: here it has to keep to the rules, not to be good.
QUICK = {"rl_hidden_dim": 8, "rl_max_episodes": 1}
PLAIN = HybridOptimizationConfig(enable_rl_optimization=False, **QUICK)
LEARNED = HybridOptimizationConfig(**QUICK)
CASES = [(entry.name, LEARNED if entry.name == "rl" else PLAIN, entry.name) for entry in SEARCHERS]
CASES += [
    ("selection", HybridOptimizationConfig(enable_rl_optimization=False, selection_strategy=method.name), method.name)
    for method in METHODS
    if method.name not in ("rl", PLAIN.selection_strategy)
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("name", "options"), [case[:2] for case in CASES], ids=[case[2] for case in CASES])
def test_every_searcher_keeps_the_contract(name, options, check):
    entry = get_searcher(name)
    if (reason := entry.unavailable()) is not None:
        pytest.skip(reason)
    check(lambda task: entry.build(task, options))


def test_what_people_choose_are_the_searchers_that_are_no_controls():
    assert {entry.name for entry in SEARCHERS if not entry.is_control} <= set(SEARCH_METHODS)
    assert not {entry.name for entry in SEARCHERS if entry.is_control} & set(SEARCH_METHODS)
    assert len({entry.name for entry in SEARCHERS}) == len(SEARCHERS)


def test_an_unknown_searcher_is_refused_with_the_known_ones():
    with pytest.raises(InvalidInput, match="'annealing' is unknown; choose one of adaptive, .*tpe"):
        get_searcher("annealing")


# -- searchers that break the contract -----------------------------------------------------------------------------


class Careless(Remembering):
    """What it wants is not asked whether it is open."""

    def ask(self, count, is_open):
        return self.rng.sample(self.space.recipes[1:], min(count, len(self.space.recipes) - 1))


class Repeating(RandomSearch):
    def ask(self, count, is_open):
        return (super().ask(1, is_open) * count)[:count]


class Greedy(RandomSearch):
    def ask(self, count, is_open):
        return super().ask(count + 1, is_open)


class Shy(RandomSearch):
    def ask(self, count, is_open):
        return super().ask(min(count, 1), is_open)


class Untouched(RandomSearch):
    def ask(self, count, is_open):
        return self.filled([Recipe()], count, is_open)


class Reordering(RandomSearch):
    """Builds recipes of its own instead of naming those of the space."""

    def ask(self, count, is_open):
        return [Recipe(tuple(reversed(recipe.steps))) for recipe in super().ask(count, is_open)]


class Moody(RandomSearch):
    """Draws from the global generator."""

    def __init__(self, task):
        super().__init__(task)
        self.rng = random


class TakesTheBest(RandomSearch):
    """Crashes where nothing may win, as `max` of nothing does."""

    def ask(self, count, is_open):
        best = max((seen for seen in self.told if seen.is_ok and not seen.recipe.is_baseline), key=lambda s: s.value)
        return self.filled([best.recipe], count, is_open)


class Proud(RandomSearch):
    """Believes that only its own proposals are told."""

    def __init__(self, task):
        super().__init__(task)
        self.mine = {Recipe().key}

    def ask(self, count, is_open):
        asked = super().ask(count, is_open)
        self.mine.update(recipe.key for recipe in asked)
        return asked

    def tell(self, seen):
        self.mine.remove(seen.recipe.key)


class Paired(RandomSearch):
    """Always draws two to compare."""

    def ask(self, count, is_open):
        self.rng.sample(self.space.recipes[1:], 2)
        return super().ask(count, is_open)


class Pouting(RandomSearch):
    """Gives up after a failure."""

    def ask(self, count, is_open):
        return [] if any(not seen.is_ok for seen in self.told) else super().ask(count, is_open)


class Pedantic(RandomSearch):
    """Cannot do without objectives."""

    def tell(self, seen):
        super().tell(seen)
        assert seen.objectives[0] == seen.objectives[0] or seen.value != seen.value


class Ranked(RandomSearch):
    """Divides by the spread of the values."""

    def ask(self, count, is_open):
        values = [seen.value for seen in self.told if seen.is_ok] or [0.0, 1.0]
        if len(values) > 1:
            _ = 1.0 / (max(values) - min(values))
        return super().ask(count, is_open)


class Talkative(RandomSearch):
    def notes(self):
        return {"best": max((seen.value for seen in self.told), default=float("nan")), "told": self.told}


class Needy(RandomSearch):
    """Looks at the untouched model before it asks."""

    def ask(self, count, is_open):
        assert self.told
        return super().ask(count, is_open)


EVERYWHERE = (Careless, Repeating, Greedy, Shy, Untouched, Reordering, TakesTheBest, Pouting, Talkative)
# What is wrong with these shows in one situation alone, so that no other check stands in for its own.
ALONE = {
    Moody: {"the_same_answers_give_the_same_questions"},
    Ranked: {"all_equal_ends_well"},
    Pedantic: {"unknown_objectives_end_well"},
    Paired: {"one_candidate_is_asked_for_once", "a_space_without_recipes_gives_nothing"},
    Needy: {"it_needs_nothing_told_first"},
    Proud: {"others_may_be_told_in_between"},
}


@pytest.mark.parametrize("broken", EVERYWHERE)
def test_the_kit_finds_a_searcher_that_breaks_the_contract(broken):
    assert "it_asks_for_every_open_recipe_once" in failures(broken)


@pytest.mark.parametrize("broken", ALONE)
def test_one_check_finds_what_is_wrong_in_one_situation(broken):
    assert set(failures(broken)) == ALONE[broken]


def test_each_check_of_the_kit_finds_a_broken_searcher_and_passes_a_sound_one():
    found = {name for broken in (*EVERYWHERE, *ALONE) for name in failures(broken)}
    assert found == {check.__name__ for check in CHECKS}
    assert failures(RandomSearch) == []
