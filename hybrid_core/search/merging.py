"""Several processes that measured the same recipe become one trial.

The speed is combined over the processes (`measurement.rounds`), what was counted is taken at its least favourable, and
every process stays visible under `environment["rounds"]`. A recipe that is wrong or crashes in one process is wrong or
crashes: another process that went well is luck. Only a process that was taken from us says nothing about its recipe.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hybrid_core.measurement.rounds import Spread, combine_rounds, p_value
from hybrid_core.records import Estimate, Measurement, Outcome, Trial
from hybrid_core.search.noise import Noise, moment_of
from hybrid_core.search.speeds import ROUNDS, usable, with_speed


def join_rounds(trial_id: str, rounds: Sequence[Trial], noise: Noise) -> Trial:
    """One trial of all rounds of a recipe, with the interval that what is known of the device and the model gives."""
    recipe = rounds[0].recipe
    return merge_rounds(trial_id, rounds, noise.between(recipe, len(rounds)), moment_of(recipe))


def merge_rounds(trial_id: str, rounds: Sequence[Trial], known: Spread | None = None, moment: float = 0.0) -> Trial:
    """One trial of all rounds: its measurement, or the failure of the first round that failed.

    `known` is the spread between processes without these rounds, `moment` as in `combine_rounds`.
    """
    counts = Counter[str]()
    for one in rounds:
        counts.update(one.phases_s)
    shared: dict[str, Any] = {
        "trial_id": trial_id,
        "started_at": rounds[0].started_at,
        "seconds": sum(one.seconds for one in rounds),
        "phases_s": dict(counts),
    }
    kept = [one for one in rounds if one.outcome is not Outcome.WORKER_LOST]
    failed = next((one for one in kept or rounds if not one.is_ok), None)
    if failed is not None:
        where = f"in process {list(rounds).index(failed) + 1} of {len(rounds)}: " if len(rounds) > 1 else ""
        return replace(failed, **shared, reason=where + failed.reason)
    return replace(kept[0], **shared, measurement=_merged(rounds, kept, known, moment))


def _merged(rounds: Sequence[Trial], kept: Sequence[Trial], known: Spread | None, moment: float) -> Measurement:
    parts = [one.measurement for one in kept if one.measurement is not None]
    first, lost = parts[0], len(rounds) - len(kept)
    together = replace(
        first,
        memory_efficiency=_across([one.memory_efficiency for one in parts]),
        accuracy_preservation=_across([one.accuracy_preservation for one in parts]),
        latency_ms=_across([one.latency_ms for one in parts]),
        baseline_latency_ms=_across([one.baseline_latency_ms for one in parts]),
        peak_bytes=max(one.peak_bytes for one in parts),
        resident_bytes=max(one.resident_bytes for one in parts),
        max_abs_error=max(one.max_abs_error for one in parts),
        stop_reason=_stop_reason(parts),
        pairs_ms=tuple(pair for one in parts for pair in one.pairs_ms),
        warnings=_warnings(parts, lost),
        environment={**first.environment, **_conditions(parts), ROUNDS: [_entry(one) for one in kept]},
    )
    speeds = [one.speed_improvement for one in parts]
    if not all(usable(one) for one in parts):
        return replace(together, speed_improvement=next(one.speed_improvement for one in parts if not usable(one)))
    speed, chance = combine_rounds(speeds, known, moment), p_value(speeds, known, moment)
    return with_speed(together, speed, known, p_value=chance)


def _entry(trial: Trial) -> dict[str, Any]:
    """One process as pages and later runs read it; the interval is the one inside the process."""
    assert trial.measurement is not None
    speed = trial.measurement.speed_improvement
    return {
        "trial_id": trial.trial_id,
        "ratio": speed.value,
        "low": speed.low,
        "high": speed.high,
        "pairs": len(trial.measurement.pairs_ms),
        "seconds": trial.seconds,
        "started_at": trial.started_at,
        "stop_reason": trial.measurement.stop_reason,
    }


def _conditions(parts: Sequence[Measurement]) -> dict[str, Any]:
    """The first process's conditions, flagged where those of any were; nothing where none were recorded."""
    told = [one.environment["conditions"] for one in parts if "conditions" in one.environment]
    if not told:
        return {}
    why = dict.fromkeys(reason for one in told for reason in one.get("why", ()))
    return {"conditions": {**told[0], "flagged": any(one.get("flagged") for one in told), "why": list(why)}}


def _across(estimates: Sequence[Estimate]) -> Estimate:
    """The median with the ends of all intervals: what is promised must hold in every process."""
    value = statistics.median(one.value for one in estimates)
    return Estimate(value, min(one.low for one in estimates), max(one.high for one in estimates))


def _stop_reason(parts: Sequence[Measurement]) -> str:
    if len(parts) == 1:
        return parts[0].stop_reason
    pairs = " + ".join(str(len(one.pairs_ms)) for one in parts)
    return f"{len(parts)} fresh processes with {pairs} pairs; the last one: {parts[-1].stop_reason}"


def _warnings(parts: Sequence[Measurement], lost: int) -> tuple[str, ...]:
    """Each warning once, with the processes it came from where not all gave it."""
    if len(parts) == 1 and not lost:
        return parts[0].warnings
    told = {text: [n for n, one in enumerate(parts, 1) if text in one.warnings] for p in parts for text in p.warnings}
    sentences = [
        text if len(where) == len(parts) else f"process {' and '.join(map(str, where))}: {text}"
        for text, where in told.items()
    ]
    decisions = [one.environment.get("decisions") for one in parts]
    if any(one != decisions[0] for one in decisions):
        sentences.append("its processes decided differently by their own measuring; the first one's decisions are kept")
    if lost:
        sentences.append(f"{lost} of {len(parts) + lost} processes were lost through no fault of the recipe")
    return tuple(sentences)
