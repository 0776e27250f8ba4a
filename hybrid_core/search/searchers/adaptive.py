"""The default: begin with what served other models, then let a surrogate choose, and keep others in the game.

First a portfolio that is good on every earlier model, then the likeliest recipes by the posterior mean, then expected
improvement. Every fourth pick belongs to another proposer (recombination by the person's selection method, the learned
policy, local search), chosen by a bandit that credits what a proposer really gained: one that is better on this model
takes part more, and the chosen method acts in every run. Without history the cheapest single of each strategy begins
in place of the portfolio. How to compare it with every other method: docs/search_bakeoff.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid_core.records import Recipe
from hybrid_core.search.searchers.base import IsOpen, Remembering, Searcher, Seen, Task
from hybrid_core.search.searchers.surrogate import SurrogateSearch

PORTFOLIO = 3
LIKELIEST = 2
OTHERS_EVERY = 4
# How much a proposer that was rarely asked is preferred, in units of log fitness: what a good step gains.
EXPLORATION = 0.1


@dataclass
class Credit:
    """What one proposer was asked and what came of it; `gained` adds up improvements of the best, in log fitness."""

    asked: int = 0
    measured: int = 0
    gained: float = 0.0
    best: float = -math.inf

    def upper(self, rounds: int) -> float:
        """Mean gain plus the bonus of UCB1 (Auer et al. 2002); infinite for one that was never asked."""
        if not self.asked:
            return math.inf
        return self.gained / self.asked + EXPLORATION * math.sqrt(2 * math.log(max(2, rounds)) / self.asked)


@dataclass
class Bandit:
    """Chooses among proposers by what they gained; the first of equals wins, so order is preference."""

    names: tuple[str, ...]
    credits: dict[str, Credit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nobody has done anything yet."""
        self.credits = {name: Credit() for name in self.names}

    def choose(self) -> str:
        """Whose turn it is."""
        rounds = sum(credit.asked for credit in self.credits.values())
        return max(self.names, key=lambda name: self.credits[name].upper(rounds))


class AdaptiveSearch(Remembering):
    """Portfolio, prior-mean picks, expected improvement, and every fourth pick from a bandit over the `others`."""

    def __init__(self, task: Task, others: Mapping[str, Searcher]) -> None:
        """`others` are the further proposers by name, in the order in which untried ones are asked."""
        super().__init__(task)
        self.surrogate = SurrogateSearch(task)
        self.others = dict(others)
        self.bandit = Bandit(tuple(self.others))
        self.has_history = not self.surrogate.prior.is_empty
        self.beginning = dict.fromkeys(task.starts, "start")
        first, by = (self.surrogate.prior.portfolio(PORTFOLIO), "portfolio") if self.has_history else ([], "")
        begun = {strategy for recipe in task.starts for strategy in recipe.strategies}
        if not self.has_history:
            first, by = [r for r in _one_of_each(task) if r.strategies[0] not in begun], "first single"
        self.beginning |= {recipe: by for recipe in first if recipe not in self.beginning}
        self._by: dict[str, str] = {}
        self._notes: dict[str, Any] = {}
        self._picks = 0

    def tell(self, seen: Seen) -> None:
        """Everybody learns of it; who proposed it is credited with what it gained over the best before."""
        before = self.surrogate.best_value()
        super().tell(seen)
        for searcher in (self.surrogate, *self.others.values()):
            searcher.tell(seen)
        credit = self.bandit.credits.get(self._by.get(seen.recipe.key, ""))
        if credit is not None:
            credit.measured += 1
            if seen.is_ok:
                credit.gained += max(0.0, seen.value - before)
                credit.best = max(credit.best, seen.value)

    def ask(self, count: int, is_open: IsOpen) -> list[Recipe]:
        """The next picks; several at once are chosen one after the other without knowing what the first will give."""
        chosen: list[Recipe] = []
        proposals: list[dict[str, Any]] = []
        extra: dict[str, Any] = {}

        def is_free(recipe: Recipe) -> bool:
            return recipe not in chosen and is_open(recipe)

        for _ in range(count):
            picked, by, more = self._pick(is_free)
            if picked is None:
                break
            self._by[picked.key] = by
            proposals.append({**self.surrogate.note(picked), "by": by})
            extra.update(more)
            chosen.append(picked)
            self._picks += 1
        self._notes = {"proposals": proposals, "proposers": self._account(), **extra}
        return chosen

    def _pick(self, is_open: IsOpen) -> tuple[Recipe | None, str, dict[str, Any]]:
        """One recipe, who proposed it, and what they have to say beyond the prediction."""
        waiting = next((recipe for recipe in self.beginning if is_open(recipe)), None)
        if waiting is not None:
            return waiting, self.beginning[waiting], {}
        if self.has_history and self._picks < len(self.beginning) + LIKELIEST:
            return self.surrogate.likeliest(is_open), "likeliest", {}
        if self.others and self._picks % OTHERS_EVERY == OTHERS_EVERY - 1:
            name = self.bandit.choose()
            self.bandit.credits[name].asked += 1
            found = self.others[name].ask(1, is_open)
            if found:
                return found[0], name, {name: self.others[name].notes()}
        found = self.surrogate.ask(1, is_open)
        return (found[0] if found else None), "surrogate", {}

    def largest_expected_gain(self, is_open: IsOpen) -> float:
        """What the surrogate still expects of the best open recipe, in log fitness."""
        return self.surrogate.largest_expected_gain(is_open)

    def notes(self) -> dict[str, Any]:
        """Who proposed what with which prediction, the proposers' account, and what the proposers asked have to say."""
        return self._notes

    def _account(self) -> dict[str, dict[str, float | None]]:
        return {
            name: {
                "asked": credit.asked,
                "measured": credit.measured,
                "gained": credit.gained,
                "best": credit.best if math.isfinite(credit.best) else None,
            }
            for name, credit in self.bandit.credits.items()
        }


def _one_of_each(task: Task) -> list[Recipe]:
    """The cheapest single setting of each strategy, the cheapest strategy first."""
    cheapest: dict[str, Recipe] = {}
    price: Callable[[Recipe], tuple[float, str]] = lambda recipe: (task.expected_s(recipe), recipe.key)  # noqa: E731
    for recipe in sorted(task.space.singles, key=price):
        cheapest.setdefault(recipe.steps[0].strategy, recipe)
    return list(cheapest.values())
