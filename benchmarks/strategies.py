"""What every setting is worth on every model: time, memory, quality and the cost of preparing it.

Question: which settings pay on this machine, for which models, and what is the best that can be combined from them?

Method: each candidate is measured as in a search, in a fresh process beside the untouched model: interleaved pairs, the
median of the paired log ratios with its 95 % bootstrap interval, memory and quality in passes of their own. First
every single setting; then ensembles of the best setting of each strategy (surely faster than the untouched model, and
at the pessimistic end at least 0.98 of its quality), in the order of the product of their singles, at most
`MOST_ENSEMBLES`; then the fastest of all is measured once more in a fresh process with more pairs, and that number is
published, since the largest of many noisy numbers is too large. Refusals are rows with their reason. One thread.

    make bench-strategies             everything; hours. Rows are written as they come; RESUME=1 goes on
    make bench-strategies QUICK=1     tiny sizes, first workloads, no compiler; half an hour
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hybrid_core.errors import InvalidInput  # noqa: E402
from hybrid_core.evaluation import case_from_registry  # noqa: E402
from hybrid_core.measurement.machine import describe_versions  # noqa: E402
from hybrid_core.models.registry import ENTRIES  # noqa: E402
from hybrid_core.recipes import check_recipe, start_variables  # noqa: E402
from hybrid_core.records import (  # noqa: E402
    MeasureLimits,
    MeasureRequest,
    Outcome,
    Purpose,
    Recipe,
    Step,
    Subject,
    Trial,
    to_json,
)
from hybrid_core.search.costs import MOST_QUALITY_ROWS  # noqa: E402
from hybrid_core.strategies.registry import STRATEGIES, get_setting  # noqa: E402
from hybrid_core.survey import survey  # noqa: E402
from workers.devices import cpu_title  # noqa: E402
from workers.engines.local import LocalEngine  # noqa: E402

# One file for each instruction set: other settings win on another one, and rows of two must not be mixed.
RESULTS = ROOT / "benchmarks" / "results" / f"strategies-{describe_versions()['cpu_capability'].lower()}.json"
LANGUAGE_MODELS = ("llama", "deepseek", "qwen", "qwq", "claude")
MIN_ACCURACY = 0.98
# What a target of the project speaks of is raced in any case: (model, workload) -> recipes.
AIMED_AT = {
    ("llama", "prefill_long"): ("attention_fusion=sdpa",),
    ("llama", "decode"): (
        "kernel_fusion=compile+memory_pooling=static_cache",
        "kernel_fusion=compile+memory_pooling=static_step",
    ),
}
MOST_ENSEMBLES = 4
EXPENSIVE_S = 20.0
# As many held-out rows as it takes to say whether the bound is kept; the race asks all of them.
SEARCH = MeasureLimits(
    target_half_width=0.02,
    min_pairs=12,
    max_pairs=60,
    max_timed_s=3.0,
    quality_samples=MOST_QUALITY_ROWS,
    accuracy_bound=MIN_ACCURACY,
)
RACE = replace(SEARCH, min_pairs=32, max_pairs=200, max_timed_s=8.0, accuracy_bound=None)


def main() -> None:
    """Measure what is asked for, printing and writing each row as it comes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny, first workloads, nothing that compiles")
    parser.add_argument("--resume", action="store_true", help="keep the rows of the results file")
    parser.add_argument("--models", nargs="*", default=[entry.name for entry in ENTRIES])
    parser.add_argument("--sizes", nargs="*", default=["tiny", "small"])
    parser.add_argument("--workloads", nargs="*", help="only workloads of these names")
    parser.add_argument("--strategies", nargs="*", help="only these strategies")
    parser.add_argument("--no-compilers", action="store_true", help="nothing that takes long to prepare")
    parser.add_argument("--by-default", action="store_true", help="leave out settings tried on request only")
    chosen = parser.parse_args()
    book = Book(kept_rows() if chosen.resume else [])
    settings = [step for step in all_steps() if is_wanted(step, chosen)]
    for subject in subjects_of(chosen):
        with tempfile.TemporaryDirectory(prefix="bench-strategies-") as folder:
            command = (sys.executable, "-m", "workers.measure_process")
            engine = LocalEngine(command, Path(folder), Path(folder) / "log")
            measure_subject(book, engine, subject, settings)
    book.write()
    book.print_targets()


def subjects_of(chosen: argparse.Namespace) -> Iterator[Subject]:
    """What is measured: of each model and size the first workload, and the decode of language models."""
    for size in ["tiny"] if chosen.quick else chosen.sizes:
        for entry in (e for e in ENTRIES if e.name in chosen.models and size in e.sizes):
            for index, workload in enumerate(entry.workloads(size)):
                named = chosen.workloads and workload.name in chosen.workloads
                usual = index == 0 or (workload.kind == "decode" and not chosen.quick)
                if named or (usual and not chosen.workloads):
                    yield Subject(entry.name, size, workload)


def all_steps() -> list[Step]:
    """Every setting that this machine offers."""
    return [
        Step(strategy.name, setting.name)
        for strategy in STRATEGIES
        for setting in strategy.settings
        if strategy.unavailable(setting.name, "cpu") is None
    ]


def is_wanted(step: Step, chosen: argparse.Namespace) -> bool:
    """Whether the options leave it in."""
    if chosen.strategies and step.strategy not in chosen.strategies:
        return False
    if chosen.by_default and get_setting(step.strategy, step.setting).on_request:
        return False
    return not (is_expensive(step) and (chosen.quick or chosen.no_compilers))


def is_expensive(step: Step) -> bool:
    """True for what compiles for a long time."""
    return get_setting(step.strategy, step.setting).expected_cost_s >= EXPENSIVE_S


def measure_subject(book: Book, engine: LocalEngine, subject: Subject, settings: list[Step]) -> None:
    """Singles, then ensembles of the good ones, then the winner once more."""
    print(f"\n{subject.model} {subject.size}, {subject.workload.label}", flush=True)
    book.refuse(subject, settings)
    singles = [book.row(engine, subject, Recipe((step,)), SEARCH) for step in settings]
    ensembles = list(itertools.islice(ensembles_of(singles), MOST_ENSEMBLES))
    rows = singles + [book.row(engine, subject, recipe, SEARCH) for recipe in ensembles]
    good = [row for row in rows if is_good(row)]
    winner = [max(good, key=lambda row: row["speed"]["value"])["recipe"]] if good else []
    aimed_at = AIMED_AT.get((subject.model, subject.workload.name), ()) if subject.size == "tiny" else ()
    for key in dict.fromkeys((*winner, *aimed_at)):
        book.row(engine, subject, check_recipe(Recipe.from_key(key)), RACE, Purpose.FINAL)


def is_good(row: dict[str, Any]) -> bool:
    """Surely faster, and surely accurate enough."""
    return "speed" in row and row["speed"]["low"] > 1.0 and row["accuracy"]["low"] >= MIN_ACCURACY


def ensembles_of(singles: Iterable[dict[str, Any]]) -> Iterator[Recipe]:
    """Legal combinations of the fastest good setting of each strategy, by the product of their singles."""
    best: dict[str, tuple[float, Step]] = {}
    for row in filter(is_good, singles):
        (step,) = Recipe.from_key(row["recipe"]).steps
        best[step.strategy] = max(best.get(step.strategy, (0.0, step)), (row["speed"]["value"], step))
    combined = [
        (math.prod(speed for speed, _ in parts), tuple(step for _, step in parts))
        for count in range(2, 5)
        for parts in itertools.combinations(best.values(), count)
    ]
    for _, steps in sorted(combined, reverse=True):
        try:
            yield check_recipe(Recipe(steps))
        except InvalidInput:
            continue


class Book:
    """The rows measured so far; known by model, size, workload, recipe and purpose."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = {key_of(row): row for row in rows}

    def refuse(self, subject: Subject, settings: list[Step]) -> None:
        """Rows for what the model cannot have, asked at once instead of by a process for each."""

        def tell(step: Step, reason: str | None, seconds: float) -> None:
            names = names_of(subject, Recipe((step,)), Purpose.SEARCH)
            if reason is not None:
                found = {"outcome": str(Outcome.UNSUPPORTED), "seconds": round(seconds, 1), "reason": reason}
                self.rows.setdefault(key_of(names), names | found)

        survey(case_from_registry(subject), settings, tell)

    def row(
        self,
        engine: LocalEngine,
        subject: Subject,
        recipe: Recipe,
        limits: MeasureLimits,
        purpose: Purpose = Purpose.SEARCH,
    ) -> dict[str, Any]:
        """Measure one candidate, unless a kept row has it."""
        names = names_of(subject, recipe, purpose)
        if key_of(names) not in self.rows:
            request = MeasureRequest(f"bench:{recipe.key}", "bench", subject, recipe, purpose, limits)
            self.rows[key_of(names)] = names | facts_of(engine.measure(request, variables=start_variables(recipe)))
            self.write()
        print_row(self.rows[key_of(names)])
        return self.rows[key_of(names)]

    def write(self) -> None:
        """The results file, in the form that all benchmarks share."""
        environment = {**describe_versions(), "cpu": cpu_title(), "threads": 1}
        found = {"environment": environment, "targets": self.targets(), "rows": list(self.rows.values())}
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=0, allow_nan=False))

    def targets(self) -> list[dict[str, Any]]:
        """What the project set out to reach, beside what was found; None where it was not measured."""
        prefill, decode = (self.raced(*subject) for subject in AIMED_AT)
        winners = self.published_of_language_models()
        gained = math.exp(sum(math.log(v) for v in winners) / len(winners)) if winners else None
        # Of each model at least the prefill and the decode; a mean over fewer is shown, and has not met the target.
        whole = len(winners) >= 2 * len(LANGUAGE_MODELS)
        name = f"best recipe, geometric mean over {len(winners)} workloads of language models"
        best_of_all = target(name if whole else f"{name} (not all)", gained, 1.5)
        best_of_all["met"] = best_of_all["met"] and whole
        silent = sum("speed" in row and not row["changes"] for row in self.rows.values())
        return [
            target("attention fusion on llama tiny, prefill of 1,024 tokens", prefill, 1.4),
            target("static cache with a compiled step on llama tiny, decode", decode, 1.25),
            best_of_all,
            {"name": "trials that succeeded and changed nothing", "value": silent, "target": 0, "met": silent == 0},
        ]

    def raced(self, model: str, workload: str) -> float | None:
        """The best published speed of the recipes that a target names."""
        speeds = [
            row["speed"]["value"]
            for row in self.rows.values()
            if (row["model"], row["size"], row["purpose"]) == (model, "tiny", str(Purpose.FINAL))
            and row["workload"].startswith(f"{workload},")
            and row["recipe"] in AIMED_AT[model, workload]
            and "speed" in row
        ]
        return max(speeds, default=None)

    def published_of_language_models(self) -> list[float]:
        """The published speed of each tiny workload; 1.0, the untouched model, where nothing was better."""
        found: dict[tuple[str, str], float] = {}
        for row in self.rows.values():
            if row["model"] in LANGUAGE_MODELS and row["size"] == "tiny":
                is_published = row["purpose"] == str(Purpose.FINAL) and is_good(row)
                speed = row["speed"]["value"] if is_published else 1.0
                found[row["model"], row["workload"]] = max(found.get((row["model"], row["workload"]), 1.0), speed)
        return list(found.values())

    def print_targets(self) -> None:
        """One line for each."""
        print()
        for found in self.targets():
            value = "-" if found["value"] is None else f"{found['value']:.3g}"
            verdict = "met" if found["met"] else "not measured" if found["value"] is None else "MISSED"
            print(f"{found['name']}: {value} (target {found['target']}, {verdict})")
        print(f"written to {RESULTS.relative_to(ROOT)}")


def target(name: str, value: float | None, wanted: float) -> dict[str, Any]:
    """A ratio that should reach `wanted`."""
    return {"name": name, "value": value, "target": wanted, "met": value is not None and value >= wanted}


def facts_of(trial: Trial) -> dict[str, Any]:
    """The part of a trial that the table needs, raw pairs included."""
    facts: dict[str, Any] = {"outcome": str(trial.outcome), "seconds": round(trial.seconds, 1)}
    measured = trial.measurement
    if measured is None:
        return facts | {"reason": trial.reason}
    found: dict[str, Any] = to_json(
        {
            "speed": measured.speed_improvement,
            "memory": measured.memory_efficiency,
            "accuracy": measured.accuracy_preservation,
            "first_call_s": round(measured.first_call_s, 3),
            "baseline_first_call_s": round(measured.baseline_first_call_s, 3),
            "break_even_calls": measured.break_even_calls,
            "peak_bytes": [measured.baseline_peak_bytes, measured.peak_bytes],
            "weight_bytes": [measured.baseline_weight_bytes, measured.weight_bytes],
            "max_abs_error": measured.max_abs_error,
            "changes": measured.changes,
            "warnings": measured.warnings,
            "stop_reason": measured.stop_reason,
            "pairs_ms": [[float(f"{t:.5g}") for t in pair] for pair in measured.pairs_ms],
        }
    )
    return facts | found


def names_of(subject: Subject, recipe: Recipe, purpose: Purpose) -> dict[str, Any]:
    """The columns that say which row it is."""
    names = {"model": subject.model, "size": subject.size, "workload": subject.workload.label}
    return names | {"recipe": recipe.key, "purpose": str(purpose)}


def key_of(row: dict[str, Any]) -> tuple[str, ...]:
    """What makes a row the same row."""
    return tuple(row[name] for name in ("model", "size", "workload", "recipe", "purpose"))


def kept_rows() -> list[dict[str, Any]]:
    """The rows of an earlier call on the same versions and processor."""
    if not RESULTS.exists():
        return []
    found = json.loads(RESULTS.read_text())
    same = all(found["environment"].get(name) == value for name, value in describe_versions().items())
    if not same or found["environment"].get("cpu") != cpu_title():
        sys.exit(f"{RESULTS.name} was measured with other versions or on another processor; leave RESUME out")
    rows: list[dict[str, Any]] = found["rows"]
    return rows


def print_row(row: dict[str, Any]) -> None:
    """One line of the table."""
    mark = "published " if row["purpose"] == str(Purpose.FINAL) else ""
    if "speed" not in row:
        print(f"  {row['recipe']:58} {row['outcome']}: {row['reason'][:110]}", flush=True)
        return
    speed, memory, accuracy = (row[name] for name in ("speed", "memory", "accuracy"))
    print(
        f"  {mark}{row['recipe']:58} time {speed['value']:5.2f} ({speed['low']:.2f} to {speed['high']:.2f}) "
        f"memory {memory['value']:5.2f} quality {accuracy['value']:.4f} ({accuracy['low']:.4f}) "
        f"first call {row['first_call_s']:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
