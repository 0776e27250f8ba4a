"""The correctness phase: the same questions to both models, before any clock runs.

Fresh questions find what is wrong outright; the others are there for answers that are remembered instead of computed.
One is asked while the untouched model's weights are scrambled, one is written into tensors used before, one differs
from the question before it in its last item only, and the first is asked again in the end. The random state is moved
before every call, so that seeding it back is seen; answers kept from the first calls must survive the later ones. What
the untouched model itself does to its inputs, to the process or to its own buffers is found out here, said in the
warnings and not held against the candidate.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from hybrid_core.measurement import guards
from hybrid_core.measurement.contest import Contest, refuse, refuse_bad_baseline
from hybrid_core.measurement.correctness import compare_outputs, constant_fault, relative_error, usual_sizes
from hybrid_core.measurement.nested import clone_tensors, map_tensors, snapshot, tensor_leaves
from hybrid_core.measurement.process_state import (
    changed_settings,
    left_thread,
    process_state,
    seed_everything,
    state_fault,
)

FRESH_QUESTIONS = 3
NOISE_CALLS = 8
# For outputs of few values, whose own size says little: calls that tell how large they usually are.
SIZE_CALLS = 8
# Beyond this the untouched model's own difference leaves little room between a right answer and zeros (off by 1).
LARGE_NOISE = 0.3


@dataclass
class _Kept:
    """Answers as they were given, beside copies made at once."""

    given: list[Any]
    copies: list[Any]

    def add(self, answer: Any) -> None:
        """Keep one more."""
        self.given.append(answer)
        self.copies.append(snapshot(answer))

    def fault(self) -> str:
        """An answer that has changed since it was given."""
        return guards.rewritten_fault(self.copies, self.given)


def check_correctness(contest: Contest) -> int:
    """Ask every kind of question; returns the calls made of each model, for the warm-up."""
    contest.refuse_touched_baseline("correctness")
    generator, weights = contest.case.generator("correctness"), guards.own_weights(contest.candidate)
    questions = [contest.case.fresh_inputs(generator) for _ in range(FRESH_QUESTIONS + 1)]
    answers, kept, given = _Kept([], []), _Kept([], []), []
    for turn, inputs in enumerate(questions[:FRESH_QUESTIONS]):
        answers.add(_ask_baseline(contest, inputs, is_first=turn == 0))
        if turn == 0:
            _note_usual_sizes(contest, answers.copies[0])
        given.append(clone_tensors(inputs))
        ask = _ask_without_the_baseline if turn == 1 else _ask_candidate
        kept.add(ask(contest, given[turn], answers.copies[turn]))
    refuse(constant_fault(answers.copies, kept.copies), "correctness")
    _ask_in_used_tensors(contest, given[-1], questions)
    refuse(_asked_again_fault(contest, questions[0], answers.copies[0]), "correctness")
    contest.reuses_outputs = bool(answers.fault())
    if contest.reuses_outputs:
        contest.warnings.append("the untouched model writes its next answer over the one before")
    else:
        refuse(_Kept(kept.given[:-1], kept.copies[:-1]).fault(), "correctness")
    changed = guards.differing(weights, guards.own_weights(contest.candidate))
    refuse(f"it changes its own weights from call to call ({changed[0]})" if changed else "", "correctness")
    contest.refuse_touched_baseline("correctness")
    return FRESH_QUESTIONS + 3


def _ask_baseline(contest: Contest, inputs: Any, *, is_first: bool = False) -> Any:
    """Its answer; what it does to the process, its inputs and itself is noted the first time."""
    contest.seeds += 1
    seed_everything(contest.seeds)
    before, given = process_state(), clone_tensors(inputs)
    answer = contest.answer(contest.baseline, given)
    refuse_bad_baseline(answer)
    if is_first:
        _note_oddities(contest, before, guards.mutation_fault(inputs, given))
        _measure_noise(contest, inputs, snapshot(answer))
    return answer


def _note_oddities(contest: Contest, before: dict[str, Any], mutation: str) -> None:
    """What an untouched model should not do, but may: said, and free to the candidate too."""
    changed = changed_settings(before, process_state())
    contest.allowed = changed | ({"inputs"} if mutation else frozenset())
    contest.drifting = frozenset(guards.differing(contest.baseline_parts, guards.fingerprint(contest.baseline)))
    if mutation:
        contest.warnings.append(f"the untouched model changes its own inputs: {mutation.split(',')[0]}")
    if changed:
        contest.warnings.append(f"the untouched model itself changes the {' and the '.join(sorted(changed))}")
    if contest.drifting:
        names = ", ".join(sorted(contest.drifting)[:3])
        contest.warnings.append(f"the untouched model changes itself from call to call ({names}), so its answers drift")


def _measure_noise(contest: Contest, inputs: Any, answer: Any) -> None:
    """How far the baseline is from its own answer: one more call, and several where that one differs."""
    for turn in range(NOISE_CALLS):
        again = contest.answer(contest.baseline, clone_tensors(inputs))
        pairs = zip(tensor_leaves(answer), tensor_leaves(again), strict=True)
        differences = [relative_error(a, b) for a, b in pairs if a.is_floating_point() or a.is_complex()]
        contest.noise = max([contest.noise, *differences])
        if turn == 0 and contest.noise == 0:
            return
    more = ", so that wrong answers can hardly be told from right ones" if contest.noise > LARGE_NOISE else ""
    contest.warnings.append(f"the untouched model differs from itself by {contest.noise:.1e} between two calls{more}")


def _note_usual_sizes(contest: Contest, answer: Any) -> None:
    """How large outputs of few values are over several questions, asked only where there is such an output."""
    if not usual_sizes([answer]):
        return
    generator = contest.case.generator("usual sizes")
    inputs = [contest.case.fresh_inputs(generator) for _ in range(SIZE_CALLS)]
    contest.usual = usual_sizes([snapshot(contest.answer(contest.baseline, one)) for one in inputs])


def _ask_candidate(contest: Contest, inputs: Any, expected: Any) -> Any:
    """Its answer, which must be right, and must have left everything else as it was."""
    contest.seeds += 1
    seed_everything(contest.seeds)
    before, kept, threads = process_state(), clone_tensors(inputs), set(threading.enumerate())
    answer = contest.answer(contest.candidate, inputs)
    copy = snapshot(answer)
    refuse(state_fault(before, process_state(), contest.allowed), "correctness")
    if not contest.change.compiles:  # a compiler may have started its own workers
        refuse(left_thread(threads), "correctness")
    if "inputs" not in contest.allowed:
        refuse(guards.mutation_fault(kept, inputs), "correctness")
    contest.compare(expected, copy, "correctness")
    return answer


def _ask_without_the_baseline(contest: Contest, inputs: Any, expected: Any) -> Any:
    """One question while the untouched model's weights are nonsense: a candidate that needs them gives nonsense too."""
    fault = _fault_without_the_baseline(contest, inputs, expected)
    answer = _ask_candidate(contest, inputs, expected)
    if fault and _fault_without_the_baseline(contest, inputs, expected):
        refuse("it computes with the weights of the untouched model", "correctness")
    refuse(fault, "correctness")  # a wrong answer, whatever the reason
    return answer


def _fault_without_the_baseline(contest: Contest, inputs: Any, expected: Any) -> str:
    with guards.scrambled(contest.private.values(), contest.case.device):
        answer = contest.answer(contest.candidate, clone_tensors(inputs))
        return compare_outputs(expected, snapshot(answer), contest.tolerance).fault


def _ask_in_used_tensors(contest: Contest, used: Any, questions: list[Any]) -> None:
    """New values in tensors that were used before; then all but the last item as in the question just asked."""
    guards.refill(used, questions[-1])
    expected = snapshot(_ask_baseline(contest, questions[-1]))
    _ask_candidate(contest, used, expected)
    mixed = guards.mixed_question(questions[-1], questions[0], contest.case.workload.batch)
    if mixed is not None:
        expected = snapshot(_ask_baseline(contest, mixed))
        guards.refill(used, mixed)
        _ask_candidate(contest, used, expected)


def _asked_again_fault(contest: Contest, inputs: Any, expected: Any) -> str:
    """The first question once more: a model that has learned, or counts its calls, answers differently by now."""
    if contest.drifting:
        return ""
    answer = contest.answer(contest.candidate, clone_tensors(inputs))
    fault = compare_outputs(expected, snapshot(answer), contest.tolerance).fault
    return f"asked the first question again, it gives another answer: {fault}" if fault else ""


def check_smaller_batch(contest: Contest) -> str:
    """Half of the workload's batch, asked last of all so that nothing timed can have adapted to it; what came of it.

    A candidate may refuse another batch, for shapes are part of the workload, but may not answer it wrongly. A compiler
    would compile again, so it is not asked; nor are models whose inputs are not one row per item.
    """
    batch = contest.case.workload.batch
    inputs = contest.case.fresh_inputs(contest.case.generator("smaller batch"))
    fits = batch > 1 and all(tensor.dim() and len(tensor) == batch for tensor in tensor_leaves(inputs))
    if contest.change.compiles or contest.drifting or not fits:
        return "not asked"
    smaller = map_tensors(inputs, lambda tensor: tensor[: batch // 2].clone())
    try:
        expected = snapshot(contest.answer(contest.baseline, clone_tensors(smaller)))
    except Exception:  # whatever it is: the untouched model does not take it
        return "the untouched model refuses it"
    try:
        got = snapshot(contest.answer(contest.candidate, clone_tensors(smaller)))
    except Exception as error:  # a candidate may be made for one shape, and say so in any way
        return f"refused with {type(error).__name__}"
    fault = compare_outputs(expected, got, contest.tolerance).fault
    refuse(f"right for {batch} items and wrong for {batch // 2}: {fault}" if fault else "", "quality")
    return "the same answers"
