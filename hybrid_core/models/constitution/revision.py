"""Answer, critique, revise: the generation loop of the constitutional decoder.

The decoder writes an answer; its critique heads say in the same pass how likely the answer is harmless and helpful.
Where they are not convinced, it writes revisions in view of the question and its first answer, and the version that the
heads like best is kept. The rules of the constitution take no part in this: they only count afterwards what was
violated.

Idea: Bai et al. 2022, Constitutional AI (arXiv 2212.08073), whose critique is written text; here it is two numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.constitution.dialogue import PROMPT_BYTES, REVISION_PROMPT_BYTES, answer_prompt, revision_prompt
from hybrid_core.models.constitution.rules import verdict
from hybrid_core.models.constitution.writing import Job, Written, write
from hybrid_core.models.quality import wilson_interval

TEMPERATURE = 1.0  # what was learned, neither sharpened nor flattened
ACCEPTED = 0.95  # the probability of harmless times that of helpful from which an answer is left as it is
ROUNDS = 1

# (place of the question, attempt) -> text; attempt 0 is the first answer
Guesses = Mapping[tuple[int, int], str]


@dataclass(frozen=True)
class Reply:
    """A question with everything written for it: the first answer, then its revisions."""

    question: str
    attempts: tuple[Written, ...]

    @property
    def first(self) -> Written:
        """The answer before any revision."""
        return self.attempts[0]

    @property
    def final(self) -> Written:
        """The version that the heads like best; the earlier one of equals."""
        return max(self.attempts, key=lambda written: written.approval)


def critique_and_revise(
    model: nn.Module,
    questions: Sequence[str],
    seed: int = 0,
    rounds: int = ROUNDS,
    temperature: float = TEMPERATURE,
    guesses: Guesses | None = None,
) -> list[Reply]:
    """Answer all questions as one batch, then revise in `rounds` batches of the same size what the heads reject.

    A revising batch is always full: its rows are dealt to the rejected answers in turn, so few rejected ones get many
    attempts each. `guesses` make a compiled model faster and change nothing else (see `writing`).

    Raises:
        InvalidInput: there is no question, or one does not fit into the prompt.
    """
    if not questions:
        raise InvalidInput("0 questions were given; give at least 1")
    known = guesses or {}

    def job(prompt: str, place: int, attempt: int) -> Job:
        return Job(prompt, (seed * 100_003 + place) * 1009 + attempt, known.get((place, attempt), ""))

    jobs = [job(answer_prompt(question), place, 0) for place, question in enumerate(questions)]
    attempts = [[written] for written in write(model, jobs, PROMPT_BYTES, temperature)]
    for _ in range(rounds):
        rejected = [place for place, made in enumerate(attempts) if max(w.approval for w in made) < ACCEPTED]
        if not rejected:
            break
        dealt = [rejected[row % len(rejected)] for row in range(len(questions))]
        jobs, made_so_far = [], Counter({place: len(attempts[place]) for place in rejected})
        for place in dealt:
            jobs.append(job(revision_prompt(questions[place], attempts[place][0].text), place, made_so_far[place]))
            made_so_far[place] += 1
        for place, revision in zip(dealt, write(model, jobs, REVISION_PROMPT_BYTES, temperature), strict=True):
            attempts[place].append(revision)
    return [Reply(question, tuple(made)) for question, made in zip(questions, attempts, strict=True)]


def guesses_of(replies: Sequence[Reply]) -> Guesses:
    """What a nearly equal model will write from the same seed."""
    return {
        (place, attempt): written.text
        for place, reply in enumerate(replies)
        for attempt, written in enumerate(reply.attempts)
    }


def violation_rates(replies: Sequence[Reply]) -> dict[str, float]:
    """How often the rules are violated before and after revision, with 95 % intervals and the paired exact test."""
    before = [not all(verdict(reply.question, reply.first.text)) for reply in replies]
    after = [not all(verdict(reply.question, reply.final.text)) for reply in replies]
    rates: dict[str, float] = {"violation_samples": len(replies)}
    for name, violated in (("violation_rate", before), ("violation_rate_revised", after)):
        low, high = wilson_interval(sum(violated), len(violated))
        rates |= {name: sum(violated) / len(violated), f"{name}_low": low, f"{name}_high": high}
    mended = sum(b and not a for b, a in zip(before, after, strict=True))
    spoilt = sum(a and not b for b, a in zip(before, after, strict=True))
    return {**rates, "violation_p": paired_p(mended, spoilt)}


def paired_p(mended: int, spoilt: int) -> float:
    """Two-sided exact McNemar test: how likely such a lopsided change is if revising helped as often as it hurt.

    >>> paired_p(9, 1)
    0.021484375
    """
    changed, fewer = mended + spoilt, min(mended, spoilt)
    return min(1.0, 2 * sum(math.comb(changed, k) for k in range(fewer + 1)) * 0.5**changed)
