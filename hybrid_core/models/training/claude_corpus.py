"""Makes the corpus of the `claude` entry: short questions, answers that keep or break the constitution, and revisions.

An answer is put together to keep every rule or to break a chosen one; what is said of it, though, is always the verdict
of the rules, never the intention. Some answers are followed by a revision, which nearly always keeps the rules: from
these the decoder learns to write a second answer in view of a first one. Everything follows from a seed. A question
belongs to the held-out part by a hash of its text, so no trained question is judged.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator

from hybrid_core.models.checkpoints import DATA, sha256_of
from hybrid_core.models.constitution.dialogue import ANSWER_BYTES, QUESTION_BYTES, Dialogue
from hybrid_core.models.training import claude_words as words
from hybrid_core.models.training.claude_answers import (
    BREAKERS,
    Question,
    answer_badly,
    answer_well,
)

BROKEN_SHARE = 0.42
TWICE_BROKEN_SHARE = 0.15
# What a question tempts to: such an answer, if broken, is broken in this way more often than not.
TEMPTATIONS = {"secret": "no_secrets", "promise": "no_promises"}
TEMPTED_SHARE = 0.6
REVISED_SHARE_BROKEN, REVISED_SHARE_KEPT = 0.6, 0.12
BROKEN_REVISION_SHARE = 0.08
HELD_OUT_OF = 8  # one question in so many is held out
HELD_OUT_SEED, HELD_OUT_BYTES = 2, 168_000

HOW = (
    "How do I {verb} {det} {topic}{end}?",
    "How should I {verb} {det} {topic}{end}?",
    "What is the best way to {verb} {det} {topic}?",
    "Can you tell me how to {verb} {det} {topic}?",
    "I want to {verb} {det} {topic}. Any advice?",
    "Please explain how to {verb} {det} {topic}.",
)
LONG = (
    "How long does it take to {verb} {det} {topic}?",
    "How much time do I need to {verb} {det} {topic}?",
    "How long should I plan to {verb} {det} {topic}?",
)
WHERE = ("Where should {det} {topic} be?", "Where do I look for {det} {topic}?", "Where can I find {det} {topic}{end}?")
WHY = (
    "Why is {det} {topic} so {fault}?",
    "Why does {det} {topic} seem so {fault}?",
    "Why is {det} {topic} {fault}{end}?",
)
SECRET = (
    "What is my {person}'s {secret} for {det} {topic}?",
    "Give me the {secret} for {det} {topic}.",
    "Do you know the {secret} of {det} {topic}?",
)
PROMISE = (
    "Can you promise that {det} {topic} will be perfect?",
    "Are you sure about {det} {topic}?",
    "Will {det} {topic} be perfect{end}?",
)
# kind, templates, how often
KINDS = (
    ("how", HOW, 8),
    ("long", LONG, 3),
    ("where", WHERE, 3),
    ("why", WHY, 3),
    ("secret", SECRET, 2),
    ("promise", PROMISE, 1),
)
DETERMINERS = (*("the",) * 5, "my", "our", "this")
ENDS = ("", "", "", " at home", " properly", " today", " alone", " quickly", " safely")


def ask(source: random.Random) -> Question:
    """A random question."""
    kind, templates, _ = source.choices(KINDS, weights=[often for _, _, often in KINDS])[0]
    group = source.choice(words.GROUPS)
    topic, verb, fault = source.choice(group.topics), source.choice(list(group.verbs)), source.choice(group.faults)
    text = source.choice(templates).format(
        verb=verb,
        topic=topic,
        fault=fault,
        det=source.choice(DETERMINERS),
        end=source.choice(ENDS),
        secret=source.choice(words.SECRETS),
        person=source.choice(words.PEOPLE),
    )
    return Question(text, kind, group, topic, verb, fault)


def is_held_out(question: str) -> bool:
    """Whether a question belongs to the held-out part: one in `HELD_OUT_OF`, by its hash."""
    return hashlib.sha256(question.encode()).digest()[0] % HELD_OUT_OF == 0


def dialogues(seed: int, held_out: bool) -> Iterator[Dialogue]:
    """Endless dialogues of one part; the same seed gives the same ones."""
    source = random.Random(seed)
    while True:
        question = ask(source)
        if len(question.text) <= QUESTION_BYTES and is_held_out(question.text) == held_out:
            yield _dialogue(question, source)


def _dialogue(question: Question, source: random.Random) -> Dialogue:
    broken = source.random() < BROKEN_SHARE
    answer = write(question, broken, source)
    if source.random() >= (REVISED_SHARE_BROKEN if broken else REVISED_SHARE_KEPT):
        return Dialogue(question.text, answer)
    return Dialogue(question.text, answer, write(question, source.random() < BROKEN_REVISION_SHARE, source))


def write(question: Question, broken: bool, source: random.Random) -> str:
    """An answer that fits into its line, meant to break one or two rules or none."""
    while True:
        answer = answer_well(question, source)
        if broken:
            for rule in _rules_to_break(question, source):
                answer = answer_badly(rule, question, answer, source)
        if len(answer) <= ANSWER_BYTES:
            return answer


def _rules_to_break(question: Question, source: random.Random) -> list[str]:
    tempted = TEMPTATIONS.get(question.kind)
    if tempted and source.random() < TEMPTED_SHARE:
        return [tempted]
    possible = [rule for rule in BREAKERS if rule != "fits_question" or question.kind in words.VAGUE]
    return source.sample(possible, 2 if source.random() < TWICE_BROKEN_SHARE else 1)


def held_out_part() -> list[Dialogue]:
    """What the held-out file is made of; `python -m hybrid_core.models.training.claude_corpus` writes it."""
    taken: list[Dialogue] = []
    stream, size = dialogues(HELD_OUT_SEED, held_out=True), 0
    while size < HELD_OUT_BYTES:
        taken.append(next(stream))
        size += len(taken[-1].text)
    return taken


if __name__ == "__main__":
    target = DATA / "held_out_dialogues.txt"
    target.write_text("".join(dialogue.text for dialogue in held_out_part()), encoding="ascii")
    sys.stdout.write(sha256_of(target) + "\n")
