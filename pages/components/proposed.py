"""What was proposed in a search, what was predicted of it and what came of it, as rows to draw; pure functions.

Who proposed which recipe stands in the run's "proposals" events, what came of it in its trials: the two meet here by
recipe and iteration. Predictions are logarithms of fitness / the untouched model's fitness; here they become factors,
like everything else on the pages. Nothing that was not told is filled in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid_core.records import BASELINE_KEY
from pages.components.format import is_number
from pages.components.learned import data_of, whole

Row = Mapping[str, Any]
TWO_SIDED_95 = 1.96
OPENING = "opening"


@dataclass(frozen=True)
class Proposal:
    """One recipe that was proposed; gains are factors on the untouched model's fitness, None where unknown.

    `outcome` is "ok", a failure, or "" when it was never measured; `is_fair` is False when it broke a bound.
    """

    iteration: int
    by: str
    key: str
    predicted: float | None = None
    predicted_low: float | None = None
    predicted_high: float | None = None
    outcome: str = ""
    reason: str = ""
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    is_fair: bool = True
    # How much it raised the best so far, as a logarithm, so that the shares of all proposers add up.
    raised: float = 0.0


@dataclass(frozen=True)
class Account:
    """What one proposer did for the run. `raised` is the factor by which all its finds raised the best so far."""

    by: str
    proposed: int
    measured: int
    failed: int
    best: float | None
    raised: float
    foretold: int
    inside: int


def proposals_of(events: Sequence[Row], trials: Sequence[Row], baseline: Any) -> list[Proposal]:
    """Every proposal in the order made, with what came of it."""
    told = list(_told(events))
    by_place = _by_place(trials)
    raised = _raised(trials, baseline)
    return [_with_outcome(entry, by_place, raised, baseline) for entry in told]


def accounts_of(proposals: Sequence[Proposal], trials: Sequence[Row], baseline: Any) -> list[Account]:
    """One row per proposer, the most useful first, and what the run measured before anybody proposed."""
    names = list(dict.fromkeys(p.by for p in proposals))
    accounts = [_account(name, [p for p in proposals if p.by == name]) for name in names]
    proposed = {(p.iteration, p.key) for p in proposals if p.outcome}
    raised = _raised(trials, baseline)
    others = [
        _with_outcome((_iteration(t), OPENING, str(t["recipe_key"]), {}), _by_place([t]), raised, baseline)
        for t in trials
        if _is_searched(t) and (_iteration(t), str(t["recipe_key"])) not in proposed
    ]
    if others:
        accounts.append(_account(OPENING, others))
    return sorted(accounts, key=lambda account: -account.raised)


def _told(events: Sequence[Row]) -> Iterable[tuple[int, str, str, Row]]:
    """(iteration, proposer, key, prediction) of each; runs before there were "proposals" told the children alone."""
    listed = {whole(data_of(e).get("iteration")) for e in events if e.get("kind") == "proposals"}
    for event in events:
        data = data_of(event)
        iteration, entries = whole(data.get("iteration")), data.get("proposals")
        if not isinstance(entries, list):
            continue
        if event.get("kind") == "proposals":
            for entry in entries:
                if isinstance(entry, Mapping) and isinstance(entry.get("key"), str):
                    yield iteration, str(entry.get("by") or data.get("searcher") or "unknown"), entry["key"], entry
        elif event.get("kind") == "selection" and iteration not in listed:
            for key in entries:
                if isinstance(key, str):
                    yield iteration, "selection", key, {}


def _with_outcome(
    entry: tuple[int, str, str, Row],
    by_place: Mapping[tuple[int, str], Row],
    raised: Mapping[str, float],
    baseline: Any,
) -> Proposal:
    iteration, by, key, told = entry
    trial = by_place.get((iteration, key), {})
    gains = [_factor(trial.get(name), baseline) for name in ("fitness", "fitness_low", "fitness_high")]
    return Proposal(
        iteration,
        by,
        key,
        *_prediction(told),
        outcome=str(trial.get("outcome") or ""),
        reason=str(trial.get("reason") or trial.get("infeasible_reason") or ""),
        gain=gains[0],
        gain_low=gains[1],
        gain_high=gains[2],
        is_fair=not trial.get("infeasible_reason"),
        raised=raised.get(str(trial.get("trial_id")), 0.0),
    )


def _account(name: str, mine: Sequence[Proposal]) -> Account:
    measured = [p for p in mine if p.outcome == "ok"]
    gains = [p.gain for p in measured if p.gain is not None and p.is_fair]
    foretold = [p for p in measured if p.gain is not None and p.predicted_low is not None]
    inside = [p for p in foretold if p.predicted_low <= p.gain <= p.predicted_high]  # type: ignore[operator]
    return Account(
        name,
        proposed=len(mine),
        measured=len(measured),
        failed=sum(bool(p.outcome) and p.outcome != "ok" for p in mine),
        best=max(gains, default=None),
        raised=math.exp(sum(p.raised for p in mine)),
        foretold=len(foretold),
        inside=len(inside),
    )


def _raised(trials: Sequence[Row], baseline: Any) -> dict[str, float]:
    """By trial: how much it raised the best so far, from the untouched model on."""
    best, found = 0.0, {}
    for trial in sorted(trials, key=lambda t: t.get("started_at") or 0.0):
        gain = _factor(trial.get("fitness"), baseline)
        counts = _is_searched(trial) and trial.get("outcome") == "ok" and not trial.get("infeasible_reason")
        if counts and gain is not None and math.log(gain) > best:
            found[str(trial.get("trial_id"))] = math.log(gain) - best
            best = math.log(gain)
    return found


def _by_place(trials: Sequence[Row]) -> dict[tuple[int, str], Row]:
    return {(_iteration(t), str(t.get("recipe_key"))): t for t in trials if _is_searched(t)}


def _is_searched(trial: Row) -> bool:
    # Iteration 0 is what the survey refused before anything was proposed.
    is_later = trial.get("iteration") != 0
    return is_later and trial.get("purpose") == "search" and trial.get("recipe_key") != BASELINE_KEY


def _iteration(trial: Row) -> int:
    return whole(trial.get("iteration"))


def _prediction(told: Row) -> tuple[float | None, float | None, float | None]:
    mean, sd = told.get("predicted"), told.get("sd")
    if not is_number(mean):
        return None, None, None
    if not is_number(sd):
        return _exp(mean), None, None
    return _exp(mean), _exp(mean - TWO_SIDED_95 * sd), _exp(mean + TWO_SIDED_95 * sd)


def _exp(value: Any) -> float | None:
    # A prediction beyond e^50 is no figure that a chart could show.
    return math.exp(value) if abs(value) < 50 else None


def _factor(value: Any, baseline: Any) -> float | None:
    if not is_number(value) or not is_number(baseline) or baseline <= 0 or value <= 0:
        return None
    return float(value) / float(baseline)
