"""Under what conditions a race was run, said with figures: flagged where they were not quiet, refused where hopeless.

A flagged race keeps its figures: baseline and candidate took turns under the same noise, and the interval says how far
they hold. Only a race that was mostly disturbed, is far wider than asked for and cannot tell faster from slower ends as
"unstable". `blocks` judges single blocks, `neighbours` names who else used the processors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hybrid_core.errors import MeasurementFailed
from hybrid_core.measurement.blocks import NOT_HEAT, BlockLog, Reading, known, own_share, waited_share
from hybrid_core.measurement.neighbours import Census, busy_processes, foreign_share, stolen_share
from hybrid_core.measurement.processor import BLOCK_KEYS, add_readings
from hybrid_core.measurement.statistics import half_width, ratio_of_pairs
from hybrid_core.records import Estimate, MeasureLimits, Outcome

PROCESSOR_KEYS = (*BLOCK_KEYS, "mhz")
# A median of which a tenth is disturbed moves by at most 0.14 of the blocks' spread: less than the half width of its
# interval up to 300 blocks. A single one is chance.
DISTURBED_LIMIT, FEWEST_DISTURBED = 0.10, 2
FOREIGN_LIMIT = 0.20
STOLEN_LIMIT = 0.02
NAMED_SHARE = 0.05
MOST_NAMED = 5
UNSTABLE_SHARE = 0.40
UNSTABLE_FACTOR = 5.0
FEWEST_TO_CONDEMN = 20  # the interval of a few blocks is wide because they are few


def summarize(
    log: BlockLog, before: Census | None, after: Census | None, own: frozenset[int], noise: Sequence[str] = ()
) -> dict[str, Any]:
    """The facts for `environment["conditions"]`; `noise` are the sentences that the times themselves gave rise to.

    Shares are of the processors this process may use. None is what the system does not say.
    """
    facts: dict[str, Any] = {
        "blocks": len(log.kept),
        "retaken": len(log.again),
        "disturbed_blocks": len(log.disturbed()),
        "reasons": sorted({reason for reasons in (*log.again, *log.disturbed()) for reason in reasons}),
        "own_share": _rounded(own_share(_total(log.kept), log.threads)),
        "waited_share": _rounded(waited_share(_total(log.kept))),
        "involuntary_switches": _total(log.kept).get("switches"),
        "stolen_share": _rounded(stolen_share(before, after) if before and after else None),
        "foreign_share": _rounded(foreign_share(before, after, own) if before and after else None),
        "others": busy_processes(before, after, own, NAMED_SHARE)[:MOST_NAMED] if before and after else None,
        **_clocks([log.first, *log.kept]),
        "block_own_shares": [_rounded(own_share(reading, log.threads)) for reading in log.kept],
        "block_waited_shares": [_rounded(waited_share(reading)) for reading in log.kept],
    }
    why = disturbances(facts)
    return {**facts, "flagged": bool(why or noise), "why": [*why, *noise]}


def disturbances(facts: Mapping[str, Any]) -> list[str]:
    """What was wrong with the machine, one clause each with its figures; empty when it was quiet."""
    return [*_of_blocks(facts), *_of_neighbours(facts)]


def _of_blocks(facts: Mapping[str, Any]) -> list[str]:
    taken = facts["blocks"] + facts["retaken"]
    disturbed = facts["disturbed_blocks"] + facts["retaken"]
    if disturbed < FEWEST_DISTURBED or disturbed <= DISTURBED_LIMIT * taken:
        return []
    counts = f"{disturbed} of {taken} timed blocks were disturbed ({', '.join(facts['reasons'])})"
    return [f"{counts}, {facts['retaken']} were taken again and {facts['disturbed_blocks']} had to be kept"]


def _of_neighbours(facts: Mapping[str, Any]) -> list[str]:
    found = []
    if (facts["foreign_share"] or 0.0) > FOREIGN_LIMIT:
        named = ", ".join(f"{other['name']} (pid {other['pid']}) {other['share']:.0%}" for other in facts["others"])
        found.append(
            f"other processes used {facts['foreign_share']:.0%} of the processors"
            + (f" (of one core: {named})" if named else "")
        )
    if (facts["stolen_share"] or 0.0) > STOLEN_LIMIT:
        found.append(f"the hypervisor took away {facts['stolen_share']:.0%} of the processors' time")
    return found


def condition_warnings(log: BlockLog, facts: Mapping[str, Any]) -> list[str]:
    """The sentences for a measurement's warnings, beside those about the times themselves."""
    throttled = {reason for reasons in log.disturbed() for reason in reasons} - NOT_HEAT
    heat = sum(1 for reasons in log.again if set(reasons) - NOT_HEAT)
    warnings = [f"{heat} timed blocks were taken again because the device was throttled"] if heat else []
    if throttled:
        words = ", ".join(sorted(throttled))
        warnings.append(f"still throttled after {len(log.again)} retakes ({words}): times are too high")
    only_heat = not NOT_HEAT & set(facts["reasons"])
    why = _of_neighbours(facts) if only_heat else disturbances(facts)
    return [*warnings, *([f"the machine was not quiet while timed: {'; '.join(why)}"] if why else [])]


def refuse_unstable(
    facts: Mapping[str, Any], pairs_ms: Sequence[tuple[float, float]], limits: MeasureLimits, seed: int
) -> None:
    """End a trial whose race says nothing at all.

    Raises:
        MeasurementFailed: with the outcome "unstable".
    """
    reason = unstable_reason(facts, ratio_of_pairs(pairs_ms, seed), half_width(pairs_ms, seed), limits)
    if reason:
        raise MeasurementFailed(reason, outcome=Outcome.UNSTABLE, stage="timing")


def unstable_reason(facts: Mapping[str, Any], ratio: Estimate, width: float, limits: MeasureLimits) -> str:
    """Why a race says nothing at all, as a sentence; empty when its figures can be used.

    Three things together: much of it was disturbed, the interval of many blocks is far wider than asked for, and it
    cannot even tell faster from slower. A clear winner stays a winner on a busy machine, with a wide interval.
    """
    taken = facts["blocks"] + facts["retaken"]
    disturbed = facts["disturbed_blocks"] + facts["retaken"]
    decided = ratio.low > 1.0 or ratio.high < 1.0 or facts["blocks"] < FEWEST_TO_CONDEMN
    if decided or disturbed <= UNSTABLE_SHARE * taken or width <= UNSTABLE_FACTOR * limits.target_half_width:
        return ""
    reasons = ", ".join(facts["reasons"])
    return (
        f"{disturbed} of {taken} timed blocks ({disturbed / taken:.0%}) were disturbed ({reasons}), "
        f"and the ratio is only known to ±{width:.0%} (asked for: {limits.target_half_width:.1%}); "
        "close other programs and measure again"
    )


def is_flagged(environment: Mapping[str, Any]) -> bool:
    """Whether a measurement's environment says that it was taken under disturbed or noisy conditions."""
    return bool(environment.get("conditions", {}).get("flagged", False))


def device_readings(readings: Iterable[Reading]) -> tuple[dict[str, Any], ...]:
    """What a GPU said after each block; what the processors did is in the conditions, block by block, as shares."""
    kept = [{key: value for key, value in reading.items() if key not in PROCESSOR_KEYS} for reading in readings]
    return tuple(reading for reading in kept if reading)


def _total(readings: Iterable[Reading]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for reading in readings:
        total = add_readings(total, reading)
    return total


def _clocks(readings: Iterable[Reading]) -> dict[str, float | None]:
    clocks = known(reading.get("mhz") for reading in readings)
    return {"mhz_low": min(clocks, default=None), "mhz_high": max(clocks, default=None)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
