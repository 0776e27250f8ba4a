"""Tree search: it finds what enumeration finds, visits legal open leaves once, and adds up what it saw correctly."""

import itertools
import random

import numpy as np
import pytest

from hybrid_core.records import Recipe
from hybrid_core.search.searchers import mcts
from hybrid_core.search.searchers.base import Seen, Task
from hybrid_core.search.searchers.mcts import FAILURE_SD, KAPPA, MAX_SHARE, SlotTree, TreeSearch, choices_of
from hybrid_core.search.space import Space
from tests.hybrid_core.search.searchers.planted import landscape, space_of

SMALL = {"attention_fusion": 2, "kernel_fusion": 3, "memory_pooling": 1, "quantization": 3}
FORBIDDEN = (
    (("kernel_fusion", "k0"), ("quantization", "q1")),
    (("attention_fusion", "a1"), ("memory_pooling", "m0")),
)


def random_instance(seed):
    """A small space with masks and independent random scores: nothing to learn from, so only counting helps."""
    space, draw = space_of(SMALL, FORBIDDEN), random.Random(seed)
    return space, {space.encode(recipe): draw.gauss(0, 1) for recipe in space.recipes}


def grown(space, scores, simulations, seed=0, closed=(), prior=None):
    tree = SlotTree(choices_of(space), scores.__getitem__, random.Random(seed), prior)
    for code in closed:
        tree.close(code)
    for _ in range(simulations):
        tree.simulate()
    return tree


def best_of(scores):
    return max(scores, key=scores.__getitem__)


def ridge(codes, values, sds):
    """A surrogate from outside: ridge on one-hot slots; its doubt is the distance to the nearest code seen."""

    def one_hot(rows):
        return np.array([[float(x == i) for x in row for i in range(6)] for row in rows])

    x, y = one_hot(codes), np.array(values)
    weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y)

    def predict(rows):
        far = [min(sum(a != b for a, b in zip(row, code, strict=True)) for code in codes) for row in rows]
        return one_hot(rows) @ weights, 0.05 * np.array(far, dtype=float)

    return predict


# -- the tree ------------------------------------------------------------------------------------------------------


def test_with_a_simulation_for_every_leaf_it_finds_the_enumerated_best():
    for seed in range(40):
        space, scores = random_instance(seed)
        tree = grown(space, scores, len(scores), seed)
        assert tree.leaves == scores, "every legal leaf once, with its own score"
        assert best_of(tree.leaves) == best_of(scores)
        assert not tree.simulate()


def test_with_a_simulation_for_every_third_leaf_it_finds_the_best_of_a_structured_space_far_more_often_than_chance():
    found = 0
    for seed in range(40):
        world = landscape(seed)
        scores = {world.space.encode(recipe): world.value(recipe) for recipe in world.space.recipes}
        found += best_of(grown(world.space, scores, len(scores) // 3, seed).leaves) == best_of(scores)
    # A third of the leaves at random would find it in 13 of 40; 24 or more has a chance below 1 in 3000.
    assert found >= 24, found


def test_closed_leaves_are_never_visited_and_the_best_open_one_is_found():
    for seed in range(20):
        space, scores = random_instance(seed)
        closed = random.Random(seed).sample(sorted(scores), len(scores) // 2)
        tree = grown(space, scores, len(scores), seed, closed)
        assert set(tree.leaves) == set(scores) - set(closed)


def test_every_node_adds_up_the_leaves_below_it():
    space, scores = random_instance(7)
    tree = grown(space, scores, 25)
    for prefix, node in tree.nodes.items():
        below = [score for code, score in tree.leaves.items() if code[: len(prefix)] == prefix]
        assert (node.visits, node.best) == (len(below), max(below))
        assert node.worth == pytest.approx(MAX_SHARE * max(below) + (1 - MAX_SHARE) * sum(below) / len(below))


def test_puct_chooses_as_its_formula_says():
    """After every simulation of a game, the next first move is an argmax of Q + c P sqrt(N) / (1 + n)."""
    space, scores = random_instance(3)
    tree = grown(space, scores, 0)
    for _ in range(30):
        root, low = tree.nodes.get(()), min(tree.leaves.values(), default=0.0)
        open_moves = sorted({code[0] for code in set(scores) - set(tree.leaves)})
        before = dict(tree.leaves)
        expected = {}
        for move in open_moves if len(before) > 1 else ():
            child = tree.nodes.get((move,))
            q = ((child or root).worth - low) / (root.best - low)
            expected[move] = q + mcts.EXPLORATION / len(open_moves) * root.visits**0.5 / (
                1 + (child.visits if child else 0)
            )
        tree.simulate()
        (leaf,) = set(tree.leaves) - set(before)
        if expected:
            assert expected[leaf[0]] == pytest.approx(max(expected.values()))


def test_a_prior_leads_the_first_walk_and_cannot_hide_the_best():
    space, scores = random_instance(5)
    wanted = best_of(scores)

    def sure(prefix):
        return [1.0 if i == wanted[len(prefix)] else 0.0 for i in range(6)]

    assert list(grown(space, scores, 1, prior=sure).leaves) == [wanted]
    for prior in (lambda prefix: [0.0] * 6, lambda prefix: [1.0 if i == 0 else 0.0 for i in range(6)]):
        assert best_of(grown(space, scores, len(scores), prior=prior).leaves) == wanted


def test_its_choices_are_the_masks_of_the_space():
    space = space_of(SMALL, FORBIDDEN)
    choices = choices_of(space)
    codes = [space.encode(recipe) for recipe in space.recipes]
    assert set(choices) == {code[:n] for code in codes for n in range(len(space.slots))}
    for prefix, below in choices.items():
        assert below == sorted({code[len(prefix)] for code in codes if code[: len(prefix)] == prefix})
    assert choices_of(Space({}, (Recipe(),))) == {(): []}


# -- the searcher --------------------------------------------------------------------------------------------------


def told_searcher(fit, seed, count=25):
    world = landscape(seed, SMALL, failing_share=0.0)
    searcher = TreeSearch(Task(world.space, random.Random(seed)), fit)
    for recipe in (Recipe(), *random.Random(seed).sample(world.space.recipes[1:], count)):
        searcher.tell(world.measure(recipe))
    return searcher


def test_it_asks_for_the_enumerated_best_of_any_surrogate_it_is_given():
    for seed in range(15):
        searcher = told_searcher(ridge, seed)
        known = {seen.recipe.key for seen in searcher.told}
        left = [recipe for recipe in searcher.space.recipes if recipe.key not in known]
        mean, sd = searcher.surrogate()([searcher.space.encode(recipe) for recipe in left])
        asked = searcher.ask(3, lambda recipe, known=known: recipe.key not in known)
        upper = dict(zip([recipe.key for recipe in left], mean + KAPPA * sd, strict=True))
        assert len(left) <= mcts.SIMULATIONS
        assert [upper[recipe.key] for recipe in asked] == pytest.approx(sorted(upper.values(), reverse=True)[:3])
        first = asked[0].key
        assert searcher.notes()["predicted"][first] == pytest.approx(
            (upper[first] - KAPPA * sd[list(upper).index(first)], sd[list(upper).index(first)])
        )


def test_a_choice_that_fails_again_and_again_is_avoided():
    """By the Gaussian process it uses by itself; which recipes failed is taught as worse than everything measured."""
    space = space_of(SMALL)
    searcher = TreeSearch(Task(space, random.Random(1)))
    draw, taught = random.Random(1), []
    for recipe in draw.sample(space.recipes[1:], 45):
        fails = recipe.to_dict().get("kernel_fusion") == "k1"
        searcher.tell(Seen.failed(recipe) if fails else Seen(recipe, draw.gauss(0.2, 0.05), 0.01))
    known = {seen.recipe.key for seen in searcher.told}
    asked = searcher.ask(5, lambda recipe: recipe.key not in known)
    assert not [recipe.key for recipe in asked if recipe.to_dict().get("kernel_fusion") == "k1"]
    searcher.fit = lambda *data: taught.append(data) or ridge(*data)
    searcher.surrogate()
    (_, values, sds), wrong = taught[0], [seen.is_wrong for seen in searcher.told]
    good = [value for value, bad in zip(values, wrong, strict=True) if not bad]
    assert {sd for sd, bad in zip(sds, wrong, strict=True) if bad} == {FAILURE_SD}
    assert all(value < min(good) for value, bad in zip(values, wrong, strict=True) if bad)


def test_the_untouched_model_is_not_taught_and_nothing_measured_still_gives_recipes():
    searcher = TreeSearch(Task(space_of(SMALL), random.Random(2)))
    searcher.tell(Seen(Recipe(), 0.0))
    asked = searcher.ask(4, lambda recipe: not recipe.is_baseline)
    assert len({recipe.key for recipe in asked}) == 4
    pairs = itertools.combinations([searcher.notes()["predicted"][recipe.key] for recipe in asked], 2)
    assert all(a[0] == b[0] == 0.0 for a, b in pairs)
