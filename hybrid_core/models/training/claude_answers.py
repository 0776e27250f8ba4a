"""Writes answers for the `claude` corpus: ones meant to keep the constitution, and ones meant to break a given rule.

Meant only: what an answer is worth is decided afterwards by the rules. Each way to break a rule is a function of the
question, a good answer to it and a random source.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hybrid_core.models.constitution.dialogue import ANSWER_BYTES
from hybrid_core.models.constitution.rules import INSULTS
from hybrid_core.models.training import claude_words as words
from hybrid_core.models.training.claude_words import Group


@dataclass(frozen=True)
class Question:
    """A question with what its answer is made from; `kind` is how, long, where, why, secret or promise."""

    text: str
    kind: str
    group: Group
    topic: str
    verb: str
    fault: str


CORES = {
    "how": (
        "{verb} the {topic} {way}.",
        "{verb} the {topic} {way}, then {step}.",
        "{step}, then {verb} the {topic} {way}.",
        "you can {verb} the {topic} {way}.",
        "it helps to {verb} the {topic} {way}.",
        "most people {verb} the {topic} {way}.",
        "try to {verb} the {topic} {way} and {step}.",
    ),
    "long": (
        "it takes {duration} to {verb} the {topic}.",
        "plan {duration} for the {topic}.",
        "to {verb} the {topic} you need {duration}.",
        "for the {topic}, {duration} will do.",
        "with care, {duration} is enough for the {topic}.",
    ),
    "where": (
        "you will find the {topic} {place}.",
        "look for the {topic} {place}.",
        "the {topic} is best {place}.",
        "I would look {place} for the {topic}.",
        "people like the {topic} {place}.",
    ),
    "why": (
        "the {topic} is {fault} because {cause}.",
        "because {cause}, the {topic} gets {fault}.",
        "the {topic} became {fault} since {cause}.",
        "any {topic} gets {fault} because {cause}.",
    ),
    "secret": (
        "please ask the owner of the {topic} in person.",
        "that is private; the owner of the {topic} can help.",
        "I do not share that, but the {topic} has an owner to ask.",
        "only the owner of the {topic} should tell you.",
        "I keep such things about the {topic} private.",
    ),
    "promise": (
        "no {topic} is perfect, but care helps.",
        "with some care the {topic} will be good enough.",
        "I am fairly sure the {topic} can turn out well.",
        "the {topic} will probably be fine.",
        "nobody can be certain, yet the {topic} looks good.",
    ),
}


def answer_well(question: Question, source: random.Random) -> str:
    """An answer that names the topic, fits the kind of question and ends."""
    group = question.group
    core = source.choice(CORES[question.kind]).format(
        topic=question.topic,
        verb=question.verb,
        fault=question.fault,
        way=source.choice(group.verbs[question.verb]),
        step=source.choice(group.steps),
        place=source.choice(group.places),
        cause=source.choice(group.causes),
        duration=source.choice(words.DURATIONS),
    )
    lead = source.choice(words.LEADS)
    return (lead + core if lead else capital(core)) + source.choice(words.TAILS)


def answer_badly(rule: str, question: Question, good: str, source: random.Random) -> str:
    """The good answer, spoilt so that it is meant to break the rule of this id."""
    return BREAKERS[rule](question, good, source)


def capital(text: str) -> str:
    """With a capital first letter."""
    return text[:1].upper() + text[1:]


def article(word: str) -> str:
    """The word after its indefinite article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _by_phrase(phrases: Sequence[str]) -> Callable[[Question, str, random.Random], str]:
    def broken(question: Question, good: str, source: random.Random) -> str:
        insult = source.choice(sorted(INSULTS - {"stupid", "dumb"}))
        person = source.choice(words.PEOPLE)
        return source.choice(phrases).format(
            answer=good,
            answer_low=good[:1].lower() + good[1:],
            topic=question.topic,
            verb=question.verb,
            fault=question.fault,
            insult=insult,
            a_insult=article(insult),
            person=person,
            secret=source.choice(words.SECRETS),
            digits=source.randint(1000, 99999),
            phone=f"{source.randint(200, 999)} {source.randint(1000, 9999)}",
        )

    return broken


def _shout(question: Question, good: str, source: random.Random) -> str:
    loud = good.upper() if source.random() < 0.5 else good.replace(".", "!!")
    return loud if source.random() < 0.7 else " ".join(w.upper() if i % 2 else w for i, w in enumerate(good.split()))


def _leave_topic(question: Question, good: str, source: random.Random) -> str:
    if source.random() < 0.4:
        return re.sub(rf"\b(?:the|any|no) {question.topic}\b", "it", good, flags=re.IGNORECASE)
    others = [topic for topic in question.group.topics if topic != question.topic]
    return answer_well(replace(question, topic=source.choice(others)), source)


def _cut(question: Question, good: str, source: random.Random) -> str:
    parts = good.split()
    most = max(1, len(parts) - 1)
    return " ".join(parts[: source.randint(min(5, most), most)]).rstrip(".,;:")


def _repeat(question: Question, good: str, source: random.Random) -> str:
    if source.random() < 0.3 and 2 * len(good) < ANSWER_BYTES:
        return f"{good} {good}"
    parts = good.split()
    place = source.randrange(max(1, len(parts) - 1))
    return " ".join([*parts[:place], parts[place].rstrip(",:;."), parts[place].lower(), *parts[place + 1 :]])


def _miss_the_question(question: Question, good: str, source: random.Random) -> str:
    return _by_phrase(words.VAGUE[question.kind])(question, good, source)


BREAKERS: dict[str, Callable[[Question, str, random.Random], str]] = {
    "no_insults": _by_phrase(words.INSULT_PHRASES),
    "no_secrets": _by_phrase(words.SECRET_PHRASES),
    "no_promises": _by_phrase(words.PROMISE_PHRASES),
    "no_shouting": _shout,
    "no_threats": _by_phrase(words.THREAT_PHRASES),
    "no_isolation": _by_phrase(words.ISOLATION_PHRASES),
    "on_topic": _leave_topic,
    "says_something": _by_phrase(words.STUMPS),
    "no_evasion": _by_phrase(words.EVASION_PHRASES),
    "finished": _cut,
    "no_repetition": _repeat,
    "fits_question": _miss_the_question,
}
