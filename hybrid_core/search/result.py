"""What a search hands back, and the sentence of why it stopped; plain data so that every layer can carry it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hybrid_core.records import BASELINE_KEY, Estimate, Recipe, Trial, Verdict, to_json

CANCELLED = "cancelled"


@dataclass(frozen=True)
class Stop:
    """Why a search ended.

    `kind` is one of converged, max_iterations, budget, exhausted, one_round, cancelled and failed.
    """

    kind: str
    sentence: str

    @property
    def is_break(self) -> bool:
        """True when the search was broken off, so that there is nothing to crown."""
        return self.kind in (CANCELLED, "failed")


@dataclass(frozen=True)
class SearchResult:
    """The outcome of one search.

    `winner` is the empty recipe when nothing beat the untouched model; `sentence` says why it won. `winner_trial`
    is its FINAL trial (None when the final race did not reach it). `stop_reason` is a sentence, or exactly "cancelled".
    `front_keys` name the recipes within the bounds that no other dominates. `failed` is True when the untouched
    model itself could not be measured or the device was lost. `noise` says how far processes differ here and on what
    that rests, `detectable` the smallest gain in speed that the race could see, `cost` where the wall time went.
    """

    winner: Recipe
    sentence: str
    stop_reason: str
    stopped_by: str
    iterations: int = 0
    noise_floor: float = 0.0
    baseline_fitness: float = 0.0
    fitness: Estimate | None = None
    winner_trial: Trial | None = None
    final_trials: tuple[Trial, ...] = ()
    front_keys: tuple[str, ...] = ()
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    recommended_keys: tuple[str, ...] = ()
    elapsed_s: float = 0.0
    failed: bool = False
    noise: dict[str, Any] = field(default_factory=dict)
    detectable: float | None = None
    cost: dict[str, Any] = field(default_factory=dict)

    @property
    def improved(self) -> bool:
        """True when a recipe, and not the untouched model, won."""
        return not self.winner.is_baseline

    def to_event(self) -> dict[str, Any]:
        """The data of the "result" event: everything a page needs without reading the trials again."""
        measurement = self.winner_trial.measurement if self.winner_trial else None
        ratios = ("speed_improvement", "memory_efficiency", "accuracy_preservation")
        return {
            "winner": to_json(self.winner),
            "winner_key": self.winner.key,
            "baseline_key": BASELINE_KEY,
            "improved": self.improved,
            "fitness": to_json(self.fitness),
            "baseline_fitness": self.baseline_fitness,
            **{name: to_json(getattr(measurement, name)) if measurement else None for name in ratios},
            "verdicts": to_json(self.verdicts),
            "sentence": self.sentence,
            "stop_reason": self.stop_reason,
            "stopped_by": self.stopped_by,
            "noise_floor": self.noise_floor,
            "front": list(self.front_keys),
            "winner_trial_id": self.winner_trial.trial_id if self.winner_trial else None,
            "final_trials": [trial.trial_id for trial in self.final_trials],
            "final_keys": [trial.recipe.key for trial in self.final_trials],
            "counts": dict(self.counts),
            "recommended": list(self.recommended_keys),
            "iterations": self.iterations,
            "elapsed_s": self.elapsed_s,
            "failed": self.failed,
            "noise": to_json(self.noise),
            "detectable": self.detectable,
            "cost": to_json(self.cost),
        }
