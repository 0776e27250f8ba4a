"""Monte Carlo tree search over slots: decide one strategy after the other, and go where good recipes were seen.

A node is the prefix of a recipe's code, so equal recipes are one leaf. PUCT chooses among the choices that lead to a
legal recipe; a leaf is scored by a surrogate (mean + kappa sd) and measured only when it is asked for; a node is worth
w max + (1 - w) mean of its leaves, because one player wants the best leaf and not the average (Silver et al. 2017 for
PUCT; Schadd et al. 2008 for the single player). In a space that can be listed, the surrogate's best recipe can be found
without a tree: finding it too is the test of this file, and not an achievement.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid_core.records import Recipe
from hybrid_core.search.searchers.base import IsOpen, Remembering, Seen, Task
from hybrid_core.search.searchers.gp import Array, GaussianProcess
from hybrid_core.search.space import Space

Code = tuple[int, ...]
# Mean and standard deviation of the values at codes.
Surrogate = Callable[[Sequence[Code]], tuple[Array, Array]]
# Fits a surrogate to codes, values and standard deviations.
Fit = Callable[[Sequence[Code], Sequence[float], Sequence[float]], Surrogate]
# How promising each choice of the next slot is, off first; need not sum to 1.
Prior = Callable[[Code], Sequence[float]]

SIMULATIONS = 300
EXPLORATION = 1.0
MAX_SHARE = 0.75
KAPPA = 1.0
# A recipe that failed or lost accuracy counts as this much worse than the worst other one, in log fitness, and is
# believed this little: one failure may be the recipe's own, several that share a step outweigh it.
FAILURE_MARGIN = 0.1
FAILURE_SD = 0.3


@dataclass
class Node:
    """What the leaves below one prefix scored; `worth` is w max + (1 - w) mean of them."""

    visits: int = 0
    total: float = 0.0
    best: float = -math.inf
    worth: float = 0.0

    def add(self, score: float) -> None:
        """Take note of one more leaf."""
        self.visits, self.total, self.best = self.visits + 1, self.total + score, max(self.best, score)
        self.worth = MAX_SHARE * self.best + (1 - MAX_SHARE) * self.total / self.visits


class SlotTree:
    """The tree of one search; `leaves` are the codes that were scored. Every simulation scores a new leaf."""

    def __init__(
        self,
        choices: Mapping[Code, Sequence[int]],
        score: Callable[[Code], float],
        rng: random.Random,
        prior: Prior | None = None,
    ) -> None:
        """`choices` is `choices_of` a space."""
        self.score, self.rng, self.prior = score, rng, prior
        self.nodes: dict[Code, Node] = {}
        self.leaves: dict[Code, float] = {}
        self._worst = math.inf
        self._left = {prefix: list(below) for prefix, below in choices.items()}

    def close(self, leaf: Code) -> None:
        """Never visit this leaf again, nor a prefix below which nothing is left."""
        for length in range(len(leaf) - 1, -1, -1):
            left = self._left[leaf[:length]]
            left.remove(leaf[length])
            if left:
                return

    def simulate(self) -> bool:
        """Walk down to a new leaf, score it, and tell every prefix on the way; False when no leaf is left."""
        prefix: Code = ()
        while (left := self._left.get(prefix)) is not None:
            if not left:
                return False
            prefix = (*prefix, self._select(prefix, left))
        value = self.leaves[prefix] = self.score(prefix)
        self._worst = min(self._worst, value)
        self.close(prefix)
        for length in range(len(prefix) + 1):
            self.nodes.setdefault(prefix[:length], Node()).add(value)
        return True

    def _select(self, prefix: Code, choices: Sequence[int]) -> int:
        """PUCT: argmax of Q + c P sqrt(N) / (1 + n), Q scaled to what the tree has seen; ties at random."""
        parent = self.nodes.get(prefix, Node())
        # A choice that was never tried is worth what its parent is.
        unseen = self._scaled(parent) if parent.visits else 0.0
        spread, chances = EXPLORATION * math.sqrt(max(1, parent.visits)), self._chances(prefix, choices)

        def upper(i: int) -> tuple[float, float]:
            child = self.nodes.get((*prefix, i))
            worth, visits = (unseen, 0) if child is None else (self._scaled(child), child.visits)
            return worth + spread * chances[i] / (1 + visits), self.rng.random()

        return max(choices, key=upper)

    def _chances(self, prefix: Code, choices: Sequence[int]) -> dict[int, float]:
        """The prior over the choices that are left; even where there is none or it leaves them nothing."""
        weights = self.prior(prefix) if self.prior else ()
        total = math.fsum(weights[i] for i in choices) if weights else 0.0
        return {i: weights[i] / total if total > 0 else 1 / len(choices) for i in choices}

    def _scaled(self, node: Node) -> float:
        low, high = self._worst, self.nodes[()].best
        return (node.worth - low) / (high - low) if high > low else 0.5


def choices_of(space: Space) -> dict[Code, list[int]]:
    """For every prefix of a legal recipe's code the choices of its next slot that `Space.allowed` lets through."""
    if not space.slots:
        return {(): []}
    found: dict[Code, list[int]] = {}
    prefixes: list[Code] = [()]
    while prefixes:
        prefix = prefixes.pop()
        found[prefix] = [i for i, may in enumerate(space.allowed(prefix)) if may]
        if len(prefix) + 1 < len(space.slots):
            prefixes += [(*prefix, i) for i in found[prefix]]
    return found


class TreeSearch(Remembering):
    """Fits the surrogate to what was told, grows a tree over the open recipes, and asks for its best leaves."""

    def __init__(self, task: Task, fit: Fit | None = None, prior: Prior | None = None) -> None:
        """`fit` is a Gaussian process and `prior` even where they are not given."""
        super().__init__(task)
        self.fit, self.prior = fit or _process, prior
        self._choices = choices_of(task.space)
        self._recipes = {task.space.encode(recipe): recipe for recipe in task.space.recipes}
        self._notes: dict[str, Any] = {}

    def ask(self, count: int, is_open: IsOpen) -> list[Recipe]:
        """The best leaves of one tree of `SIMULATIONS`."""
        # All at once, because that costs less than a call per leaf; the tree sees the scores of what it visits alone.
        mean, sd = self.surrogate()(list(self._recipes))
        predicted = {code: (float(m), float(s)) for code, m, s in zip(self._recipes, mean, sd, strict=True)}
        tree = SlotTree(self._choices, lambda code: _upper(*predicted[code]), self.rng, self.prior)
        for code, recipe in self._recipes.items():
            if recipe.is_baseline or not is_open(recipe):
                tree.close(code)
        for _ in range(max(SIMULATIONS, count)):
            if not tree.simulate():
                break
        best = sorted(tree.leaves, key=lambda code: -tree.leaves[code])[:count]
        wanted = {code: self._recipes[code] for code in best}
        self._notes = {
            "simulations": len(tree.leaves),
            "nodes": len(tree.nodes),
            "predicted": {recipe.key: predicted[code] for code, recipe in wanted.items()},
        }
        return list(wanted.values())

    def surrogate(self) -> Surrogate:
        """The surrogate of what was told so far."""
        known = [seen for seen in self.told if not seen.recipe.is_baseline]
        bad = min((_worth(seen) for seen in known if not seen.is_wrong), default=0.0) - FAILURE_MARGIN
        codes = [self.space.encode(seen.recipe) for seen in known]
        values = [bad if seen.is_wrong else _worth(seen) for seen in known]
        return self.fit(codes, values, [FAILURE_SD if seen.is_wrong else seen.sd for seen in known])

    def notes(self) -> dict[str, Any]:
        """How large the last tree was, and recipe -> (mean, sd) of what it asked for."""
        return self._notes


def _worth(seen: Seen) -> float:
    return seen.value - seen.violation


def _upper(mean: float, sd: float) -> float:
    return mean + KAPPA * sd


def _process(codes: Sequence[Code], values: Sequence[float], sds: Sequence[float]) -> Surrogate:
    return GaussianProcess().fit(codes, values, sds).predict
