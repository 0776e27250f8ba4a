"""The winners of short searches, measured again: the second answer should fall into the first one's interval.

Each run is the real search (`run_search` with a measure process for every candidate), with another seed; what the
device showed in the A/A rows, and in the finals and repeats before, is handed to it as the hub would. Whatever it
publishes was chosen because it looked good, so this is where the winner's curse would show. Then the winner is raced
again in as many fresh processes, `REPEATS` times, and the repeated figure is either inside the published 95 % interval
or not.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.truth import aa
from benchmarks.truth.book import Book, Row
from benchmarks.truth.claims import is_measured
from benchmarks.truth.trials import Measured, Runner, facts_of, subject_of
from hybrid_core.config import RunConfig
from hybrid_core.models.registry import get_entry
from hybrid_core.records import MeasureLimits, Purpose, Recipe, Subject, Trial, to_json
from hybrid_core.search.hints import Survey
from hybrid_core.search.loop import run_search
from hybrid_core.search.merging import join_rounds
from hybrid_core.search.noise import Noise
from hybrid_core.search.result import SearchResult
from hybrid_core.search.space import Space
from hybrid_core.search.speeds import ROUNDS
from workers.engines.survey import run_survey

PART = "winners"
# Those on which so short a run finds a winner at all; a decode and the small perceptron end with the untouched model.
SUBJECTS = (
    ("llama", "tiny", "prefill"),
    ("convnet", "tiny", "forward"),
    ("vit", "tiny", "forward"),
    ("qwen", "tiny", "prefill"),
    ("convnet", "tiny", "forward_single"),
)
WINNERS, QUICK_WINNERS = 20, 1
MOST_RUNS = 2  # times the winners wanted; a run that ends with the untouched model has none
REPEATS = 2
BUDGET_S = 120.0


def measure(book: Book, *, quick: bool) -> None:
    """Run after run, until there are winners enough."""
    wanted = QUICK_WINNERS if quick else WINNERS
    for turn in range(wanted * MOST_RUNS):
        if book.is_full() or sum(bool(row["winner"]) for row in book.of(PART)) >= wanted:
            return
        subject = SUBJECTS[turn % len(SUBJECTS)]
        key = f"{PART}/{'/'.join(subject)}/{turn}"
        if not book.has(key):
            names = dict(zip(("model", "size", "workload"), subject, strict=True))
            print_row(book.add(PART, key, {**names, "turn": turn, **search_and_repeat(book, subject, turn)}))


def search_and_repeat(book: Book, names: tuple[str, str, str], seed: int) -> dict[str, Any]:
    """One search, and what its winner measures when it is raced again."""
    model, size, _ = names
    subject = subject_of(*names, seed=seed)
    config = RunConfig(model=model, size=size, workload=subject.workload.name, budget_s=BUDGET_S, seed=seed)
    space = Space.from_registry(config.options, "cpu")
    with tempfile.TemporaryDirectory(prefix="bench-truth-") as folder:
        runner = Runner(Path(folder))
        used: dict[Purpose, MeasureLimits] = {}

        def one(recipe: Recipe, purpose: Purpose, limits: MeasureLimits, round_number: int = 0) -> Trial:
            used[purpose] = limits
            return runner.measure(subject, recipe, limits, purpose).trial

        noise, started = Noise(day_of(book, names)), time.monotonic()
        family, ask = get_entry(model).family, survey_of(subject, Path(folder))
        result = run_search(config, space, one, ignore_event, noise=noise, family=family, survey=ask)
        facts = facts_of_run(result, time.monotonic() - started)
        if result.winner_trial is None or result.winner.is_baseline:
            return facts | {"repeats": []}
        repeats = [
            facts_of(Measured(repeated(runner, subject, result.winner_trial, used[Purpose.FINAL], noise), {}, None))
            for _ in range(REPEATS)
        ]
        return facts | {"published": facts_of(Measured(result.winner_trial, {}, None)), "repeats": repeats}


def survey_of(subject: Subject, folder: Path) -> Survey:
    """Asks the model in a process of its own which settings it cannot have, as every run does first."""
    command = (sys.executable, "-m", "workers.survey_process")
    return lambda steps, limit_s: run_survey(command, subject, steps, limit_s, folder, folder / "log")


def repeated(runner: Runner, subject: Subject, published: Trial, limits: MeasureLimits, noise: Noise) -> Trial:
    """The winner in as many fresh processes as its published figure came from."""
    assert published.measurement is not None
    count = len(published.measurement.environment.get(ROUNDS, (None,)))
    rounds = [runner.measure(subject, published.recipe, limits, Purpose.FINAL).trial for _ in range(count)]
    return join_rounds("repeat", rounds, noise)


def day_of(book: Book, names: tuple[str, str, str]) -> list[dict[str, Any]]:
    """The A/A rows, and the finals and repeats of earlier runs, as the hub hands them to a run of this subject."""
    facts: list[dict[str, Any]] = []
    for row in book.of(PART):
        whose = dict(zip(("model", "size", "workload_label"), of_subject(row), strict=True))
        for number, trial in enumerate((row["published"], *row["repeats"]) if row["winner"] else ()):
            if is_measured(trial):
                own, name = of_subject(row) == names, f"{row['key']}/{number}"
                rounds = trial.get("rounds")
                facts.append({"trial_id": name, "recipe_key": row["winner"], "own": own, "rounds": rounds, **whose})
                facts[-1] |= ratio_of(trial)
    return facts + [
        {"trial_id": row["key"], "recipe_key": Recipe().key, "rounds": None, "own": of_subject(row) == names}
        | ratio_of(row)
        for row in filter(is_measured, book.of(aa.PART))
    ]


def of_subject(row: Row) -> tuple[str, str, str]:
    """Model, size and workload of a row."""
    return row["model"], row["size"], row["workload"]


def ratio_of(trial: Row) -> dict[str, float]:
    """The ratio of a trial under the names of the columns."""
    speed = trial["speed"]
    return {"speed": speed["value"], "speed_low": speed["low"], "speed_high": speed["high"]}


def facts_of_run(result: SearchResult, wall_s: float) -> dict[str, Any]:
    """What the run said and what it cost."""
    return {
        "winner": "" if result.winner.is_baseline else result.winner.key,
        "sentence": result.sentence,
        "wall_s": round(wall_s, 2),
        "cost": to_json(result.cost),
        "noise": to_json(result.noise),
    }


def ignore_event(kind: str, data: dict[str, Any]) -> None:
    """Nobody watches this run."""


def is_inside(published: Row, repeat: Row) -> bool:
    """Whether the second answer lies in the first one's interval; one that could not be measured does not."""
    speed = published["speed"]
    return is_measured(repeat) and speed["low"] <= repeat["speed"]["value"] <= speed["high"]


def print_row(row: Row) -> None:
    """One line."""
    print(f"  {row['model']} {row['size']}, {row['workload']}: {row['winner'] or 'no winner'}", flush=True)
    for repeat in row["repeats"]:
        speed, again = row["published"]["speed"], repeat.get("speed", {}).get("value", float("nan"))
        told = f"{speed['value']:.3f} ({speed['low']:.3f} to {speed['high']:.3f})"
        print(
            f"    published {told}, again {again:.3f}: {'inside' if is_inside(row['published'], repeat) else 'OUTSIDE'}"
        )
