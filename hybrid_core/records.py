"""The vocabulary of the project as frozen dataclasses; standard library only.

Every process speaks these words: the search creates them, spool files carry them as JSON, DuckDB stores them,
pages draw them. `to_json` and the `from_json` class methods are the only conversion, so a record that left one
process is the same record in the next. Ratios are always baseline / candidate: 1.0 is no change, larger is better.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import PurePath
from typing import Any

STRATEGY_NAMES = ("kernel_fusion", "quantization", "memory_pooling", "attention_fusion")
SELECTION_METHODS = ("tournament", "roulette", "sus", "rank", "exponential_rank", "pareto", "rl")
SEARCH_METHODS = ("adaptive", "selection", "random", "local", "evolution", "nsga2", "mcts", "surrogate", "rl")
WORKLOAD_KINDS = ("forward", "prefill", "decode", "sample")
BASELINE_KEY = "baseline"


class Outcome(StrEnum):
    """How a trial ended. Only `OK` carries a measurement that may win; each failure names its cause."""

    OK = "ok"
    WRONG = "wrong"
    UNSTABLE = "unstable"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    UNSUPPORTED = "unsupported"
    INVALID_INPUT = "invalid_input"
    CANCELLED = "cancelled"
    WORKER_LOST = "worker_lost"
    DEVICE_LOST = "device_lost"


class RunState(StrEnum):
    """Where a run stands. The last three are terminal and come with a sentence of cause."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"


TERMINAL_STATES = (RunState.FINISHED, RunState.CANCELLED, RunState.FAILED)


class Purpose(StrEnum):
    """Why a trial was measured: the A/A baseline, the search, the final race whose numbers are published, or again."""

    BASELINE = "baseline"
    SEARCH = "search"
    FINAL = "final"
    REPEAT = "repeat"


class Verdict(StrEnum):
    """A ratio against the baseline, judged by its interval and the A/A noise floor."""

    BETTER = "better"
    TIE = "tie"
    WORSE = "worse"


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; `low` and `high` equal `value` when it is exact (bytes counted, say)."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Estimate:
        """An estimate without uncertainty."""
        return cls(value, value, value)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Estimate:
        """Read what `to_json` wrote; a null becomes NaN."""
        return cls(*(math.nan if data[k] is None else float(data[k]) for k in ("value", "low", "high")))


@dataclass(frozen=True, order=True)
class Step:
    """One strategy with one of its settings, for example quantization: int8_dynamic."""

    strategy: str
    setting: str


@dataclass(frozen=True)
class Recipe:
    """Steps in the order they are applied, at most one per strategy; no steps is the baseline.

    >>> Recipe.from_dict({"quantization": "int8_dynamic"}).key
    'quantization=int8_dynamic'
    >>> Recipe().key
    'baseline'
    """

    steps: tuple[Step, ...] = ()

    @cached_property
    def key(self) -> str:
        """The canonical name: equal keys are the same candidate, whatever order the steps were given in."""
        return "+".join(f"{s.strategy}={s.setting}" for s in sorted(self.steps)) or BASELINE_KEY

    @property
    def is_baseline(self) -> bool:
        """True for the empty recipe."""
        return not self.steps

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies used, in the order they are applied."""
        return tuple(s.strategy for s in self.steps)

    def to_dict(self) -> dict[str, str]:
        """The form people write: `{"attention_fusion": "sdpa"}`."""
        return {s.strategy: s.setting for s in self.steps}

    @classmethod
    def from_dict(cls, steps: Mapping[str, str]) -> Recipe:
        """Build from `{strategy: setting}`; whether the names exist is `recipes.check_recipe`'s question."""
        return cls(tuple(Step(str(k), str(v)) for k, v in steps.items()))

    @classmethod
    def from_key(cls, key: str) -> Recipe:
        """Read a canonical key back."""
        if key == BASELINE_KEY:
            return cls()
        return cls.from_dict(dict(part.split("=", 1) for part in key.split("+")))


def trial_name(run_id: str, purpose: Purpose, recipe: Recipe, round_number: int = 0) -> str:
    """The id of a trial; where several processes make one trial, each of them has a number of its own.

    >>> trial_name("r1", Purpose.FINAL, Recipe()), trial_name("r1", Purpose.FINAL, Recipe(), 2)
    ('r1:final:baseline', 'r1:final.2:baseline')
    """
    return f"{run_id}:{purpose}{f'.{round_number}' if round_number else ''}:{recipe.key}"


@dataclass(frozen=True)
class Workload:
    """What one timed call does.

    `forward`: one call on `batch` items (`length` items of sequence or 0). `prefill`: one causal pass over
    `batch` x `length` tokens. `decode`: `new_tokens` greedy tokens after a context of `length`, with a cache.
    `sample`: one whole generation of `batch` items in `length` steps.
    """

    name: str
    kind: str
    batch: int
    length: int = 0
    new_tokens: int = 0

    @property
    def label(self) -> str:
        """Short text for tables, for example 'prefill, batch 1 x 512'."""
        size = f"batch {self.batch}" + (f" x {self.length}" if self.length else "")
        return f"{self.name}, {size}" + (f" + {self.new_tokens} tokens" if self.new_tokens else "")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Workload:
        """Read what `to_json` wrote."""
        return cls(**{f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data})


@dataclass(frozen=True)
class Subject:
    """What is optimized and where: model, size, workload, device, threads, and the seed of it all.

    `source` is empty for a model of the registry; for one that somebody brought it is the text of its registration.
    """

    model: str
    size: str
    workload: Workload
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    source: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Subject:
        """Read what `to_json` wrote."""
        return cls(**{**data, "workload": Workload.from_json(data["workload"])})


@dataclass(frozen=True)
class MeasureLimits:
    """How much a measurement may cost and how sure it must become.

    The timed phase stops when the half width of the 95 % interval of the log ratio is below
    `target_half_width`, when the candidate is slower by more than `loser_margin` for certain (1 turns that off), or at
    `max_pairs` or `max_timed_s`; the measurement says which. Quality is counted on
    `quality_samples` held-out rows; with an `accuracy_bound` on fewer where they decide whether it is kept, and
    without a task's further rates.
    """

    target_half_width: float = 0.02
    min_pairs: int = 12
    max_pairs: int = 200
    max_timed_s: float = 8.0
    quality_samples: int = 64
    accuracy_bound: float | None = None
    transform_timeout_s: float = 180.0
    total_timeout_s: float = 300.0
    loser_margin: float = 0.1

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MeasureLimits:
        """Read what `to_json` wrote."""
        return cls(**data)


@dataclass(frozen=True)
class MeasureRequest:
    """One order to measure one recipe; what a measure process reads from its standard input."""

    trial_id: str
    run_id: str
    subject: Subject
    recipe: Recipe
    purpose: Purpose
    limits: MeasureLimits = field(default_factory=MeasureLimits)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MeasureRequest:
        """Read what `to_json` wrote."""
        return cls(
            trial_id=data["trial_id"],
            run_id=data["run_id"],
            subject=Subject.from_json(data["subject"]),
            recipe=Recipe.from_dict(data["recipe"]),
            purpose=Purpose(data["purpose"]),
            limits=MeasureLimits.from_json(data["limits"]),
        )


@dataclass(frozen=True)
class Quality:
    """How good the outputs are: the model's own task on held-out data, and agreement with the untouched model.

    `metric` names the task metric ("next-byte accuracy") or "agreement" where the model has no task. Both values are in
    [0, 1], larger is better. `details` holds further named numbers: bits_per_byte, baseline_bits_per_byte,
    top1_agreement, kl_nats, relative_error.
    """

    metric: str
    samples: int
    value: Estimate
    baseline_value: Estimate
    details: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Quality:
        """Read what `to_json` wrote."""
        return cls(
            data["metric"],
            data["samples"],
            Estimate.from_json(data["value"]),
            Estimate.from_json(data["baseline_value"]),
            dict(data["details"]),
        )


@dataclass(frozen=True)
class Measurement:
    """Everything one trial found out about a candidate, measured beside the untouched model in one process.

    Bytes: `peak_bytes` = weights + peak live tensor bytes of one call; `resident_bytes` is the process's own peak,
    a check only. `first_call_s` holds the candidate's compile cost. `pairs_ms` are the raw samples: one
    [baseline_ms, candidate_ms] per timed pair, in the order taken.
    """

    speed_improvement: Estimate
    memory_efficiency: Estimate
    accuracy_preservation: Estimate
    latency_ms: Estimate
    baseline_latency_ms: Estimate
    peak_bytes: int
    baseline_peak_bytes: int
    weight_bytes: int
    baseline_weight_bytes: int
    resident_bytes: int
    first_call_s: float
    baseline_first_call_s: float
    break_even_calls: int | None
    quality: Quality
    max_abs_error: float
    stop_reason: str
    pairs_ms: tuple[tuple[float, float], ...]
    changes: tuple[str, ...]
    warnings: tuple[str, ...]
    environment: dict[str, Any]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """Read what `to_json` wrote."""
        estimates = (
            "speed_improvement",
            "memory_efficiency",
            "accuracy_preservation",
            "latency_ms",
            "baseline_latency_ms",
        )
        return cls(
            **{
                **data,
                **{name: Estimate.from_json(data[name]) for name in estimates},
                "quality": Quality.from_json(data["quality"]),
                "pairs_ms": tuple((float(a), float(b)) for a, b in data["pairs_ms"]),
                "changes": tuple(data["changes"]),
                "warnings": tuple(data["warnings"]),
            }
        )


@dataclass(frozen=True)
class Trial:
    """One attempt to measure one recipe: a measurement, or a named failure with its reason in one sentence.

    `phases_s` maps phase name to seconds spent; `log_tail` is the end of the process's output when it failed.
    """

    trial_id: str
    run_id: str
    recipe: Recipe
    purpose: Purpose
    outcome: Outcome
    reason: str = ""
    stage: str = ""
    measurement: Measurement | None = None
    started_at: float = 0.0
    seconds: float = 0.0
    phases_s: dict[str, float] = field(default_factory=dict)
    log_tail: str = ""

    @property
    def is_ok(self) -> bool:
        """True when the candidate was measured and found correct."""
        return self.outcome is Outcome.OK and self.measurement is not None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        """Read what `to_json` wrote."""
        measurement = data["measurement"]
        return cls(
            **{
                **data,
                "recipe": Recipe.from_dict(data["recipe"]),
                "purpose": Purpose(data["purpose"]),
                "outcome": Outcome(data["outcome"]),
                "measurement": None if measurement is None else Measurement.from_json(measurement),
            }
        )


def to_json(value: Any) -> Any:
    """Turn records into plain dicts, lists and numbers that `json.dumps(..., allow_nan=False)` accepts.

    NaN and infinities become null; a recipe becomes `{strategy: setting}` with its order kept.
    """
    if isinstance(value, Recipe):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | bool) or value is None:
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Iterable):
        return [to_json(v) for v in value]
    raise TypeError(f"{type(value).__name__} is not a record; convert it to plain values first")
