"""What to try next: recipes that earlier runs measured on this kind of model, with how often and how sure.

Speed ratios multiply, so runs are averaged as logarithms, with Student's t interval over runs; a recipe is ranked by
the *pessimistic* end, so one lucky run does not beat ten good ones. Where nothing was measured the original document's
table answers instead, marked as a claim. Devices are never mixed: results of another device are used only when there
are none of this one, and the sentence says so. Standard library only, because the hub computes this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from hybrid_core.adaptive.document import CLAIMED, MODEL_OPTIMIZATIONS, NEAREST_SETTING
from hybrid_core.adaptive.history import HistoryRow
from hybrid_core.records import BASELINE_KEY, Estimate, Recipe

HISTORY = "history"
DOCUMENT = "document"
# Two-sided 95 % quantiles of Student's t for 1, 2, ... 30 degrees of freedom.
_T95 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)


@dataclass(frozen=True)
class Recommendation:
    """One recipe worth trying and why.

    `source` is "history" (measured `n` times; `failure_share` of the attempts failed) or "document" (a claim; `n` is
    0). `device` is where it was measured, empty for a claim.
    """

    recipe: Recipe
    n: int
    speed: Estimate
    memory: Estimate
    accuracy: Estimate
    source: str
    sentence: str
    device: str = ""
    failure_share: float = 0.0


def recommend(
    rows: Sequence[HistoryRow],
    family: str,
    *,
    workload: str = "",
    device: str = "",
    min_accuracy_preservation: float = 0.98,
    limit: int = 5,
) -> tuple[Recommendation, ...]:
    """At most `limit` recommendations: measured ones first, best pessimistic speed first, then the document's.

    A recipe whose mean accuracy lies below the bound, whose attempts mostly failed, or whose mean speed is no gain is
    left out, and so is the document's claim for a strategy that was already measured here. Empty `workload` or `device`
    means any; several devices are then told apart, never averaged.
    """
    same_family = [row for row in rows if row.family == family and row.recipe_key != BASELINE_KEY]
    nearest, where = _nearest_rows(same_family, workload, device)
    measured = _from_history(nearest, family, where, min_accuracy_preservation)
    tried = {step for row in nearest for step in Recipe.from_key(row.recipe_key).steps}
    claims = [claim for claim in _from_document(family) if not set(claim.recipe.steps) & tried]
    return tuple((measured + claims)[:limit])


def geometric_mean(estimates: Sequence[Estimate]) -> Estimate:
    """The geometric mean of positive ratios with a 95 % interval over runs.

    One run keeps its own interval. With several, the half-width is the larger of Student's t over runs and what the
    runs' own intervals leave after averaging: two runs that agree by luck are not certain.
    """
    logs = [math.log(estimate.value) for estimate in estimates]
    own = [_half_width(estimate) for estimate in estimates]
    n, mean = len(logs), fmean(logs)
    half = math.sqrt(sum(width * width for width in own)) / n
    if n == 1:
        return estimates[0]
    half = max(half, _t95(n - 1) * stdev(logs) / math.sqrt(n))
    return Estimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def _nearest_rows(rows: Sequence[HistoryRow], workload: str, device: str) -> tuple[list[HistoryRow], str]:
    """The most similar rows there are, and words for what differs."""
    here = [row for row in rows if not device or row.device == device]
    exact = [row for row in here if not workload or row.workload == workload]
    if any(row.is_ok for row in exact):
        return exact, ""
    if any(row.is_ok for row in here):
        return here, f"on other workloads, not yet on {workload}"
    if device and any(row.is_ok for row in rows):
        return list(rows), f"never on {device}"
    return exact, ""


def _from_history(rows: Sequence[HistoryRow], family: str, where: str, min_accuracy: float) -> list[Recommendation]:
    groups: dict[tuple[str, str], list[HistoryRow]] = {}
    for row in rows:
        groups.setdefault((row.recipe_key, row.device), []).append(row)
    found = [_summarise(key, device, group, family, where) for (key, device), group in groups.items()]
    good = [
        r
        for r in found
        if r is not None and r.speed.value > 1 and not r.accuracy.value < min_accuracy and r.failure_share < 0.5
    ]
    return sorted(good, key=lambda r: (-r.speed.low, len(r.recipe.steps), r.recipe.key, r.device))


def _summarise(key: str, device: str, rows: Sequence[HistoryRow], family: str, where: str) -> Recommendation | None:
    ok = [row for row in rows if row.is_ok]
    if not ok:
        return None
    failed = len(rows) - len(ok)
    speed = geometric_mean([row.speed for row in ok])
    times = "once" if len(ok) == 1 else f"{len(ok)} times"
    note = f", {where}" if where else ""
    failures = f"; {failed} of {len(rows)} attempts failed" if failed else ""
    sentence = (
        f"Measured {times} on {family} models on {device}{note}: {speed.value:.2f}x speed "
        f"(95 % interval {speed.low:.2f} to {speed.high:.2f}){failures}."
    )
    return Recommendation(
        recipe=Recipe.from_key(key),
        n=len(ok),
        speed=speed,
        memory=_mean_of_known([row.memory for row in ok]),
        accuracy=_mean_of_known([row.accuracy for row in ok]),
        source=HISTORY,
        sentence=sentence,
        device=device,
        failure_share=failed / len(rows),
    )


def _from_document(family: str) -> list[Recommendation]:
    listed = family in MODEL_OPTIMIZATIONS
    strategies = MODEL_OPTIMIZATIONS.get(family) or tuple(sorted(CLAIMED, key=lambda name: -CLAIMED[name][0]))
    source = (
        f"suggests {{}} for {family} models" if listed else f"does not know {family} models; for {{}} in general it"
    )
    claims = []
    for strategy in strategies:
        speed, memory, accuracy = CLAIMED[strategy]
        verb = " and claims" if listed else " claims"
        claims.append(
            Recommendation(
                recipe=Recipe.from_dict({strategy: NEAREST_SETTING[strategy]}),
                n=0,
                speed=Estimate.exact(speed),
                memory=Estimate.exact(memory),
                accuracy=Estimate.exact(accuracy),
                source=DOCUMENT,
                sentence=(
                    f"The original document {source.format(strategy)}{verb} {speed:g}x speed, {memory:g}x memory "
                    f"and {accuracy:.0%} accuracy; no run here has measured it yet."
                ),
            )
        )
    return claims


def _mean_of_known(estimates: Sequence[Estimate]) -> Estimate:
    known = [estimate for estimate in estimates if math.isfinite(estimate.value) and estimate.value > 0]
    return geometric_mean(known) if known else Estimate(math.nan, math.nan, math.nan)


def _half_width(estimate: Estimate) -> float:
    """Half the interval on the log scale; 0 when the ends are unknown."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)) or estimate.low <= 0:
        return 0.0
    return (math.log(estimate.high) - math.log(estimate.low)) / 2


def _t95(degrees: int) -> float:
    # Beyond the table the quantile of 30 degrees is used: it is a little too wide, never too narrow.
    return _T95[min(degrees, len(_T95)) - 1]
