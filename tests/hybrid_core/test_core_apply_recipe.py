"""Applying a recipe in every form it leaves the project in, without ever touching the caller's module."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from hybrid_core import apply_recipe
from hybrid_core.application import read_recipe
from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.evaluation import case_from_module
from hybrid_core.handover import recipe_json
from hybrid_core.measurement.environment import read_environment
from hybrid_core.provenance import MeasuredElsewhere
from hybrid_core.records import Recipe

STEPS = {"quantization": "bfloat16"}
EXPORTED = recipe_json({"run_id": "r"}, Recipe.from_dict(STEPS), {"changes": []}, {"torch": "2.13.0"})


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 4))


@pytest.mark.parametrize(
    "recipe",
    [STEPS, Recipe.from_dict(STEPS), EXPORTED, json.dumps(EXPORTED), json.dumps(STEPS), "quantization=bfloat16"],
    ids=["mapping", "record", "exported", "exported text", "text", "key"],
)
def test_every_form_of_a_recipe_gives_the_same_model(model, recipe):
    optimized = apply_recipe(model, recipe)
    assert {p.dtype for p in optimized.parameters()} == {torch.bfloat16}
    inputs = torch.ones(2, 16)
    assert torch.equal(optimized(inputs), apply_recipe(model, STEPS)(inputs))


ELSEWHERE = {"torch": "1.0", "python": "2.7.1", "torchao": "0.0.1", "cpu_model": "Another CPU", "device": "cuda:3"}


def test_figures_from_other_versions_or_another_device_are_warned_of_and_the_recipe_is_applied(model, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe_json({}, Recipe.from_dict(STEPS), {}, ELSEWHERE)))
    with pytest.warns(MeasuredElsewhere) as told:
        optimized = apply_recipe(model, path)
    (warning,) = told
    for words in (
        "torch was 1.0, here it is",
        "python was 2.7, here",
        "Another CPU",
        "device was cuda, here it is cpu",
    ):
        assert words in str(warning.message)
    assert warning.filename == __file__ and "\n" not in str(warning.message)
    assert {p.dtype for p in optimized.parameters()} == {torch.bfloat16}


def test_the_same_machine_and_plain_recipes_are_not_warned_of(model, recwarn):
    case = case_from_module(model, (torch.ones(2, 16),))
    here = read_environment(case, case.fresh_inputs(case.generator("example")))
    apply_recipe(model, recipe_json({}, Recipe.from_dict(STEPS), {}, here))
    for plain in (STEPS, "quantization=bfloat16", Recipe.from_dict(STEPS)):
        apply_recipe(model, plain)
    assert [w for w in recwarn if issubclass(w.category, MeasuredElsewhere)] == []
    assert {"torch", "python", "numpy"} <= set(recipe_json({}, Recipe(), {}, here)["versions"])


def test_an_exported_file_is_read_by_path_and_by_name(model, tmp_path):
    path = tmp_path / "best=recipe+1.json"
    path.write_text(json.dumps(EXPORTED))
    for source in (path, str(path)):
        assert read_recipe(source) == Recipe.from_dict(STEPS)


def test_the_callers_module_stays_as_it_was(model):
    model.train()
    before = copy.deepcopy(model)
    optimized = apply_recipe(model, STEPS)
    assert optimized is not model and model.training and not optimized.training
    for (name, a), (_, b) in zip(model.named_parameters(), before.named_parameters(), strict=True):
        assert a.dtype == torch.float32 and a.requires_grad and torch.equal(a, b), name
    shared = {t.data_ptr() for t in model.state_dict().values()} & {
        t.data_ptr() for t in optimized.state_dict().values()
    }
    assert not shared


def test_the_outputs_stay_close_and_are_really_those_of_another_model(model):
    inputs = torch.randn(8, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, found = model(inputs), apply_recipe(model, STEPS, inputs)(inputs)
    difference = (expected - found.float()).abs().max()
    assert 0 < difference < 0.05 * expected.abs().max()


@pytest.mark.parametrize("recipe", [{}, Recipe(), "baseline", "{}"])
def test_the_empty_recipe_is_a_plain_copy(model, recipe):
    optimized = apply_recipe(model, recipe)
    inputs = torch.ones(3, 16)
    assert optimized is not model and torch.equal(optimized(inputs), model(inputs))


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"magic": "on"}, "magic"),
        ({"quantization": "int3"}, "int3"),
        ({"quantization": 8}, "not allowed"),
        ("quantization", "cannot be read"),
        ("quantization=bfloat16=x", "strategy=setting"),
        ("quantization=bfloat16+quantization=int8_dynamic", "each strategy once"),
        ("", "not allowed"),
        (None, "not allowed"),
        (5, "not allowed"),
        ("{not json", "not JSON"),
        ("no/such/file.json", "cannot be read"),
        ({"format": "something", "recipe": {}}, "cannot be read"),
    ],
)
def test_an_impossible_recipe_is_refused_in_one_sentence(model, recipe, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        apply_recipe(model, recipe)
    assert "\n" not in str(caught.value)


def test_json_that_is_no_object_is_refused(tmp_path):
    path = tmp_path / "list.json"
    path.write_text("[1, 2]")
    with pytest.raises(InvalidInput, match="holds a list"):
        read_recipe(path)


def test_a_step_that_finds_nothing_to_do_is_unsupported_and_not_skipped(model):
    with pytest.raises(StrategyUnsupported):
        apply_recipe(model, {"attention_fusion": "sdpa"})


def test_a_call_of_ones_own_needs_its_inputs(model):
    with pytest.raises(InvalidInput, match="call is given without example_inputs"):
        apply_recipe(model, STEPS, call=lambda module, given: module(*given))


def test_a_call_of_ones_own_is_used(model):
    seen = []

    def call(module, given):
        seen.append(type(module))
        return module(given[0] * 2)

    apply_recipe(model, {"memory_pooling": "micro_batch"}, (torch.ones(8, 16),), call=call)
    assert seen
