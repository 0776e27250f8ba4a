"""Scoring candidates and choosing one, in the shapes the document gives them.

A candidate is a dictionary with measured ratios. The choice is made by the same selection methods the search uses,
and the position it yields is a position in the list that was given, so every candidate, ensembles too, can be chosen.
A missing ratio is refused: the original code read it as 1.0, which made an unmeasured candidate look like the
untouched model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.fitness import active_weights
from hybrid_core.records import STRATEGY_NAMES, Measurement, Recipe, Step, Trial
from hybrid_core.selection.base import ScoredCandidate
from hybrid_core.selection.registry import choose_parents

METRIC_OF = {"speed": "speed_improvement", "memory": "memory_efficiency", "accuracy": "accuracy_preservation"}
Candidate = dict[str, Any]


class CandidateSelector:
    """Scores candidates and chooses one. The same seed and calls give the same choices.

    Attributes:
        selection_history: one entry per choice: method, strategy, recipe, fitness.
        last_details: what the last choice can say about itself (probabilities, or what the policy learned).
    """

    def __init__(self, config: HybridOptimizationConfig | None = None, seed: int = 0) -> None:
        self.config = config or HybridOptimizationConfig()
        self.selection_history: list[dict[str, Any]] = []
        self.last_details: dict[str, Any] = {}
        self._rng = random.Random(seed)

    def evaluate_candidate_fitness(self, candidate: Mapping[str, Any]) -> float:
        """`w_speed * speed_improvement + w_memory * memory_efficiency + w_accuracy * accuracy_preservation`.

        Raises:
            InvalidInput: a ratio that counts is missing or no finite number; it is never assumed to be 1.0.
        """
        total = 0.0
        for objective, weight in active_weights(self.config).items():
            if weight > 0:
                total += weight * _ratio(candidate, METRIC_OF[objective])
        return total

    def select_candidate(
        self, candidates: Sequence[Candidate], fitness_scores: Sequence[float] | None = None
    ) -> Candidate | None:
        """Choose with the configured method: reinforcement learning when enabled, else `selection_strategy`.

        With `enable_candidate_selection` off the fittest is taken. None when there are no candidates. "pareto" compares
        the measured ratios of candidates that carry their trial, not the scores.
        """
        if not self.config.enable_candidate_selection:
            return self._fittest(candidates, fitness_scores)
        return self._choose(self.config.selection_method, candidates, fitness_scores)

    def tournament_selection(
        self, candidates: Sequence[Candidate], fitness_scores: Sequence[float] | None = None
    ) -> Candidate | None:
        """The winner of one tournament of `tournament_size` candidates drawn at random."""
        return self._choose("tournament", candidates, fitness_scores)

    def roulette_selection(
        self, candidates: Sequence[Candidate], fitness_scores: Sequence[float] | None = None
    ) -> Candidate | None:
        """A draw whose chances grow with fitness."""
        return self._choose("roulette", candidates, fitness_scores)

    def rank_selection(
        self, candidates: Sequence[Candidate], fitness_scores: Sequence[float] | None = None
    ) -> Candidate | None:
        """A draw whose chances fall evenly with the rank."""
        return self._choose("rank", candidates, fitness_scores)

    def rl_enhanced_selection(
        self, candidates: Sequence[Candidate], fitness_scores: Sequence[float] | None = None
    ) -> Candidate | None:
        """A policy trained on these candidates chooses; `last_details` tells how it was trained.

        Raises:
            InvalidInput: `enable_rl_optimization` is off.
        """
        return self._choose("rl", candidates, fitness_scores)

    def _choose(
        self, method: str, candidates: Sequence[Candidate], fitness_scores: Sequence[float] | None
    ) -> Candidate | None:
        scores = self._checked_scores(candidates, fitness_scores)
        if not candidates:
            self.last_details = {}
            return None
        scored = [
            ScoredCandidate(_recipe_of(candidate), score, measurement=_measurement_of(candidate))
            for candidate, score in zip(candidates, scores, strict=True)
        ]
        choice = choose_parents(method, scored, 1, self._rng, self.config)
        # By identity: two candidates may have equal recipes and scores.
        position = next(i for i, s in enumerate(scored) if s is choice.parents[0])
        return self._record(method, candidates[position], scores[position], choice.details)

    def _fittest(self, candidates: Sequence[Candidate], fitness_scores: Sequence[float] | None) -> Candidate | None:
        scores = self._checked_scores(candidates, fitness_scores)
        if not candidates:
            return None
        best = max(range(len(scores)), key=scores.__getitem__)
        return self._record("fittest", candidates[best], scores[best], {})

    def _record(self, method: str, chosen: Candidate, fitness: float, details: Mapping[str, Any]) -> Candidate:
        self.last_details = dict(details)
        self.selection_history.append(
            {
                "method": method,
                "strategy": chosen.get("strategy"),
                "recipe": _recipe_of(chosen).to_dict(),
                "fitness": fitness,
            }
        )
        return chosen

    def _checked_scores(self, candidates: Sequence[Candidate], fitness_scores: Sequence[float] | None) -> list[float]:
        if fitness_scores is None:
            return [self.evaluate_candidate_fitness(candidate) for candidate in candidates]
        if len(fitness_scores) != len(candidates):
            raise InvalidInput(
                f"{len(fitness_scores)} fitness_scores for {len(candidates)} candidates; give one score per candidate"
            )
        for position, score in enumerate(fitness_scores):
            if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
                raise InvalidInput(f"fitness_scores[{position}]={score!r:.40} is not allowed; give a finite number")
        return [float(score) for score in fitness_scores]


def _ratio(candidate: Mapping[str, Any], name: str) -> float:
    value = candidate.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        known = ", ".join(METRIC_OF.values())
        raise InvalidInput(f"candidate's {name}={value!r:.40} is not allowed; give measured numbers for {known}")
    return float(value)


def _measurement_of(candidate: Mapping[str, Any]) -> Measurement | None:
    """What was measured of it: `generate_optimization_candidates` gives the trial along, other sources may not."""
    trial = candidate.get("trial")
    return trial.measurement if isinstance(trial, Trial) else None


def _recipe_of(candidate: Mapping[str, Any]) -> Recipe:
    """The candidate's recipe; one that only names its strategies stands for them with a setting of its own."""
    steps = candidate.get("recipe")
    if steps is not None:
        return Recipe.from_dict(steps)
    names = [name for name in STRATEGY_NAMES if name in str(candidate.get("strategy", ""))]
    if not names and candidate.get("strategy") not in ("none", "baseline"):
        raise InvalidInput(
            f"candidate has no recipe and strategy={candidate.get('strategy')!r:.60}; give recipe={{strategy: setting}}"
        )
    return Recipe(tuple(Step(name, "given") for name in names))
