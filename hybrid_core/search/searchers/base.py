"""What every searcher gets and must keep to: ask for recipes, be told what they turned out to be worth.

A searcher never measures and never decides whether a recipe may be tried: `is_open` says that, so the same searcher
runs in a real search (the budget and known failures close recipes) and in a replay over a measured table. All its
randomness comes from the generator it is given, so the same answers give the same questions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hybrid_core.records import Recipe
from hybrid_core.search.space import Space

IsOpen = Callable[[Recipe], bool]


@dataclass(frozen=True)
class Seen:
    """One measured recipe as a searcher sees it; the untouched model is told first and has value 0.

    `value`: natural logarithm of its fitness / the untouched model's, larger is better; NaN when it failed. `sd`: one
    standard deviation of `value` by its own interval. `objectives`: (log speed, log memory), NaN when it failed.
    `violation`: how far it falls short of the bounds, 0 when it may win; infinite when it failed. `is_inaccurate` says
    that it is the accuracy that falls short, which passes on to most recipes with the same steps. `seconds`: its cost.
    """

    recipe: Recipe
    value: float
    sd: float = 0.0
    objectives: tuple[float, float] = (math.nan, math.nan)
    violation: float = 0.0
    seconds: float = 0.0
    is_inaccurate: bool = False

    @property
    def is_ok(self) -> bool:
        """True when it was measured and broke no bound."""
        return self.violation == 0.0 and math.isfinite(self.value)

    @property
    def is_wrong(self) -> bool:
        """True when its steps themselves are at fault: they failed or cost too much accuracy."""
        return self.is_inaccurate or not math.isfinite(self.value)

    @property
    def merit(self) -> tuple[float, float]:
        """Larger is better: within the bounds first, then by the smaller violation, then by value; failed last."""
        return (-self.violation, self.value) if math.isfinite(self.value) else (-math.inf, -math.inf)

    @classmethod
    def failed(cls, recipe: Recipe, seconds: float = 0.0) -> Seen:
        """A recipe that gave no measurement."""
        return cls(recipe, math.nan, violation=math.inf, seconds=seconds)


@dataclass(frozen=True)
class Task:
    """What a searcher works on: the recipes it may name, its generator, and what was measured on other models before.

    `history`: for each earlier model and workload (any name) what was seen of it, nearest to the present one first.
    `expected_s`: seconds that measuring a recipe probably takes; what they are relative to each other matters.
    `least_log_speed`: a recipe whose log speed lies below may not win. `starts`: what the caller wants first.
    """

    space: Space
    rng: random.Random
    history: Mapping[str, tuple[Seen, ...]] = field(default_factory=dict)
    expected_s: Callable[[Recipe], float] = lambda recipe: 1.0
    least_log_speed: float = -math.inf
    starts: tuple[Recipe, ...] = ()


class Searcher(Protocol):
    """Proposes recipes. `told` is everything it was told, in order."""

    def ask(self, count: int, is_open: IsOpen) -> list[Recipe]:
        """At most `count` distinct open recipes, most wanted first; fewer only where fewer are open."""
        ...

    def tell(self, seen: Seen) -> None:
        """Take note of one measured or failed recipe, whoever proposed it."""
        ...

    def notes(self) -> dict[str, Any]:
        """What the last `ask` can say about its choice, JSON-able: who proposed what, what was predicted."""
        ...


class Remembering:
    """The part that all searchers share: memory of what they were told, and filling up where too few were named."""

    def __init__(self, task: Task) -> None:
        self.task, self.space, self.rng = task, task.space, task.rng
        self.told: list[Seen] = []

    def tell(self, seen: Seen) -> None:
        """Remember it."""
        self.told.append(seen)

    def notes(self) -> dict[str, Any]:
        """Nothing to say."""
        return {}

    @property
    def good(self) -> list[Seen]:
        """Everything told that may win, the untouched model included, best first; earlier ones first among equals."""
        return sorted((seen for seen in self.told if seen.is_ok), key=lambda seen: -seen.value)

    def filled(self, wanted: Sequence[Recipe], count: int, is_open: IsOpen) -> list[Recipe]:
        """The distinct open ones of `wanted`, filled up to `count` with open recipes drawn at random."""
        chosen = {recipe.key: recipe for recipe in wanted if is_open(recipe)}
        chosen = dict(list(chosen.items())[:count])
        if len(chosen) < count:
            rest = [r for r in self.space.recipes if r.key not in chosen and not r.is_baseline and is_open(r)]
            for recipe in self.rng.sample(rest, min(count - len(chosen), len(rest))):
                chosen[recipe.key] = recipe
        return list(chosen.values())
