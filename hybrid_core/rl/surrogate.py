"""What an unmeasured recipe would probably score, from the few that were measured.

A ridge regression on one-hot settings, repeated on bootstrap samples: the mean of the ensemble is the guess, its
spread is the doubt, and `mean - kappa * sd` is what a rollout earns, so that a policy is not paid for exploiting the
model's ignorance (Hoerl and Kennard 1970; bootstrap: Efron 1979). Settings add up here; interactions are only known
once measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hybrid_core.errors import InvalidInput
from hybrid_core.records import Recipe

ENSEMBLE_SIZE = 12
RIDGE = 0.1


class Surrogate(Protocol):
    """Anything that says what a recipe is probably worth over the baseline."""

    def predict(self, recipe: Recipe) -> tuple[float, float]:
        """Mean and standard deviation."""
        ...


class Predictions:
    """A surrogate whose answers were computed elsewhere, all at once: recipe key -> (mean, sd)."""

    def __init__(self, answers: Mapping[str, tuple[float, float]]) -> None:
        self._answers = answers

    def predict(self, recipe: Recipe) -> tuple[float, float]:
        """The answer for this recipe; a recipe without one is refused."""
        if recipe.key not in self._answers:
            raise InvalidInput(f"recipe {recipe.key!r:.120} has no prediction; give one for every legal recipe")
        return self._answers[recipe.key]


class RidgeEnsemble:
    """`predict(recipe)` -> (mean, sd) of the score; fitted once on `scores`, recipe key -> measured score."""

    def __init__(self, scores: Mapping[str, float], seed: int = 0) -> None:
        if not scores:
            raise InvalidInput("a surrogate needs at least one measured recipe; measure the baseline first")
        recipes = [Recipe.from_key(key) for key in scores]
        self._columns = {step: i for i, step in enumerate(sorted({s for r in recipes for s in r.steps}))}
        features = np.stack([self._features(recipe) for recipe in recipes])
        targets = np.array(list(scores.values()), dtype=np.float64)
        rng = np.random.default_rng(seed)
        draws = [np.arange(len(targets))] + [
            rng.integers(0, len(targets), len(targets)) for _ in range(ENSEMBLE_SIZE - 1)
        ]
        self._weights = np.stack([_ridge(features[d], targets[d]) for d in draws])

    def predict(self, recipe: Recipe) -> tuple[float, float]:
        """Mean and standard deviation over the ensemble."""
        answers = self._weights @ self._features(recipe)
        return float(answers.mean()), float(answers.std())

    def _features(self, recipe: Recipe) -> NDArray[np.float64]:
        row = np.zeros(len(self._columns) + 1)
        row[-1] = 1.0
        for step in recipe.steps:
            if step in self._columns:
                row[self._columns[step]] = 1.0
        return row


def _ridge(features: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of the penalised least squares; the last column is the intercept and goes unpenalised."""
    penalty = np.full(features.shape[1], RIDGE)
    penalty[-1] = 1e-9
    weights = np.linalg.solve(features.T @ features + np.diag(penalty), features.T @ targets)
    return weights.astype(np.float64)


def failure_score(ok_scores: Sequence[float], noise: float) -> float:
    """What a recipe that failed earns: clearly below the worst that worked, but finite, so learning stays stable."""
    spread = max(ok_scores) - min(ok_scores)
    return min(ok_scores) - max(spread, noise)
