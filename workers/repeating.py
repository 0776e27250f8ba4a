"""A run that searches nothing: it measures one stored trial again, in as many fresh processes as the original had.

It stands in the place of the search, so everything around a run holds for it too: the queue lets one run measure on a
device at a time, the spool keeps what it finds, a lost process is started again and a cancelled one ends. Its trial has
an id and a purpose of its own, and the run has no winner, so that no leaderboard, race or recommendation counts a
candidate twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hybrid_core.records import Purpose, Trial, to_json, trial_name
from hybrid_core.repetition import Repetition, compare, environment_differences, sentence

Emit = Callable[[str, dict[str, Any]], None]
Measure = Callable[..., Trial]


class Repeated(NamedTuple):
    """How it ended, in the words of a search's result."""

    failed: bool
    sentence: str
    stop_reason: str
    winner: None = None


def repeating(stored: Mapping[str, Any]) -> Callable[..., Repeated]:
    """What a run process calls instead of the search; `stored` is the order's `repeats`."""
    repetition = Repetition.of(str(stored["trial_id"]), stored["measurement"])

    def search(
        _: Any, __: Any, measure: Measure, emit: Emit, *, run_id: str, noise: Any = None, **___: Any
    ) -> Repeated:
        return repeat(repetition, measure, emit, run_id, noise)

    return search


def repeat(repetition: Repetition, measure: Measure, emit: Emit, run_id: str, noise: Any = None) -> Repeated:
    """Measure again and say whether it agrees; `noise` widens one process or joins several, as it did originally."""
    rounds: list[Trial] = []
    for number in range(1, repetition.processes + 1):
        _tell_start(repetition, emit, run_id, number)
        rounds.append(_measure_once(repetition, measure, emit, number))
        if not rounds[-1].is_ok:
            break
    trial = _joined(repetition, rounds, run_id, noise)
    emit("trial_finished", {"trial": to_json(trial), "iteration": 0})
    told = _verdict(repetition, trial)
    emit("result", {"sentence": told, "repeats": repetition.trial_id, **_facts(repetition, trial)})
    return Repeated(False, told, "measured again")


def _joined(repetition: Repetition, rounds: list[Trial], run_id: str, noise: Any) -> Trial:
    if repetition.processes == 1:
        widened: Trial = rounds[0] if noise is None else noise.widened(rounds[0])
        return widened
    from hybrid_core.search.merging import join_rounds, merge_rounds

    name = trial_name(run_id, Purpose.REPEAT, repetition.request.recipe)
    return merge_rounds(name, rounds) if noise is None else join_rounds(name, rounds, noise)


def _measure_once(repetition: Repetition, measure: Measure, emit: Emit, number: int) -> Trial:
    order, several = repetition.request, repetition.processes > 1
    trial = measure(order.recipe, Purpose.REPEAT, order.limits, number if several else 0)
    if several:
        emit("round_finished", {"trial": to_json(trial), "round": number})
    return trial


def _tell_start(repetition: Repetition, emit: Emit, run_id: str, number: int) -> None:
    recipe, count = repetition.request.recipe, repetition.processes
    data = {"recipe": to_json(recipe), "key": recipe.key, "purpose": str(Purpose.REPEAT), "iteration": 0}
    if number == 1:
        emit("trial_started", {"trial_id": trial_name(run_id, Purpose.REPEAT, recipe), **data})
    where = f"process {number} of {count}" if count > 1 else "one process"
    emit(
        "progress",
        {
            "stage": "repeat", "iteration": 0, "done": number - 1, "planned": count,
            "sentence": f"measuring {repetition.trial_id} again, {where}",
        },
    )  # fmt: skip


def _verdict(repetition: Repetition, trial: Trial) -> str:
    start = f"{repetition.trial_id} measured again"
    if trial.measurement is None or not trial.is_ok:
        return f"{start}: it does not agree, this time it ended as {trial.outcome}: {trial.reason}"
    return f"{start}: {sentence(compare(repetition.original, trial.measurement))}"


def _facts(repetition: Repetition, trial: Trial) -> Mapping[str, Any]:
    if trial.measurement is None:
        return {"findings": [], "differences": {}}
    differences = environment_differences(repetition.original.environment, trial.measurement.environment)
    findings = compare(repetition.original, trial.measurement)
    return {"findings": to_json(findings), "differences": to_json(differences)}
