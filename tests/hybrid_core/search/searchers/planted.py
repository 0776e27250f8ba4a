"""Planted landscapes for searchers: additive effects in logarithms, one interaction, recipes that exclude each other.

Everything is known: the true value of every recipe, which of them fail, what the noise is. `play` is the smallest
honest replay: ask, look the answers up, tell.
"""

import itertools
import math
import random
from dataclasses import dataclass, field
from functools import cache

from hybrid_core.records import Recipe
from hybrid_core.search.searchers.base import Seen, Task
from hybrid_core.search.space import Space

# Settings per strategy; with illegal pairs left out 300 to 400 recipes remain.
SIZES = {"attention_fusion": 3, "kernel_fusion": 4, "memory_pooling": 4, "quantization": 4}


def space_of(sizes=SIZES, forbidden=()):
    """A space of made-up settings; `forbidden` holds pairs of steps that exclude each other."""
    return _space(tuple(sorted(sizes.items())), tuple(forbidden))


@cache
def _space(sizes, forbidden):
    settings = {name: tuple(f"{name[:1]}{i}" for i in range(count)) for name, count in sizes}
    recipes = []
    for row in itertools.product(*(["", *names] for names in settings.values())):
        steps = {name: setting for name, setting in zip(settings, row, strict=True) if setting}
        if not any(first in steps.items() and second in steps.items() for first, second in forbidden):
            recipes.append(Recipe.from_dict(steps))
    return Space(settings=settings, recipes=tuple(sorted(recipes, key=lambda r: (len(r.steps), r.key))))


@dataclass
class Landscape:
    """True (log speed, log memory) per recipe, `failing` recipes, and noise of one measurement."""

    space: Space
    truth: dict[str, tuple[float, float]]
    failing: frozenset[str] = frozenset()
    noise: float = 0.01
    seed: int = 0
    bound: float = -math.inf  # a recipe whose log speed lies below it is outside the bounds
    best: float = field(init=False)

    def __post_init__(self):
        self.best = max(self.value(recipe) for recipe in self.space.recipes if self.is_feasible(recipe))

    def value(self, recipe):
        return sum(self.truth[recipe.key]) / 2

    def is_feasible(self, recipe):
        return recipe.key not in self.failing and self.truth[recipe.key][0] >= self.bound

    def measure(self, recipe):
        if recipe.key in self.failing:
            return Seen.failed(recipe, 1.0)
        draw = random.Random(f"{self.seed}:{recipe.key}")
        speed, memory = (0.0 if recipe.is_baseline else x + draw.gauss(0, self.noise) for x in self.truth[recipe.key])
        violation = max(0.0, self.bound - self.truth[recipe.key][0])
        return Seen(recipe, (speed + memory) / 2, self.noise, (speed, memory), violation, 1.0)


def landscape(seed, sizes=SIZES, failing_share=0.1, **changes):
    """Effects of each setting, one strong pair, some pairs excluded, some recipes failing; all from the seed."""
    draw = random.Random(seed)
    steps = [(name, f"{name[:1]}{i}") for name, count in sizes.items() for i in range(count)]
    pairs = [pair for pair in itertools.combinations(steps, 2) if pair[0][0] != pair[1][0]]
    space = space_of(sizes, draw.sample(pairs, len(pairs) // 10))
    effect = {step: (draw.gauss(0.0, 0.25), draw.gauss(0.0, 0.25)) for step in steps}
    legal = [pair for pair in pairs if space.find(dict(pair)) is not None]
    lucky, bonus = set(draw.choice(legal)), draw.choice((-0.5, 0.5))
    truth = {}
    for recipe in space.recipes:
        own = list(recipe.to_dict().items())
        gain = bonus if lucky <= set(own) else 0.0
        truth[recipe.key] = tuple(gain + sum(effect[step][m] for step in own) for m in (0, 1))
    keys = [recipe.key for recipe in space.recipes if not recipe.is_baseline]
    failing = frozenset(draw.sample(keys, int(failing_share * len(keys))))
    return Landscape(space, truth, failing, seed=seed, **changes)


def play(build, world, budget, seed=0, batch=5, told=()):
    """Replay one searcher for `budget` evaluations, the untouched model told first; returns everything it was told."""
    searcher = build(Task(world.space, random.Random(seed)))
    seen = {}

    def tell(recipe):
        seen[recipe.key] = world.measure(recipe)
        searcher.tell(seen[recipe.key])

    tell(Recipe())
    for recipe in told:
        tell(recipe)
    while len(seen) - 1 < budget:
        asked = searcher.ask(min(batch, budget + 1 - len(seen)), lambda recipe: recipe.key not in seen)
        if not asked:
            break
        for recipe in asked:
            tell(recipe)
    return list(seen.values())


def regret(world, told):
    """True log fitness lost by taking the best that was measured within the bounds instead of the truly best."""
    chosen = max((seen for seen in told if seen.is_ok), key=lambda seen: seen.value)
    return world.best - world.value(chosen.recipe)
