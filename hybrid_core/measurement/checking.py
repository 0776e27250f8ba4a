"""The correctness phase: the same fresh questions to both models, before any clock runs.

The last question is written into tensors that were used before, so that an answer cached by identity or address is
stale; the random state is moved before every call, so that seeding it back is seen; and an answer kept from one call
must survive the next.
"""

from __future__ import annotations

import random
from typing import Any

import torch

from hybrid_core.measurement import guards
from hybrid_core.measurement.contest import Contest, refuse, refuse_bad_baseline
from hybrid_core.measurement.correctness import constant_fault, relative_error
from hybrid_core.measurement.nested import clone_tensors, tensor_leaves

CORRECTNESS_INPUTS = 3
NOISE_CALLS = 8


def check_correctness(contest: Contest) -> int:
    """Several fresh inputs, one of them written into tensors used before; returns calls made of each model."""
    generator = contest.case.generator("correctness")
    expected: list[Any] = []
    got: list[Any] = []
    reused: Any = None
    for turn in range(CORRECTNESS_INPUTS + 1):
        inputs = contest.case.fresh_inputs(generator)
        answer, allowed = _ask_baseline(contest, inputs, is_first=turn == 0)
        if turn == CORRECTNESS_INPUTS:
            guards.refill(reused, inputs)
        else:
            reused = clone_tensors(inputs)
        expected.append(answer)
        got.append(_ask_candidate(contest, reused, answer, allowed))
    refuse(constant_fault(expected, got), "correctness")
    _refuse_shared_buffers(contest, generator)
    return CORRECTNESS_INPUTS + 3


def _ask_baseline(contest: Contest, inputs: Any, *, is_first: bool) -> tuple[Any, frozenset[str]]:
    """Its answer, and what it itself does to the process or its inputs, which a candidate may then do too."""
    _disturb_random_state(contest)
    before, given = guards.process_state(), clone_tensors(inputs)
    answer = clone_tensors(contest.answer(contest.baseline, given))
    allowed = set(guards.changed_settings(before, guards.process_state()))
    if guards.mutation_fault(inputs, given):
        allowed.add("inputs")
    refuse_bad_baseline(answer)
    if is_first:
        _measure_noise(contest, inputs, answer)
    return answer, frozenset(allowed)


def _measure_noise(contest: Contest, inputs: Any, answer: Any) -> None:
    """How far the baseline is from its own answer: one more call, and several where that one differs."""
    for turn in range(NOISE_CALLS):
        again = contest.answer(contest.baseline, clone_tensors(inputs))
        pairs = zip(tensor_leaves(answer), tensor_leaves(again), strict=True)
        differences = [relative_error(a, b) for a, b in pairs if a.is_floating_point()]
        contest.noise = max([contest.noise, *differences])
        if turn == 0 and contest.noise == 0:
            return
    contest.warnings.append(f"the untouched model differs from itself by {contest.noise:.1e} between two calls")


def _ask_candidate(contest: Contest, inputs: Any, expected: Any, allowed: frozenset[str]) -> Any:
    _disturb_random_state(contest)
    before, kept = guards.process_state(), clone_tensors(inputs)
    answer = contest.answer(contest.candidate, inputs)
    refuse(guards.state_fault(before, guards.process_state(), allowed), "correctness")
    if "inputs" not in allowed:
        refuse(guards.mutation_fault(kept, inputs), "correctness")
    contest.compare(expected, answer, "correctness")
    return clone_tensors(answer)


def _disturb_random_state(contest: Contest) -> None:
    """A new state before every call: whoever always seeds the same way would find it as he left it."""
    contest.seeds += 1
    torch.manual_seed(contest.seeds)
    random.seed(contest.seeds)


def _refuse_shared_buffers(contest: Contest, generator: torch.Generator) -> None:
    first, second = (contest.case.fresh_inputs(generator) for _ in range(2))
    fault = guards.aliasing_fault(lambda inputs: contest.answer(contest.candidate, inputs), first, second)
    if fault and not guards.aliasing_fault(lambda inputs: contest.answer(contest.baseline, inputs), first, second):
        refuse(fault, "correctness")
