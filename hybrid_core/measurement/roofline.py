"""Faster than physics: a call that takes less time than its work needs on this device at best did not do the work.

The bound must hold for every honest candidate. Optimizing may legally leave work out: rows that no answer needs,
attention that looks ahead, experts that were not chosen, keys that a cache remembers, weights in four bits. So a call
is refused only where a `ALLOWANCE`-th of the needed work would still be too fast for the best rate seen, in whatever
number format, on all cores; between that and all of the work there is a warning. Should the untouched model itself
beat what the device is said to reach, its rate is the ceiling. Source: see `ceilings`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hybrid_core.measurement.case import Case
from hybrid_core.measurement.ceilings import Ceilings, ceilings_of
from hybrid_core.measurement.nested import tensor_leaves
from hybrid_core.measurement.process_memory import RESIDENT
from hybrid_core.measurement.work import Work, count_work

# The sparsest published mixture of experts chooses 8 of 256 (DeepSeek-V3, arXiv:2412.19437): a model that computes all
# of them and a candidate that computes the chosen ones differ by 32. What else may go saves less: fast convolutions 4,
# looking ahead 2, absorbed products and answers for the last position a few times.
ALLOWANCE = 32
# Four bits are the fewest that a setting keeps a weight in.
LEAST_BYTES_OF_A_WEIGHT = 0.5
# Above this many times the device's best rate a candidate certainly leaves work out, however noisy the ceilings.
REMARKABLE = 2.0
_DRAWS = 8


@dataclass(frozen=True)
class Roofline:
    """The work of one call and what the device reaches at best; holds for all candidates of a run."""

    work: Work
    ceilings: Ceilings

    @property
    def least_bytes(self) -> float:
        """The weights in four bits, and the answer."""
        return LEAST_BYTES_OF_A_WEIGHT * self.work.weight_values + self.work.answer_bytes

    @property
    def all_the_work_ms(self) -> float:
        """Of one call at the best rates, calculating and reading side by side."""
        return 1e3 * max(self.work.needed_flops / self.ceilings.best_flops, self.reading_s)

    @property
    def reading_s(self) -> float:
        """Seconds that reading the least bytes takes at best."""
        return self.least_bytes / self.ceilings.best_read

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, for the next process of the run."""
        return {"work": self.work.to_json(), "ceilings": self.ceilings.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Roofline:
        """What `to_json` gave; raises ValueError, KeyError, TypeError or AttributeError where it is no such thing."""
        return cls(Work.from_json(data["work"]), Ceilings.from_json(data["ceilings"]))

    def fits(self, case: Case) -> bool:
        """Whether it was measured on this device with as many threads."""
        return (self.ceilings.device, self.ceilings.threads) == (str(case.device), torch.get_num_threads())


@dataclass(frozen=True)
class Verdict:
    """`facts` to keep with the measurement, a `fault` that refuses the candidate, a `warning`; both may be empty."""

    facts: dict[str, Any]
    fault: str = ""
    warning: str = ""


# What an earlier process of the same run measured for the same subject, where one did.
_taken_over: list[Roofline] = []


def take_over(text: str) -> None:
    """Use the JSON of an earlier process of this run; a text that is no such thing is measured anew instead."""
    _taken_over.clear()
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        _taken_over.append(Roofline.from_json(json.loads(text)))


def read_roofline(case: Case) -> Roofline:
    """What was taken over, or is measured now; to be called before any code of a candidate runs."""
    if _taken_over and _taken_over[0].fits(case):
        return _taken_over[0]
    # On a copy, which a call may change: the untouched model must not be a call ahead of the candidate.
    work = count_work(case, case.build_model(), case.fresh_inputs(case.generator("work")))
    with RESIDENT.not_counted():
        return Roofline(work, ceilings_of(case.device, torch.get_num_threads()))


def judge(roofline: Roofline, baseline_ms: float, candidate_ms: float, inputs_repeat: Callable[[], bool]) -> Verdict:
    """Hold the two models' times per call against the bound.

    `inputs_repeat` is asked only before a refusal: where the same question comes again, an answer may be remembered.
    """
    work, ceilings = roofline.work, roofline.ceilings
    whole_ms = min(baseline_ms, roofline.all_the_work_ms)
    bound_ms = whole_ms / ALLOWANCE / _spare_cores(ceilings)
    facts = {
        **roofline.to_json(),
        "allowance": ALLOWANCE,
        "bytes": roofline.least_bytes,
        "flops": work.flops,
        "bound_ms": bound_ms,
        "all_the_work_ms": whole_ms,
        "baseline_share": whole_ms / baseline_ms,
        "candidate_share": whole_ms / candidate_ms,
    }
    if candidate_ms < bound_ms:
        if inputs_repeat():
            return Verdict({**facts, "inputs_repeat": True}, warning="the workload asks the same question again")
        return Verdict(facts, fault=_too_fast(roofline, whole_ms, candidate_ms))
    if candidate_ms * REMARKABLE < whole_ms:
        return Verdict(facts, warning=_less_work(whole_ms / candidate_ms))
    return Verdict(facts)


def inputs_repeat(case: Case) -> bool:
    """Whether equal inputs come up among a few draws."""
    generator = case.generator("repeats")
    draws = [tensor_leaves(case.fresh_inputs(generator)) for _ in range(_DRAWS)]
    return any(
        all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        for index, one in enumerate(draws)
        for other in draws[:index]
    )


def _spare_cores(ceilings: Ceilings) -> float:
    """How many times more cores a candidate could use than the ceilings were measured with."""
    if ceilings.device != "cpu":
        return 1.0
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1.0, allowed / ceilings.threads)


def _too_fast(roofline: Roofline, whole_ms: float, candidate_ms: float) -> str:
    """The sentence, in the rate that binds: calculating, or reading where that takes longer."""
    is_reading = roofline.reading_s * 1e3 >= roofline.all_the_work_ms
    amount = roofline.least_bytes if is_reading else roofline.work.needed_flops
    unit = "B/s" if is_reading else "flop/s"
    claimed, best = (_rate(amount / milliseconds * 1e3, unit) for milliseconds in (candidate_ms, whole_ms))
    return (
        f"{candidate_ms:.3g} ms per call would be {claimed} where this device reached {best} at best: faster than "
        "physics, so it does not do the work"
    )


def _less_work(times: float) -> str:
    return (
        f"it would be {times:.1f} times faster than this device's best rate if it did all the work of the untouched "
        "model, so it does a part of it"
    )


def _rate(amount: float, unit: str) -> str:
    """A rate with a prefix that suits.

    >>> _rate(1.8e11, "flop/s"), _rate(3.1e13, "B/s")
    ('180 Gflop/s', '31 TB/s')
    """
    return f"{amount / 1e12:.3g} T{unit}" if amount >= 1e12 else f"{amount / 1e9:.3g} G{unit}"
