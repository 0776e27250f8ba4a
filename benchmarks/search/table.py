"""A measured table as searches are replayed over it: what a trial would have shown, and what its recipe is worth.

Each look at a recipe draws half of its timed blocks of pass A, by the seed of the replay and the same for every
searcher (common random numbers), so a searcher meets noise as in a real run. Worth is judged by the other passes, which
no searcher sees: else the luckiest of many noisy figures would look best, and its finder clever. Each of them timed the
recipe in a process of its own, and they are averaged. A recipe that breaks a bound there is worth what the untouched
model is, because a final would refuse it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.search.rows import JUDGES, SEEN, Row, estimate_of, last_attempts, read_table
from hybrid_core.adaptive.shipped import shipped_history
from hybrid_core.config import HybridOptimizationConfig, RunConfig
from hybrid_core.fitness import active_weights, baseline_fitness, shortfall
from hybrid_core.measurement.statistics import block_means, log_ratios
from hybrid_core.recipes import order_recipe
from hybrid_core.records import Estimate, Outcome, Recipe
from hybrid_core.search.searchers.base import Seen
from hybrid_core.search.seen import HALF_WIDTH_SDS, earlier_models, log_sd
from hybrid_core.search.space import Space
from hybrid_core.strategies import registry

Array = npt.NDArray[np.float64]
# A little worse than the untouched model in speed and in memory.
HYPERVOLUME_REFERENCE = (math.log(0.9), math.log(0.9))
# A table in which two measurements of one recipe differ by more than this decides nothing about one percent.
MOST_NOISE = 0.02
MOST_SEEDS = 100
# Half of the blocks tell so much less: their interval is so much wider.
LESS = math.sqrt(2)


@dataclass(frozen=True, eq=False)
class Table:
    """One subject.

    `rows_a` holds the last attempts of pass A of what was tried, the untouched model too; `judged` what the judging
    passes measured of each recipe.
    """

    name: str
    about: Mapping[str, Any]
    rows_a: Mapping[str, Row]
    judged: Mapping[str, Sequence[Row]]
    options: HybridOptimizationConfig

    @cached_property
    def recipes(self) -> tuple[Recipe, ...]:
        """What a search may name, without the untouched model."""
        return tuple(order_recipe(Recipe.from_key(key)) for key in self.rows_a if key != Recipe().key)

    @property
    def family(self) -> str:
        """The model's family; history of the same family is kept from a warm replay."""
        return str(self.about["family"])

    @property
    def kind(self) -> str:
        """The kind of workload."""
        return str(self.about["subject"]["workload"]["kind"])

    @cached_property
    def space(self) -> Space:
        """The recipes as a search gets them after it has asked what the model cannot have."""
        named: dict[str, dict[str, None]] = {}
        for step in sorted({step for recipe in self.recipes for step in recipe.steps}):
            named.setdefault(step.strategy, {})[step.setting] = None
        costs = {
            f"{strategy}={name}": registry.get_setting(strategy, name).expected_cost_s
            for strategy, names in named.items()
            for name in names
        }
        ordered = sorted(self.recipes, key=lambda recipe: (len(recipe.steps), recipe.key))
        claimed = {name: dict(registry.get_strategy(name).claimed) for name in named}
        settings = {strategy: tuple(names) for strategy, names in named.items()}
        return Space(settings, (Recipe(), *ordered), costs, claimed=claimed)

    @cached_property
    def place(self) -> dict[str, int]:
        """Recipe key -> its index in every array."""
        return {recipe.key: i for i, recipe in enumerate(self.recipes)}

    @cached_property
    def seconds(self) -> Array:
        """What a trial costs: as recorded, with the start of an interpreter where a forked trial was spared it."""
        rows = [self.rows_a[recipe.key] for recipe in self.recipes]
        return np.array([row["seconds"] + self.start_s * bool(row["forked"]) for row in rows])

    @cached_property
    def start_s(self) -> float:
        """What starting and importing takes in a fresh process of this table; 0 where none was fresh."""
        fresh = [row["start_s"] + row["import_s"] for row in self.rows_a.values() if row["forked"] is False]
        return float(np.median(fresh)) if fresh else 0.0

    @cached_property
    def worth(self) -> Array:
        """Log fitness / the untouched model's by the judging passes; 0 for what a final would refuse."""
        found = np.zeros(len(self.recipes))
        for i, recipe in enumerate(self.recipes):
            seen = self._scored.get(recipe.key)
            found[i] = seen.value if seen is not None and seen.is_ok else 0.0
        return found

    @cached_property
    def regret(self) -> Array:
        """1 - fitness / the best fitness there is; the last entry is that of the untouched model."""
        worths = np.append(self.worth, 0.0)
        return 1.0 - np.exp(worths - worths.max())

    @cached_property
    def is_within_noise(self) -> npt.NDArray[np.bool_]:
        """Whether the judging passes cannot tell the recipe from the best: less than two standard errors apart."""
        worths = np.append(self.worth, 0.0)
        sds = np.append([self._scored[r.key].sd if r.key in self._scored else 0.0 for r in self.recipes], 0.0)
        best = int(worths.argmax())
        within: npt.NDArray[np.bool_] = worths.max() - worths <= 2.0 * np.hypot(sds, sds[best])
        return within

    @cached_property
    def is_worse(self) -> npt.NDArray[np.bool_]:
        """Whether the judging passes find it worse than the untouched model by over 1 % and two standard errors."""
        sds = np.array([self._scored[r.key].sd if r.key in self._scored else 0.0 for r in self.recipes])
        worse: npt.NDArray[np.bool_] = self.worth < -np.maximum(0.01, 2.0 * sds)
        return worse

    def good(self, share: float) -> int:
        """K: how many recipes lie within this share of the best."""
        return int((self.regret[:-1] <= share).sum())

    @cached_property
    def process_sd(self) -> float:
        """By how much the log speed of one process is off: from what all passes say of the same recipes, robustly."""
        differences = [
            abs(one - other)
            for key, rows in self.judged.items()
            if key in self.place and self.rows_a[key]["outcome"] == Outcome.OK
            for one, other in combinations([math.log(row["speed"]) for row in (self.rows_a[key], *rows)], 2)
        ]
        return float(1.4826 * np.median(differences) / math.sqrt(2)) if differences else math.inf

    @property
    def judges(self) -> int:
        """How many processes judged the median recipe."""
        return sorted(len(rows) for rows in self.judged.values())[len(self.judged) // 2] if self.judged else 0

    @property
    def noise(self) -> float:
        """By how much the log speed that a recipe is judged by is off."""
        return self.process_sd / math.sqrt(self.judges) if self.judges else math.inf

    @property
    def is_usable(self) -> bool:
        """Whether it is quiet enough to speak of differences of one percent."""
        return self.noise <= MOST_NOISE

    @cached_property
    def points(self) -> list[tuple[float, float] | None]:
        """(judged log speed, log memory) of every recipe that keeps the accuracy, None for the others."""
        bound, found = self.options.min_accuracy_preservation, list[tuple[float, float] | None]()
        for recipe in self.recipes:
            seen, row = self._scored.get(recipe.key), self.rows_a[recipe.key]
            keeps = seen is not None and math.isfinite(seen.value) and row["accuracy_low"] >= bound
            found.append(seen.objectives if keeps and seen is not None else None)
        return found

    def history(self) -> tuple[Seen, ...]:
        """Everything pass A says, as an earlier search of this subject would hand it on."""
        return tuple(self.seen(recipe, float(self._log_speed[i]), 1.0) for i, recipe in enumerate(self.recipes))

    def shipped(self) -> dict[str, tuple[Seen, ...]]:
        """What comes with the project and was measured on such a processor, on other models than this one."""
        subject, capability = self.about["subject"], self.about["environment"]["cpu_capability"]
        rows = [row for row in shipped_history(capability) if row.model != subject["model"]]
        names = {"model": subject["model"], "size": subject["size"], "workload": subject["workload"]["name"]}
        return earlier_models(rows, RunConfig(**names, options=self.options), self.family)

    def draws(self, seed: int) -> Array:
        """The log speed that each recipe shows in the replay of that seed; NaN for what failed."""
        shown: Array = self._draws[seed]
        return shown

    @cached_property
    def shown(self) -> Array:
        """The value of each recipe (columns) in the replay of each seed (rows); minus infinity where it may not win.

        What `seen` says of every recipe and seed, at once.
        """
        rows, weights = [self.rows_a[recipe.key] for recipe in self.recipes], active_weights(self.options)
        ratios = {name: np.array([estimate_of(row, name).value for row in rows]) for name in ("memory", "accuracy")}
        fixed = sum(weights[name] * values for name, values in ratios.items() if weights[name] > 0)
        half = LESS * HALF_WIDTH_SDS * np.array([log_sd(estimate_of(row, "speed")) for row in rows])
        accurate = (
            np.array([estimate_of(row, "accuracy").low for row in rows]) >= self.options.min_accuracy_preservation
        )
        speeds = np.exp(self._draws)
        may = accurate & (speeds * np.exp(half) >= self.options.min_speed_improvement)
        values = np.log((weights["speed"] * speeds + fixed) / baseline_fitness(self.options))
        return np.where(may & np.isfinite(values), values, -np.inf)

    def seen(self, recipe: Recipe, log_speed: float, wider: float = LESS) -> Seen:
        """The recipe as a searcher is told of it with that speed; of half the blocks the interval is `wider`."""
        i, row = self.place[recipe.key], self.rows_a[recipe.key]
        if not math.isfinite(log_speed):
            return Seen.failed(recipe, float(self.seconds[i]))
        half = wider * log_sd(estimate_of(row, "speed")) * HALF_WIDTH_SDS
        speed = Estimate(*(math.exp(log_speed + sign * half) for sign in (0, -1, 1)))
        return self._told(recipe, row, speed, float(self.seconds[i]))

    @property
    def untouched(self) -> Seen:
        """What a searcher is told first."""
        return Seen(Recipe(), 0.0, objectives=(0.0, 0.0), seconds=float(self.rows_a[Recipe().key]["seconds"]))

    @cached_property
    def _scored(self) -> dict[str, Seen]:
        """What the judging passes say of each recipe they could time; memory and accuracy are those of pass A."""
        found = {}
        for recipe in self.recipes:
            row, again = self.rows_a[recipe.key], self.judged.get(recipe.key)
            if again and row["outcome"] == Outcome.OK:
                found[recipe.key] = self._told(recipe, row, self._mean_speed(again), again[0]["seconds"])
        return found

    def _mean_speed(self, rows: Sequence[Row]) -> Estimate:
        """The geometric mean over processes; its interval is that of one process's noise or of their own, the wider."""
        speeds = [estimate_of(row, "speed") for row in rows]
        own = math.sqrt(sum(log_sd(speed) ** 2 for speed in speeds) / len(speeds))
        half = HALF_WIDTH_SDS * max(own, self.process_sd) / math.sqrt(len(speeds))
        middle = math.fsum(math.log(speed.value) for speed in speeds) / len(speeds)
        return Estimate(*(math.exp(middle + sign * half) for sign in (0, -1, 1)))

    def _told(self, recipe: Recipe, row: Row, speed: Estimate, seconds: float) -> Seen:
        memory, accuracy = estimate_of(row, "memory"), estimate_of(row, "accuracy")
        fitness = fitness_of_ratios({"speed": speed, "memory": memory, "accuracy": accuracy}, self.options)
        if not (fitness.value > 0 and memory.value > 0):  # one of them is unknown
            return Seen.failed(recipe, seconds)
        return Seen(
            recipe,
            math.log(fitness.value / baseline_fitness(self.options)),
            log_sd(fitness),
            (math.log(speed.value), math.log(memory.value)),
            shortfall(accuracy, speed, self.options),
            seconds,
            accuracy.low < self.options.min_accuracy_preservation,
        )

    @cached_property
    def _blocks(self) -> list[Array]:
        found = []
        for recipe in self.recipes:
            row = self.rows_a[recipe.key]
            pairs = list(zip(row["baseline_ms"] or (), row["candidate_ms"] or (), strict=True))
            found.append(block_means(log_ratios(pairs)) if pairs else np.empty(0))
        return found

    @cached_property
    def _draws(self) -> Array:
        return np.stack([_medians_of_halves(blocks, i) for i, blocks in enumerate(self._blocks)], axis=1)

    @cached_property
    def _log_speed(self) -> Array:
        return np.array([float(np.median(blocks)) if blocks.size else math.nan for blocks in self._blocks])


def fitness_of_ratios(ratios: Mapping[str, Estimate], options: HybridOptimizationConfig) -> Estimate:
    """The weighted sum with its ends, as `hybrid_core.fitness.fitness_of` has it of a measurement."""
    terms = [(weight, ratios[name]) for name, weight in active_weights(options).items() if weight > 0]
    return Estimate(*(math.fsum(w * getattr(r, end) for w, r in terms) for end in ("value", "low", "high")))


def load(path: Path, options: HybridOptimizationConfig | None = None) -> Table:
    """The table of a Parquet file."""
    return table_of(path.stem, *read_table(path), options)


def table_of(
    name: str, rows: Sequence[Row], about: Mapping[str, Any], options: HybridOptimizationConfig | None = None
) -> Table:
    """The table of these rows; what was refused without a trial is no part of the space."""
    tried = {key: row for key, row in last_attempts(rows, SEEN).items() if row.get("inferred_from") is None}
    if Recipe().key not in tried:
        raise ValueError(f"{name}: the untouched model was not measured in pass A; build the table anew")
    judged: dict[str, list[Row]] = {}
    for which in JUDGES:
        for key, row in last_attempts(rows, which).items():
            if row["outcome"] == Outcome.OK:
                judged.setdefault(key, []).append(row)
    return Table(name, about, tried, judged, options or HybridOptimizationConfig())


def nearest_first(table: Table, others: Sequence[Table]) -> dict[str, tuple[Seen, ...]]:
    """The history of a warm replay: tables of other families only, those of the same kind of workload first."""
    kept = sorted(
        (other for other in others if other.family != table.family),
        key=lambda other: (other.kind != table.kind, other.name),
    )
    return {other.name: replace_options(other, table.options).history() for other in kept}


def replace_options(table: Table, options: HybridOptimizationConfig) -> Table:
    """The same table under other weights and bounds."""
    return table if table.options == options else replace(table, options=options)


def _medians_of_halves(blocks: Array, number: int) -> Array:
    """For each seed the median of a half of the blocks, drawn without replacement."""
    if not blocks.size:
        return np.full(MOST_SEEDS, math.nan)
    order = np.random.default_rng(number).random((MOST_SEEDS, blocks.size)).argsort(axis=1)
    halves: Array = np.median(blocks[order[:, : (blocks.size + 1) // 2]], axis=1)
    return halves
