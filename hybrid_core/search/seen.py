"""What a searcher is told: trials of this run and rows of earlier ones, under this run's weights and bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hybrid_core.adaptive.history import HistoryRow
from hybrid_core.config import HybridOptimizationConfig, RunConfig
from hybrid_core.fitness import active_weights, baseline_fitness, shortfall
from hybrid_core.records import Estimate, Recipe, Trial
from hybrid_core.search.bench import Bench
from hybrid_core.search.searchers.base import Seen

# What the name of an earlier model ends with when it was measured elsewhere.
SHIPPED = " (shipped)"
# Half the width of a 95 % interval of a normal value, in standard deviations.
HALF_WIDTH_SDS = 1.96


def seen_of_trial(trial: Trial, bench: Bench) -> Seen:
    """A trial of this run."""
    book, options, measured = bench.book, bench.options, trial.measurement
    fitness = book.fitness(trial)
    if trial.recipe.is_baseline:
        return Seen(trial.recipe, 0.0, objectives=(0.0, 0.0), seconds=trial.seconds)
    if not trial.is_ok or fitness is None or measured is None or not _is_positive(fitness):
        return Seen.failed(trial.recipe, trial.seconds)
    lacks = shortfall(measured.accuracy_preservation, measured.speed_improvement, options)
    # Below the performance threshold counts too; how far does not matter where nothing else is broken.
    unfit = lacks == 0.0 and book.why_not(trial) is not None
    return Seen(
        trial.recipe,
        math.log(fitness.value / baseline_fitness(options)),
        log_sd(fitness),
        (math.log(measured.speed_improvement.value), math.log(measured.memory_efficiency.value)),
        1.0 if unfit else lacks,
        trial.seconds,
        measured.accuracy_preservation.low < options.min_accuracy_preservation,
    )


def earlier_models(history: Sequence[HistoryRow], config: RunConfig, family: str) -> dict[str, tuple[Seen, ...]]:
    """What was seen of each earlier model, size and workload on this run's device, the nearest first.

    Rows come newest first; of a recipe that was measured twice on a subject the newest counts. What was shipped of a
    subject comes after what was measured here of others as near, and is left out where the subject itself was.
    """
    groups: dict[tuple[int, bool, str], dict[str, Seen]] = {}
    here = {subject_name(row) for row in history if not row.is_shipped and row.device == config.device}
    for row in history:
        name = subject_name(row)
        if row.device != config.device or (row.is_shipped and name in here):
            continue
        alike = (row.model == config.model, row.family == family, row.workload == config.workload)
        nearness = sum(alike) + (alike[0] and row.size == config.size)
        known = groups.setdefault((-nearness, row.is_shipped, name), {})
        known.setdefault(row.recipe_key, seen_of_row(row, config.options))
    return {name + SHIPPED * told: tuple(known.values()) for (_, told, name), known in sorted(groups.items())}


def subject_name(row: HistoryRow) -> str:
    """Model, size and workload of a row, for a person."""
    return " ".join(filter(None, (row.model, row.size))) + f", {row.workload}"


def seen_of_row(row: HistoryRow, options: HybridOptimizationConfig) -> Seen:
    """An earlier trial under the weights and bounds of the present run."""
    recipe = Recipe.from_key(row.recipe_key)
    ratios = {"speed": row.speed, "memory": row.memory, "accuracy": row.accuracy}
    terms = [(weight, ratios[name]) for name, weight in active_weights(options).items() if weight > 0]
    fitness = Estimate(*(sum(w * getattr(ratio, end) for w, ratio in terms) for end in ("value", "low", "high")))
    if not row.is_ok or not _is_positive(fitness) or not row.memory.value > 0:
        return Seen.failed(recipe)
    return Seen(
        recipe,
        math.log(fitness.value / baseline_fitness(options)),
        log_sd(fitness),
        (math.log(row.speed.value), math.log(row.memory.value)),
        shortfall(row.accuracy, row.speed, options),
        is_inaccurate=row.accuracy.low < options.min_accuracy_preservation,
    )


def log_sd(ratio: Estimate) -> float:
    """One standard deviation of the logarithm by the 95 % interval; 0 where the ends are unknown or not positive."""
    if not (ratio.low > 0 and math.isfinite(ratio.high)):
        return 0.0
    return (math.log(ratio.high) - math.log(ratio.low)) / 2 / HALF_WIDTH_SDS


def _is_positive(fitness: Estimate) -> bool:
    return math.isfinite(fitness.value) and fitness.value > 0
