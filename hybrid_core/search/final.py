"""The final race: who enters it, and who wins by its numbers alone.

The best of many noisy scores is too good to be true (winner's curse), so what the search measured only decides who is
raced again, and the numbers of the race are the ones published. Two results that overlap are a tie, and a tie goes
to the recipe with fewer steps: every step is something to maintain. With several finalists one of them looks faster by
chance more often than each alone would, so a gain in speed must also pass Holm's correction (Scand. J. Stat. 6, 1979).
What another process might find widens an interval, and must not make a slower recipe a winner for its memory: one that
every process measured below the bound on speed, by its own interval, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.fitness import (
    active_weights,
    baseline_fitness,
    fitness_of,
    infeasible_reason,
    objectives_of,
    verdicts_of,
)
from hybrid_core.measurement.rounds import detectable, log_half_width
from hybrid_core.measurement.statistics import holm
from hybrid_core.records import Estimate, Measurement, Recipe, Trial, Verdict
from hybrid_core.search.speeds import BETWEEN, estimates_of, usable

FINALISTS = 3
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Crowned:
    """The winner of the race and the sentence that explains it."""

    winner: Recipe
    sentence: str
    trial: Trial | None = None
    fitness: Estimate | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)


def overlap(a: Estimate, b: Estimate) -> bool:
    """True when the two intervals share a point."""
    return a.low <= b.high and b.low <= a.high


def may_beat_baseline(
    measurement: Measurement, options: HybridOptimizationConfig, noise_floors: Mapping[str, float]
) -> bool:
    """True when the intervals leave room for a win: a larger fitness and a gain beyond the noise in what counts."""
    if not fitness_of(measurement, options).high > baseline_fitness(options):
        return False
    ratios = objectives_of(measurement)
    counted = [name for name, weight in active_weights(options).items() if weight > 0]
    return any(ratios[name].high - 1.0 > noise_floors[name] for name in counted)


def choose_finalists(
    trials: Sequence[Trial],
    options: HybridOptimizationConfig,
    noise_floors: Mapping[str, float],
    most: int = FINALISTS,
) -> list[Recipe]:
    """The recipes to race, best first: the fittest feasible ones that may still beat the untouched model.

    If none of them is the simplest recipe whose interval overlaps with the best one's, that one is added.
    """
    scored = []
    for trial in trials:
        if trial.measurement is not None and may_beat_baseline(trial.measurement, options, noise_floors):
            if not trial.recipe.is_baseline and infeasible_reason(trial, options, noise_floors["speed"]) is None:
                scored.append((trial.recipe, fitness_of(trial.measurement, options)))
    scored.sort(key=lambda item: (-item[1].value, len(item[0].steps), item[0].key))
    chosen = [recipe for recipe, _ in scored[:most]]
    ties = [(recipe, fitness) for recipe, fitness in scored if overlap(fitness, scored[0][1])]
    simplest = min(ties, key=lambda item: (len(item[0].steps), -item[1].value), default=None)
    if simplest is not None and len(simplest[0].steps) < min(len(recipe.steps) for recipe in chosen):
        chosen.append(simplest[0])
    return chosen


def crown(finals: Sequence[Trial], options: HybridOptimizationConfig, noise_floors: Mapping[str, float]) -> Crowned:
    """The winner among the FINAL trials, or the untouched model with the reason why nothing beat it."""
    entries = [trial for trial in finals if not trial.recipe.is_baseline]
    verdicts = final_verdicts(entries, noise_floors)
    refused = {trial.recipe.key: _refusal(trial, options, noise_floors, verdicts) for trial in entries}
    standing = [trial for trial in entries if refused[trial.recipe.key] is None]
    if not standing:
        return _untouched(finals, refused, options)
    fitness = {trial.recipe.key: _fitness(trial, options) for trial in standing}
    best = max(standing, key=lambda trial: (fitness[trial.recipe.key].value, -len(trial.recipe.steps)))
    tied = [trial for trial in standing if overlap(fitness[trial.recipe.key], fitness[best.recipe.key])]
    winner = min(tied, key=lambda t: (len(t.recipe.steps), -fitness[t.recipe.key].value, t.recipe.key))
    sentence = _praise(winner, fitness[winner.recipe.key], options) + _resolution([winner])
    if len(tied) > 1:
        others = ", ".join(t.recipe.key for t in tied if t is not winner)
        sentence += f"; tied within the intervals with {others}: the tie went to fewer steps, then to the higher value"
    key = winner.recipe.key
    return Crowned(winner.recipe, sentence, winner, fitness[key], verdicts[key])


def final_verdicts(entries: Sequence[Trial], noise_floors: Mapping[str, float]) -> dict[str, dict[str, Verdict]]:
    """The verdicts of each measured finalist, where a gain that several finalists may show by chance is a tie."""
    found = {t.recipe.key: verdicts_of(t.measurement, dict(noise_floors)) for t in entries if t.measurement is not None}
    chances = {
        t.recipe.key: float(t.measurement.environment[BETWEEN]["p_value"])
        for t in entries
        if t.measurement is not None and t.is_ok and "p_value" in t.measurement.environment.get(BETWEEN, {})
    }
    for key, chance in zip(chances, holm(list(chances.values())), strict=True):
        if chance > SIGNIFICANCE:
            found[key]["speed"] = Verdict.TIE
    return found


def detectable_gain(finals: Sequence[Trial]) -> float | None:
    """The smallest gain in speed that the least certain finalist would have shown; None where none could.

    Without a finalist it is that of the untouched model against itself.
    """
    good = [t for t in finals if t.is_ok and t.measurement is not None and usable(t.measurement)]
    chosen = [t for t in good if not t.recipe.is_baseline] or good
    widths = [log_half_width(t.measurement.speed_improvement) for t in chosen if t.measurement is not None]
    gain = detectable(max(widths)) if widths else math.inf
    return gain if math.isfinite(gain) else None


def _refusal(
    trial: Trial,
    options: HybridOptimizationConfig,
    noise_floors: Mapping[str, float],
    found: Mapping[str, Mapping[str, Verdict]],
) -> str | None:
    floor = noise_floors["speed"]
    reason = infeasible_reason(trial, options, floor)
    if reason is not None or trial.measurement is None:
        return reason
    rounds, bound = estimates_of(trial.measurement), options.min_speed_improvement
    if all(one.high < bound for one in rounds):
        speeds = ", ".join(f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" for one in rounds)
        who = "every process" if len(rounds) > 1 else "its process"
        return f"{who} measured its speed below the bound {bound:g}: {speeds}"
    fitness = fitness_of(trial.measurement, options)
    if fitness.value <= baseline_fitness(options):
        return f"fitness {fitness.value:.3f} does not exceed the untouched model's {baseline_fitness(options):.3f}"
    verdicts = found[trial.recipe.key]
    counted = [name for name, weight in active_weights(options).items() if weight > 0]
    if not any(verdicts[name] is Verdict.BETTER for name in counted):
        speed = trial.measurement.speed_improvement
        return (
            f"no difference in {' or '.join(counted)} exceeds the noise (speed {speed.value:.3f}, 95 % interval "
            f"{speed.low:.3f} to {speed.high:.3f}, A/A noise floor {floor:.3f}{_resolution([trial], ', ')})"
        )
    return None


def _untouched(
    finals: Sequence[Trial], refused: Mapping[str, str | None], options: HybridOptimizationConfig
) -> Crowned:
    own = next((trial for trial in finals if trial.recipe.is_baseline and trial.is_ok), None)
    if refused:
        reasons = "; ".join(f"{key}: {reason}" for key, reason in refused.items())
        sentence = f"nothing beat the untouched model in the final race ({reasons})"
    else:
        sentence = "nothing was found that may beat the untouched model, so no candidate entered the final race"
    return Crowned(Recipe(), sentence, own, _fitness(own, options) if own else None)


def _praise(trial: Trial, fitness: Estimate, options: HybridOptimizationConfig) -> str:
    assert trial.measurement is not None
    ratios = ", ".join(
        f"{name} {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
        for name, ratio in objectives_of(trial.measurement).items()
    )
    return (
        f"{trial.recipe.key} won the final race with fitness {fitness.value:.3f} ({fitness.low:.3f} to "
        f"{fitness.high:.3f}) against {baseline_fitness(options):.3f} for the untouched model: {ratios}"
    )


def _resolution(trials: Sequence[Trial], start: str = "; ") -> str:
    """In how many processes, and which gain would not have been seen."""
    gain, counts = detectable_gain(trials), [len(estimates_of(t.measurement)) for t in trials if t.measurement]
    if gain is None:
        return ""
    processes = f"{max(counts)} processes" if max(counts) > 1 else "one process"
    return f"{start}from {processes}, in which differences in speed below {gain:.1%} could not have been seen"


def _fitness(trial: Trial, options: HybridOptimizationConfig) -> Estimate:
    assert trial.measurement is not None
    return fitness_of(trial.measurement, options)
