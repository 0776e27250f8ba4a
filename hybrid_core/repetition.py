"""Measuring a stored trial again: the order rebuilt from what was stored, and whether the new figures agree.

A number that nobody can take again is an anecdote. So every measurement carries the whole order that led to it and a
fingerprint of the code that carried it out; from that alone the same order can be made again. The repetition agrees
with the original where its estimate lies inside the original's 95 % interval; where only the two intervals overlap,
that is said. What differs in the environment stands beside it, because it is the first suspect. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hybrid_core.errors import InvalidInput
from hybrid_core.records import Estimate, Measurement, MeasureRequest, Trial, to_json

REQUEST, CODE, ROUNDS = "request", "code_version", "rounds"
FIGURES = {"speed_improvement": "speed", "memory_efficiency": "memory", "accuracy_preservation": "accuracy kept"}
# Bytes are counted, not sampled, so their interval is a point; allocators still round and cache a little.
COUNTED_SLACK = 0.01
# Where these differ, other figures are to be expected.
PLACE = {"cpu_model": "processor", "gpu": "graphics card", "torch": "version of torch"}
# Differ between any two processes, or are results and no circumstances.
_SILENT = {
    REQUEST, ROUNDS, "process", "telemetry", "quality", "cpu_mhz_before", "cpu_mhz_after", "between_processes",
    "compile", "roofline", "memory", "energy", "gpu_reserved_bytes",
}  # fmt: skip
# Of the many numbers under this name, only what says whether the measurement was disturbed is compared.
CONDITIONS = "conditions"


def with_order(trial: Trial, request: MeasureRequest) -> Trial:
    """The trial with what is needed to measure it again, where it holds a measurement."""
    if trial.measurement is None:
        return trial
    environment = {**trial.measurement.environment, REQUEST: to_json(request), CODE: code_version()}
    return replace(trial, measurement=replace(trial.measurement, environment=environment))


@cache
def code_version() -> str:
    """Eight digits that change with any line of the code that measures and optimizes."""
    folder, found = Path(__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return found.hexdigest()[:8]


@dataclass(frozen=True)
class Repetition:
    """What is to be measured again, in how many processes, and what was found the first time."""

    trial_id: str
    request: MeasureRequest
    processes: int
    original: Measurement

    @classmethod
    def of(cls, trial_id: str, measurement: Mapping[str, Any] | None) -> Repetition:
        """Rebuild from the stored measurement alone.

        Raises:
            InvalidInput: it has no figures, or does not say how it was ordered.
        """
        if measurement is None:
            raise InvalidInput(f"trial {trial_id!r:.120} has no figures to compare with; choose one that was measured")
        environment = measurement.get("environment") or {}
        try:
            request = MeasureRequest.from_json(environment[REQUEST])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"trial {trial_id!r:.120} does not say with which limits it was measured (it was stored by another "
                "version); measure its recipe in a new run"
            ) from error
        processes = max(1, len(environment.get(ROUNDS) or ()))
        return cls(trial_id, request, processes, Measurement.from_json(dict(measurement)))


@dataclass(frozen=True)
class Finding:
    """One figure then and now: "inside" the original's interval, the intervals "overlap", or it "differs"."""

    name: str
    original: Estimate
    repeated: Estimate
    verdict: str


def compare(original: Measurement, repeated: Measurement) -> tuple[Finding, ...]:
    """The three ratios, each with its verdict."""
    return tuple(
        Finding(title, old, new, judge(old, new))
        for name, title in FIGURES.items()
        for old, new in [(getattr(original, name), getattr(repeated, name))]
    )


def judge(original: Estimate, repeated: Estimate) -> str:
    """Where a repeated estimate lies.

    >>> [judge(Estimate(2.0, 1.9, 2.1), Estimate(x, x - 0.1, x + 0.1)) for x in (2.05, 2.15, 2.5)]
    ['inside', 'overlap', 'differs']
    """
    if original.low == original.high:
        slack = COUNTED_SLACK * abs(original.value)
        original = Estimate(original.value, original.low - slack, original.high + slack)
    if original.low <= repeated.value <= original.high:
        return "inside"
    return "overlap" if repeated.low <= original.high and original.low <= repeated.high else "differs"


def agrees(findings: tuple[Finding, ...]) -> bool:
    """True unless a figure differs beyond both intervals."""
    return all(finding.verdict in ("inside", "overlap") for finding in findings)


def sentence(findings: tuple[Finding, ...]) -> str:
    """The verdict and each figure, for people.

    >>> sentence((Finding("speed", Estimate(2.0, 1.9, 2.1), Estimate(2.05, 2.0, 2.1), "inside"),))
    'it agrees: speed 2.050 lies inside 1.900 to 2.100'
    """
    words = {"inside": "lies inside", "overlap": "overlaps with", "differs": "differs from"}
    parts = [f"{f.name} {f.repeated.value:.3f} {words[f.verdict]} {_interval(f)}" for f in findings]
    return f"it {'agrees' if agrees(findings) else 'does not agree'}: {', '.join(parts)}"


def environment_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Every fact of the environment that is not the same, by name."""
    names = [name for name in (*before, *(name for name in after if name not in before)) if name not in _SILENT]
    pairs = {name: (_told(name, before.get(name)), _told(name, after.get(name))) for name in names}
    return {name: pair for name, pair in pairs.items() if _text(pair[0]) != _text(pair[1])}


def moved(environment: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Why other figures are to be expected here, one sentence each; what `here` does not know is not compared."""
    return [
        f"the {title} was {environment[name]}, now it is {here[name]}"
        for name, title in PLACE.items()
        if here.get(name) and environment.get(name) and str(environment[name]) != str(here[name])
    ]


def _told(name: str, value: Any) -> Any:
    if name == CONDITIONS and isinstance(value, Mapping):
        return "; ".join(value.get("why") or ["disturbed"]) if value.get("flagged") else "quiet"
    return value


def _interval(finding: Finding) -> str:
    low, high = finding.original.low, finding.original.high
    return f"{low:.3f} to {high:.3f}" if low != high else f"{low:.3f}"


def _text(value: Any) -> str:
    return json.dumps(to_json(value), sort_keys=True)
