"""The memory phase: what each of the two models holds, needs inside a call, and took of the process.

The stretches that are watched as they are (`process_memory`) come before the profiler, which takes memory itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from hybrid_core.measurement import memory, process_memory
from hybrid_core.measurement.contest import Contest
from hybrid_core.measurement.nested import clone_tensors, snapshot

WARM_CALLS = 2


def measure_memory(contest: Contest) -> tuple[memory.MemoryUse, memory.MemoryUse, dict[str, Any]]:
    """Bytes of the untouched model and of the candidate, and the entry "memory" of the environment."""
    case = contest.case
    after = memory.live_storages(ignore=case.makers.kept())
    held = memory.held_bytes(contest.candidate, contest.census, after)
    models = {"baseline": contest.baseline, "candidate": contest.candidate}
    warm = {name: _warm_stretch(contest, model) for name, model in models.items()}
    inputs = case.fresh_inputs(case.generator("memory"))
    baseline, expected = _live_peak(contest, contest.baseline, inputs)
    candidate, got = _live_peak(contest, contest.candidate, inputs)
    contest.compare(expected, got, "memory")
    use, warnings = memory.add_outside(contest.candidate, memory.MemoryUse(held, *candidate))
    contest.warnings.extend(warnings)
    facts = process_memory.memory_facts(contest.cold, warm, contest.ask_process())
    return memory.MemoryUse(contest.baseline_held, *baseline), use, facts


def _live_peak(contest: Contest, model: nn.Module, inputs: Any) -> tuple[tuple[int, int], Any]:
    """Peaks of one call, and its answer: who knows that bytes are counted must not work less then."""
    given: list[Any] = []
    case = replace(contest.case, call=lambda model, inputs: given.append(contest.case.call(model, inputs)))
    return memory.live_peak_bytes(case, model, clone_tensors(inputs)), snapshot(given[-1])


def _warm_stretch(contest: Contest, model: nn.Module) -> process_memory.Stretch:
    generator = contest.case.generator("warm memory")
    questions = [contest.case.fresh_inputs(generator) for _ in range(WARM_CALLS)]
    with contest.watched() as stretch:
        for inputs in questions:
            contest.answer(model, inputs)
    return stretch
