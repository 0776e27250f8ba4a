"""Legal recipes: order, conflicts both ways, enumeration and application, on declared facts."""

import itertools
import random

import pytest
import torch
from torch import nn

from hybrid_core import recipes
from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.records import Recipe, Step, Workload
from hybrid_core.search.space import Space
from hybrid_core.strategies import registry
from hybrid_core.strategies.base import Applied, Conflict, Setting, Situation


class Tag:
    """A strategy that writes its step into the module's list, so that order and number are visible."""

    def __init__(self, name, stages, conflicts=(), reasons=None):
        self.name, self.title, self.purpose = name, name, name
        self.settings = tuple(
            Setting(s, f"{s}.", stage, True, 1.5, on_request="It hardly ever pays." if s == "rare" else "")
            for s, stage in stages.items()
        )
        self.conflicts, self.claimed, self._reasons = tuple(conflicts), {"speed": 1.1}, reasons or {}

    def unavailable(self, setting, device):
        return self._reasons.get((setting, device))

    def unsupported(self, setting, model, situation):
        return None

    def apply(self, setting, model, situation):
        if setting == "never":
            raise StrategyUnsupported("never applies")
        model.tags.append(f"{self.name}={setting}")
        return Applied(model, (f"tagged {self.name}", f"with {setting}"))


@pytest.fixture
def tags(monkeypatch):
    strategies = (
        Tag(
            "late", {"compile": 90, "never": 95}, [Conflict("compile", "mid", "fragile", "fragile cannot be compiled")]
        ),
        Tag("mid", {"solid": 40, "fragile": 40}, reasons={("fragile", "cpu"): "no CPU kernel for fragile"}),
        Tag("early", {"swap": 10}, [Conflict("*", "wide", "*", "swap and wide do the same")]),
        Tag("wide", {"slice": 10}),
    )
    monkeypatch.setattr(registry, "STRATEGIES", strategies)
    return strategies


def situation():
    return Situation((torch.zeros(1),), lambda m, x: m(*x), Workload("forward", "forward", 1), torch.device("cpu"))


def test_steps_run_in_stage_order_whatever_order_they_were_given_in(tags):
    steps = {"late": "compile", "mid": "solid", "early": "swap"}
    for order in itertools.permutations(steps.items()):
        recipe = recipes.order_recipe(dict(order))
        assert [s.strategy for s in recipe.steps] == ["early", "mid", "late"]
        assert recipe.key == Recipe.from_dict(dict(order)).key


def test_steps_of_one_stage_are_ordered_by_name_so_the_recipe_is_unique(tags):
    forward = recipes.order_recipe({"early": "swap", "wide": "slice"})
    assert forward == recipes.order_recipe({"wide": "slice", "early": "swap"})


@pytest.mark.parametrize("given", [{"late": "compile", "mid": "fragile"}, {"mid": "fragile", "late": "compile"}])
def test_a_conflict_declared_on_one_side_forbids_both_orders(tags, given):
    with pytest.raises(InvalidInput, match="fragile cannot be compiled; drop one of them"):
        recipes.check_recipe(given)
    assert recipes.conflict_reason(Step("mid", "fragile"), Step("late", "compile")) == "fragile cannot be compiled"
    assert recipes.conflict_reason(Step("mid", "solid"), Step("late", "compile")) is None


def test_a_conflict_with_any_setting_holds_for_all(tags):
    with pytest.raises(InvalidInput, match="swap and wide do the same"):
        recipes.check_recipe({"wide": "slice", "early": "swap"})


def test_unknown_names_are_refused_with_the_known_ones(tags):
    with pytest.raises(InvalidInput, match="warp.*late, mid, early, wide"):
        recipes.check_recipe({"warp": "on"})
    with pytest.raises(InvalidInput, match="hard.*solid, fragile"):
        recipes.check_recipe({"mid": "hard"})


def test_a_strategy_named_twice_is_refused(tags):
    twice = Recipe((Step("mid", "solid"), Step("mid", "fragile")))
    with pytest.raises(InvalidInput, match="names a strategy twice"):
        recipes.check_recipe(twice)


def test_the_empty_recipe_is_legal(tags):
    assert recipes.check_recipe({}) == Recipe()


def brute_force_legal(strategies, allowed, max_steps):
    steps = [Step(name, setting) for name in strategies for setting in allowed.get(name, ())]
    found = set()
    for length in range(max_steps + 1):
        for chosen in itertools.combinations(steps, length):
            try:
                if len({step.strategy for step in chosen}) == length:
                    found.add(recipes.check_recipe(Recipe(chosen)).key)
            except InvalidInput:
                continue
    return found


@pytest.mark.parametrize("max_steps", [0, 1, 2, 4])
def test_the_listed_recipes_are_exactly_those_the_check_allows(tags, max_steps):
    allowed = {"late": ("compile", "never"), "mid": ("fragile", "solid"), "early": ("swap",), "wide": ("slice",)}
    listed = recipes.legal_recipes(tuple(allowed), allowed, max_steps)
    assert {recipe.key for recipe in listed} == brute_force_legal(tuple(allowed), allowed, max_steps)
    assert len({recipe.key for recipe in listed}) == len(listed)
    assert listed[0] == Recipe()
    lengths = [len(recipe.steps) for recipe in listed]
    assert lengths == sorted(lengths)


def test_the_list_does_not_depend_on_the_order_of_the_names(tags):
    allowed = {"late": ("compile",), "mid": ("solid", "fragile"), "early": ("swap",)}
    shuffled = list(allowed)
    random.Random(1).shuffle(shuffled)
    assert recipes.legal_recipes(shuffled, allowed) == recipes.legal_recipes(tuple(allowed), allowed)


def test_a_strategy_without_allowed_settings_contributes_nothing(tags):
    assert recipes.legal_recipes(("late", "mid"), {"mid": ("solid",)}) == (
        Recipe(),
        Recipe.from_dict({"mid": "solid"}),
    )


def test_applying_runs_every_step_in_order_and_reports_every_change(tags):
    model = nn.Identity()
    model.tags = []
    applied = recipes.apply_steps(model, Recipe.from_dict({"late": "compile", "early": "swap"}), situation())
    assert applied.model.tags == ["early=swap", "late=compile"]
    assert applied.changes == ("tagged early", "with swap", "tagged late", "with compile")


def test_applying_passes_on_why_a_step_is_unsupported(tags):
    model = nn.Identity()
    model.tags = []
    with pytest.raises(StrategyUnsupported, match="never applies"):
        recipes.apply_steps(model, Recipe.from_dict({"late": "never"}), situation())


def test_an_illegal_recipe_is_refused_before_anything_is_applied(tags):
    model = nn.Identity()
    model.tags = []
    with pytest.raises(InvalidInput):
        recipes.apply_steps(model, Recipe.from_dict({"mid": "fragile", "late": "compile"}), situation())
    assert model.tags == []


def test_the_space_leaves_out_what_this_device_cannot_do_and_says_why(monkeypatch):
    quantization = Tag("quantization", {"good": 40, "gone": 40}, reasons={("gone", "cpu"): "needs a GPU"})
    monkeypatch.setattr(registry, "STRATEGIES", (quantization, Tag("kernel_fusion", {"fold": 20})))
    options = HybridOptimizationConfig(optimization_strategies=("quantization", "kernel_fusion"))
    space = Space.from_registry(options, "cpu")
    assert space.settings == {"quantization": ("good",), "kernel_fusion": ("fold",)}
    assert space.unavailable == {"quantization=gone": "needs a GPU"}
    keys = {"baseline", "quantization=good", "kernel_fusion=fold", "kernel_fusion=fold+quantization=good"}
    assert set(space.by_key) == keys
    assert space.expected_cost_s(space.by_key["kernel_fusion=fold+quantization=good"]) == space.overhead_s + 3.0
    assert "quantization=gone" in Space.from_registry(options, "cuda:0").by_key


def test_a_setting_on_request_is_left_out_with_its_sentence_until_somebody_names_it(monkeypatch):
    quantization = Tag("quantization", {"good": 40, "rare": 40, "gone": 40}, reasons={("gone", "cpu"): "needs a GPU"})
    monkeypatch.setattr(registry, "STRATEGIES", (quantization,))
    usual = Space.from_registry(HybridOptimizationConfig(optimization_strategies=("quantization",)), "cpu")
    assert usual.settings == {"quantization": ("good",)}
    assert usual.left_out == {"quantization=rare": "It hardly ever pays."}
    assert usual.to_json()["left_out"] == usual.left_out
    named = HybridOptimizationConfig(
        optimization_strategies=("quantization",), strategy_settings={"quantization": ("rare", "gone")}
    )
    space = Space.from_registry(named, "cpu")
    assert space.settings == {"quantization": ("rare",)} and set(space.unavailable) == {"quantization=gone"}
    assert "not among the settings" in space.left_out["quantization=good"]


def test_an_unknown_setting_is_refused_by_the_space_in_one_sentence(monkeypatch):
    monkeypatch.setattr(registry, "STRATEGIES", (Tag("quantization", {"good": 40}),))
    options = HybridOptimizationConfig(
        optimization_strategies=("quantization",), strategy_settings={"quantization": ("god",)}
    )
    with pytest.raises(InvalidInput, match="'quantization' has no setting 'god'; choose one of: good"):
        Space.from_registry(options, "cpu")


def test_without_ensembles_the_space_has_no_pairs(monkeypatch):
    both = (Tag("quantization", {"good": 40}), Tag("kernel_fusion", {"fold": 20}))
    monkeypatch.setattr(registry, "STRATEGIES", both)
    options = HybridOptimizationConfig(
        optimization_strategies=("quantization", "kernel_fusion"), enable_ensemble_optimization=False
    )
    assert all(len(recipe.steps) <= 1 for recipe in Space.from_registry(options, "cpu").recipes)


def test_every_declared_setting_of_the_real_strategies_is_in_the_space_or_has_a_reason():
    space = Space.from_registry(HybridOptimizationConfig(), "cpu")
    for strategy in registry.STRATEGIES:
        for setting in strategy.settings:
            name = f"{strategy.name}={setting.name}"
            assert (name in space.by_key) + (name in space.unavailable) + (name in space.left_out) == 1
            assert {**space.unavailable, **space.left_out}.get(name, "reason").strip()
    assert all(recipes.check_recipe(recipe) == recipe for recipe in space.recipes)


def test_no_legal_recipe_has_two_steps_of_one_stage_so_order_is_no_choice():
    """Were there one, two orders would be legal, and the space would need a slot for the order."""
    every = {strategy.name: tuple(setting.name for setting in strategy.settings) for strategy in registry.STRATEGIES}
    stage = {(s.name, setting.name): setting.stage for s in registry.STRATEGIES for setting in s.settings}
    for recipe in recipes.legal_recipes(tuple(every), every, 2):
        stages = [stage[step.strategy, step.setting] for step in recipe.steps]
        assert len(set(stages)) == len(stages), recipe.key
