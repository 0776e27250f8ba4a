"""The contract every searcher keeps, as checks that are run on all of them and shown searchers that break each.

A check takes `build(task) -> searcher` and raises AssertionError where the searcher breaks its promise; any other
exception is a crash, and breaks it as well. The space is tiny, so that every game is played until nothing is open.
"""

import json
import random

from hybrid_core.records import Recipe
from hybrid_core.search.searchers.base import Seen, Task
from hybrid_core.search.space import Space
from tests.hybrid_core.search.searchers.planted import space_of

# One pair excludes each other, and one strategy has nothing to offer here: 15 recipes besides the untouched model.
SIZES = {"attention_fusion": 1, "kernel_fusion": 2, "memory_pooling": 0, "quantization": 2}
FORBIDDEN = ((("kernel_fusion", "k0"), ("quantization", "q1")),)
# How much is asked for in turn.
COUNTS = (1, 3, 2, 5)


def good(recipe):
    """A measured recipe whose value is a fixed draw of its own."""
    draw = random.Random(recipe.key)
    speed, memory = draw.gauss(0, 0.3), draw.gauss(0, 0.3)
    return Seen(recipe, (speed + memory) / 2, 0.01, (speed, memory), 0.0, 1.0)


def mixed(recipe):
    """Some fail, some are outside the bounds, some lose accuracy, the rest are good."""
    seen, kind = good(recipe), random.Random(f"kind {recipe.key}").randrange(6)
    if kind == 0:
        return Seen.failed(recipe, 1.0)
    if kind == 1:
        return Seen(recipe, seen.value, seen.sd, seen.objectives, 0.1)
    if kind == 2:
        return Seen(recipe, seen.value, seen.sd, seen.objectives, 0.2, is_inaccurate=True)
    return seen


def untouched():
    return Seen(Recipe(), 0.0, objectives=(0.0, 0.0))


class Game:
    """One searcher over one space: every `ask` is checked against what is open, every answer is told."""

    def __init__(self, build, space=None, closed=(), seed=0, answer=good, told_first=True):
        self.space = space_of(SIZES, FORBIDDEN) if space is None else space
        self.searcher = build(Task(self.space, random.Random(seed)))
        self.closed, self.answer = set(closed), answer
        self.told, self.asked = set(), []
        self.notes()
        if told_first:
            self.tell(untouched())

    def open_keys(self):
        """What may be asked for. Nobody closes the untouched model here: leaving it out is the searcher's own duty."""
        return {recipe.key for recipe in self.space.recipes} - self.closed - (self.told - {Recipe().key})

    def tell(self, seen):
        self.told.add(seen.recipe.key)
        self.searcher.tell(seen)

    def ask(self, count):
        is_open = self.open_keys()
        asked = self.searcher.ask(count, lambda recipe: recipe.key in is_open)
        keys = [recipe.key for recipe in asked]
        left = is_open - {Recipe().key}
        assert Recipe().key not in keys, "it asks for the untouched model"
        assert not set(keys) & self.told, f"it repeats {sorted(set(keys) & self.told)}"
        assert set(keys) <= is_open, f"it asks for {sorted(set(keys) - is_open)}, which is closed or not legal"
        assert len(set(keys)) == len(keys), f"it asks for one recipe twice: {keys}"
        assert len(keys) <= count, f"it asks for {len(keys)} and was to ask for {count}"
        assert len(keys) == min(count, len(left)), f"it asks for {len(keys)} of {count} with {len(left)} open"
        assert all(recipe is self.space.by_key[recipe.key] for recipe in asked), "its steps are not in the legal order"
        self.asked += keys
        self.notes()
        return asked

    def notes(self):
        notes = self.searcher.notes()
        assert isinstance(notes, dict), f"its notes are {type(notes).__name__}"
        json.dumps(notes, allow_nan=False)

    def play(self, between=lambda: None):
        """Until nothing is open; `between` may do something after each answer."""
        turn = 0
        while asked := self.ask(COUNTS[turn % len(COUNTS)]):
            for recipe in asked:
                self.tell(self.answer(recipe))
                between()
            turn += 1
        return self.asked


def it_asks_for_every_open_recipe_once(build):
    """Only open ones, distinct, never more than asked for, fewer only where fewer are open, never the baseline."""
    game = Game(build, answer=mixed)
    keys = [recipe.key for recipe in game.space.recipes if not recipe.is_baseline]
    game.closed = set(keys[::4])
    game.play()
    assert set(game.asked) == set(keys[1::4] + keys[2::4] + keys[3::4]), "it did not ask for everything that was open"


def the_same_answers_give_the_same_questions(build):
    """Whatever the state of the global generators is."""
    state = random.getstate()
    try:
        random.seed(1)
        first = Game(build, seed=7, answer=mixed).play()
        random.seed(2)
        assert Game(build, seed=7, answer=mixed).play() == first, "the same seed and answers gave other questions"
    finally:
        random.setstate(state)


def nothing_open_gives_nothing(build):
    game = Game(build)
    game.closed = {recipe.key for recipe in game.space.recipes}
    assert game.ask(3) == []
    assert Game(build).ask(0) == []


def all_failed_ends_well(build):
    assert len(Game(build, answer=Seen.failed).play()) == 15


def all_out_of_bounds_ends_well(build):
    def lost(recipe):
        return Seen(recipe, 0.3, 0.01, (0.3, 0.3), 0.5, is_inaccurate=True)

    assert len(Game(build, answer=lost).play()) == 15


def all_equal_ends_well(build):
    assert len(Game(build, answer=lambda r: Seen(r, 0.0, objectives=(0.0, 0.0))).play()) == 15


def unknown_objectives_end_well(build):
    """A value without objectives is what a plain caller tells."""
    assert len(Game(build, answer=lambda r: Seen(r, good(r).value, 0.01)).play()) == 15


def one_candidate_is_asked_for_once(build):
    space = space_of({"quantization": 1})
    assert Game(build, space).play() == ["quantization=q0"]
    assert Game(build, space, answer=Seen.failed).play() == ["quantization=q0"]


def a_space_without_recipes_gives_nothing(build):
    for settings in ({}, {"quantization": ()}):
        assert Game(build, Space(settings=settings, recipes=(Recipe(),))).ask(2) == []


def it_needs_nothing_told_first(build):
    game = Game(build, told_first=False)
    assert len(game.ask(4)) == 4
    game.play()


def others_may_be_told_in_between(build):
    """Trials that somebody else proposed, and questions of its own that are never answered."""
    game, draw = Game(build, answer=mixed), random.Random(3)

    def somebody_else():
        left = sorted(game.open_keys() - {Recipe().key} - set(game.asked))
        if left and draw.random() < 0.5:
            game.tell(mixed(game.space.by_key[draw.choice(left)]))

    unanswered = {recipe.key for recipe in game.ask(2)}
    game.ask(1)
    game.closed |= unanswered
    game.play(somebody_else)
    assert game.open_keys() == {Recipe().key}


CHECKS = (
    it_asks_for_every_open_recipe_once,
    the_same_answers_give_the_same_questions,
    nothing_open_gives_nothing,
    all_failed_ends_well,
    all_out_of_bounds_ends_well,
    all_equal_ends_well,
    unknown_objectives_end_well,
    one_candidate_is_asked_for_once,
    a_space_without_recipes_gives_nothing,
    it_needs_nothing_told_first,
    others_may_be_told_in_between,
)


def failures(build):
    """The names of the checks that a searcher breaks, by an assertion or by crashing."""
    broken = []
    for check in CHECKS:
        try:
            check(build)
        except Exception:
            broken.append(check.__name__)
    return broken
