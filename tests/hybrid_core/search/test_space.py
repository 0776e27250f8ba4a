"""Slots, codes, masks and reasons of the space against brute force over every code, with the conflicts declared."""

import itertools
import random

import pytest

from hybrid_core.recipes import legal_recipes
from hybrid_core.records import Recipe
from hybrid_core.search.space import Space
from hybrid_core.strategies import registry

# Settings with many conflicts among them, said on either side and with "*", and some with none.
CHOSEN = {
    "quantization": ("int8_dynamic", "int8_static", "bfloat16", "openvino_int8", "mixed_1"),
    "kernel_fusion": ("fold", "compile", "aot", "onnxruntime", "openvino"),
    "memory_pooling": ("in_place", "preallocated", "static_cache", "release_early", "micro_batch"),
    "attention_fusion": ("sdpa", "sdpa_causal", "flash"),
}


def space_with(settings, max_steps=4):
    return Space(settings=settings, recipes=legal_recipes(tuple(settings), settings, max_steps))


@pytest.fixture(scope="module")
def space():
    return space_with(CHOSEN)


def declared(first, second):
    """Every reason that either strategy declares against two (strategy, setting) pairs, read from the declarations."""
    return {
        conflict.reason
        for (strategy, setting), (other, other_setting) in ((first, second), (second, first))
        for conflict in registry.get_strategy(strategy).conflicts
        if conflict.setting in (setting, "*")
        and conflict.other_strategy == other
        and conflict.other_setting in (other_setting, "*")
    }


def steps_of(space, code):
    return [(slot, space.settings[slot][i - 1]) for slot, i in zip(space.slots, code, strict=False) if i]


def all_codes(space):
    return list(itertools.product(*(range(1 + len(space.settings[slot])) for slot in space.slots)))


def legal_codes(space):
    """By the declarations alone: no two steps of the code exclude each other."""
    return {
        code
        for code in all_codes(space)
        if not any(declared(a, b) for a, b in itertools.combinations(steps_of(space, code), 2))
    }


def prefixes(codes):
    return sorted({code[:n] for code in codes for n in range(len(code))})


def test_a_code_is_a_recipe_exactly_when_no_two_of_its_steps_exclude_each_other(space):
    legal = legal_codes(space)
    assert 200 < len(legal) < len(all_codes(space)) - 200
    for code in all_codes(space):
        recipe = space.decode(code)
        assert (recipe is not None) == (code in legal)
        if recipe is not None:
            assert dict(steps_of(space, code)) == recipe.to_dict()


def test_encoding_and_decoding_undo_each_other_and_no_recipe_has_two_codes(space):
    legal = legal_codes(space)
    decoded = {code: space.decode(code) for code in legal}
    assert all(space.encode(recipe) == code for code, recipe in decoded.items())
    assert all(space.decode(space.encode(recipe)) is recipe for recipe in space.recipes)
    assert len(space.recipes) == len(legal) == len({recipe.key for recipe in space.recipes})
    assert space.encode(Recipe()) == (0, 0, 0, 0)


def test_the_same_steps_in_another_order_are_the_same_recipe_and_code(space):
    draw = random.Random(0)
    for recipe in draw.sample([recipe for recipe in space.recipes if len(recipe.steps) > 2], 100):
        shuffled = Recipe(tuple(draw.sample(recipe.steps, len(recipe.steps))))
        assert shuffled.key == recipe.key
        assert space.find(shuffled.to_dict()) is recipe
        assert space.encode(shuffled) == space.encode(recipe)


def test_a_choice_is_allowed_exactly_when_some_legal_recipe_continues_like_this(space):
    legal = legal_codes(space)
    for prefix in prefixes(legal):
        size = 1 + len(space.settings[space.slots[len(prefix)]])
        continued = {code[len(prefix)] for code in legal if code[: len(prefix)] == prefix}
        assert space.allowed(prefix) == tuple(i in continued for i in range(size))
        assert space.allowed(prefix)[0], "leaving a strategy out is always possible"


def test_walking_the_masks_reaches_every_legal_recipe_once_and_nothing_else(space):
    reached, open_ends = [], [()]
    while open_ends:
        prefix = open_ends.pop()
        if len(prefix) == len(space.slots):
            reached.append(prefix)
        else:
            open_ends += [(*prefix, i) for i, may in enumerate(space.allowed(prefix)) if may]
    assert sorted(reached) == sorted(legal_codes(space))


def test_every_masked_setting_has_a_declared_reason_and_no_other_has_one(space):
    masked = 0
    for prefix in prefixes(legal_codes(space)):
        slot, allowed = space.slots[len(prefix)], space.allowed(prefix)
        reasons = space.reasons(prefix)
        assert set(reasons) == {s for s, may in zip(space.settings[slot], allowed[1:], strict=True) if not may}
        for setting, reason in reasons.items():
            assert reason in set().union(*(declared(step, (slot, setting)) for step in steps_of(space, prefix)))
            masked += 1
    assert masked > 100


def test_a_mask_without_a_conflict_says_so():
    """Only single steps: everything after the first is masked, and no strategy declared anything against it."""
    single = space_with({name: CHOSEN[name][:2] for name in ("attention_fusion", "memory_pooling")}, max_steps=1)
    assert single.allowed((1,)) == (True, False, False)
    assert single.reasons((1,)) == dict.fromkeys(CHOSEN["memory_pooling"][:2], "no legal recipe begins like this")
    assert single.reasons((0,)) == {}


def test_behind_an_illegal_beginning_everything_is_masked(space):
    fusion, quantization = space.slots.index("kernel_fusion"), space.slots.index("quantization")
    assert (fusion, quantization) == (1, 3)
    illegal = (2, 1 + CHOSEN["kernel_fusion"].index("compile"))  # sdpa_causal with a compiled graph
    assert declared(("attention_fusion", "sdpa_causal"), ("kernel_fusion", "compile"))
    assert not any(space.allowed(illegal))
    assert set(space.reasons(illegal)) == set(CHOSEN["memory_pooling"])


def test_slots_are_in_the_order_of_their_names_whatever_order_was_asked_for():
    few = {name: settings[:2] for name, settings in CHOSEN.items()}
    spaces = [space_with({name: few[name] for name in names}) for names in itertools.permutations(few)]
    assert {space.slots for space in spaces} == {tuple(sorted(few))}
    assert len({tuple(sorted(space.encode(recipe) for recipe in space.recipes)) for space in spaces}) == 1


def test_a_strategy_without_settings_is_no_slot():
    space = space_with({"attention_fusion": ("sdpa",), "kernel_fusion": ()})
    assert space.slots == ("attention_fusion",)
    assert [space.encode(recipe) for recipe in space.recipes] == [(0,), (1,)]
    empty = space_with({"kernel_fusion": ()})
    assert empty.slots == () and empty.decode(()) is empty.recipes[0] and empty.encode(Recipe()) == ()


def test_a_code_of_the_wrong_length_is_refused(space):
    for code in ((0, 0, 0), (0, 0, 0, 0, 0)):
        with pytest.raises(ValueError, match="zip"):
            space.decode(code)
