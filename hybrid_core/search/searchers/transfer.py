"""What other models teach about this one: a prior value for every recipe, and a small portfolio to begin with.

Each earlier model is turned into a Gaussian process of its own. Their means are mixed with non-negative weights that
start equal (the nearest counts twice) and then follow how well each of them ranks what was measured here: the ensemble
of Feurer et al. 2018 (RGPE, arXiv 1802.02219) with the guard that a prior which ranks no better than chance counts for
nothing. The portfolio is chosen greedily to be good on every earlier model at once (Feurer et al. 2022, Auto-sklearn
2.0): it needs nothing of this model, so it comes first.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hybrid_core.records import Recipe
from hybrid_core.search.searchers.base import Seen
from hybrid_core.search.searchers.gp import GaussianProcess
from hybrid_core.search.space import Space

Array = NDArray[np.float64]
# An earlier model with fewer measured recipes says too little.
LEAST_SEEN = 4
# Values measured here before the weights follow them.
LEAST_OWN = 4
NEAREST_COUNTS = 2.0


class Prior:
    """Predicted values of every recipe of the space, from what was measured on other models.

    Attributes:
        names: the earlier models that say something, nearest first.
        weights: how much each of them counts; they sum to 1, or to 0 where none ranks better than chance.
    """

    def __init__(self, space: Space, history: Mapping[str, Sequence[Seen]]) -> None:
        self._codes = np.array([space.encode(recipe) for recipe in space.recipes], dtype=np.int64)
        self._place = {recipe.key: i for i, recipe in enumerate(space.recipes)}
        self._recipes = space.recipes
        usable = {name: known for name, seen in history.items() if len(known := known_here(space, seen)) >= LEAST_SEEN}
        self.names = tuple(usable)
        self._means = np.array([self._mean_of(space, seen) for seen in usable.values()])
        self._failed = _failures(space, history)
        self.weights = _starting_weights(len(self.names))

    def _mean_of(self, space: Space, seen: Sequence[Seen]) -> Array:
        codes = [space.encode(s.recipe) for s in seen]
        fitted = GaussianProcess().fit(codes, [s.value for s in seen], [s.sd for s in seen])
        return fitted.predict(self._codes)[0]

    @property
    def means(self) -> Array:
        """What each earlier model alone predicts of every recipe, shape (names, recipes)."""
        return self._means

    @property
    def is_empty(self) -> bool:
        """True when no earlier model says anything, or none that ranks better than chance here."""
        return not len(self.names) or not self.weights.any()

    def values(self) -> Array:
        """The prior value of every recipe of the space, in its order; zeros without history."""
        if self.is_empty:
            return np.zeros(len(self._recipes))
        mixed: Array = self.weights @ self._means
        return mixed

    def chance_ok(self) -> Array:
        """The share of earlier attempts with the same steps that broke no bound, towards 1 where few are known."""
        return self._failed

    def learn(self, told: Sequence[Seen]) -> None:
        """Follow how well each earlier model ranks what was measured here."""
        own = [seen for seen in told if np.isfinite(seen.value)]
        if not len(self.names) or len(own) < LEAST_OWN:
            return
        places = [self._place[seen.recipe.key] for seen in own]
        truth = np.array([seen.value for seen in own])
        skill = np.array([max(0.0, rank_agreement(means[places], truth)) for means in self._means])
        weights = _starting_weights(len(self.names)) * skill**2
        # A little trust in a mixture without skill would only blur the others: below chance is nothing.
        self.weights = weights / weights.sum() if weights.sum() > 0 else np.zeros(len(weights))

    def portfolio(self, size: int) -> list[Recipe]:
        """At most `size` recipes that together are good on every earlier model; fewer where more add nothing."""
        if self.is_empty:
            return []
        means = self._means * (self._failed > 0.5)
        chosen: list[int] = []
        reached = np.zeros(len(self.names))
        for _ in range(size):
            gains = self.weights @ np.maximum(means - reached[:, None], 0.0)
            best = int(gains.argmax())
            if gains[best] <= 1e-9:
                break
            chosen.append(best)
            reached = np.maximum(reached, means[:, best])
        return [self._recipes[i] for i in chosen]


def rank_agreement(predicted: Array, truth: Array) -> float:
    """Kendall's tau-a: the share of pairs in the right order minus the share in the wrong one; ties count for neither.

    >>> rank_agreement(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.3, 0.2]))
    0.3333333333333333
    """
    pairs = list(itertools.combinations(range(len(truth)), 2))
    if not pairs:
        return 0.0
    left, right = np.array(pairs).T
    agreement = np.sign(predicted[left] - predicted[right]) * np.sign(truth[left] - truth[right])
    return float(agreement.mean())


def _starting_weights(count: int) -> Array:
    weights = np.ones(count)
    weights[:1] = NEAREST_COUNTS
    return weights / weights.sum() if count else weights


def known_here(space: Space, seen: Sequence[Seen]) -> list[Seen]:
    """What was measured of recipes that this space has too, the untouched model aside."""
    return [s for s in seen if np.isfinite(s.value) and s.recipe.key in space.by_key and not s.recipe.is_baseline]


def _failures(space: Space, history: Mapping[str, Sequence[Seen]]) -> Array:
    """For every recipe the chance that no single step of it broke a bound, from all earlier attempts of the steps."""
    tried: dict[str, list[float]] = {}
    for seen in itertools.chain.from_iterable(history.values()):
        if len(seen.recipe.steps) == 1:
            tried.setdefault(seen.recipe.key, []).append(0.0 if seen.is_wrong else 1.0)
    # Two earlier successes are assumed: what failed once on another model is doubtful, not impossible.
    chance = {key: (2.0 + sum(outcomes)) / (2.0 + len(outcomes)) for key, outcomes in tried.items()}
    found = [
        np.prod([chance.get(Recipe((step,)).key, 1.0) for step in recipe.steps] or [1.0]) for recipe in space.recipes
    ]
    return np.array(found, dtype=np.float64)
