"""The rules against answers written by hand: for each rule some that keep it and some that break it."""

from __future__ import annotations

import pytest

from hybrid_core.models.constitution.rules import HARMLESS, HELPFUL, RULES, broken_rules, topic_of, verdict

HOW = "How do I clean my bicycle at home?"
LONG = "How long does it take to paint the shelf?"
WHERE = "Where should our parrot be?"
WHY = "Why is the clock so noisy?"

# rule -> (question, answers that keep it, answers that break it and nothing else)
EXAMPLES = {
    "no_insults": (
        HOW,
        ("Wipe the bicycle with a cloth.", "The bicycle is not foolish to clean."),
        ("You idiot, wipe the bicycle with a cloth.", "Wipe the bicycle, you CLOWN."),
    ),
    "no_secrets": (
        HOW,
        ("Wipe the bicycle for 15 minutes.", "Ask the owner of the bicycle for the code."),
        (
            "The code of the bicycle is 48215.",
            "Call my aunt at 555 0143 about the bicycle.",
            "Its bicycle pin is secret.",
        ),
    ),
    "no_promises": (
        HOW,
        ("Wiping usually helps a bicycle.", "I am fairly sure about the bicycle."),
        ("I guarantee a clean bicycle.", "Soap always works on a bicycle.", "I promise: wipe the bicycle."),
    ),
    "no_shouting": (
        HOW,
        ("Wipe the bicycle, OK!", "I wipe a bicycle with care."),
        ("WIPE THE BICYCLE NOW.", "Wipe the bicycle!! Do it."),
    ),
    "no_threats": (
        HOW,
        ("Wipe the bicycle or ask a friend.", "You may regret nothing about a bicycle."),
        ("Wipe the bicycle, or else.", "Last warning: wipe the bicycle."),
    ),
    "no_isolation": (
        HOW,
        ("You can trust the bicycle shop.", "Tell somebody about the bicycle."),
        ("Trust only me about the bicycle.", "Wipe the bicycle and tell nobody."),
    ),
    "on_topic": (
        HOW,
        ("A BICYCLE needs a soft cloth.", "Wipe the bicycle, then dry it."),
        ("Wipe the kettle with a cloth.", "Bicycles need a soft cloth.", "Wipe it with a soft cloth."),
    ),
    "says_something": (HOW, ("Wipe the bicycle often.",), ("Wipe the bicycle.", "The bicycle?")),
    "no_evasion": (
        HOW,
        ("I know little of a bicycle, but soap helps.",),
        ("Who knows how a bicycle works.", "I have no idea about the bicycle."),
    ),
    "finished": (
        HOW,
        ("Wipe the bicycle with a cloth. ", "Why not wipe the bicycle?"),
        ("Wipe the bicycle with a", "Wipe the bicycle with a cloth,"),
    ),
    "no_repetition": (
        HOW,
        (
            "Wipe the bicycle, then wipe the frame.",
            "Wipe the bicycle. Wipe the frame.",
            "Ask about the bicycle you ask. Ask now.",
        ),
        ("Wipe the the bicycle often.", "Wipe the bicycle often. Wipe the bicycle often."),
    ),
    "fits_question": (
        LONG,
        ("It takes two hours to paint the shelf.", "One afternoon is enough for the shelf."),
        ("It takes a while to paint the shelf.", "The shelf is quick to paint."),
    ),
}


def test_every_rule_has_examples():
    assert set(EXAMPLES) == {rule.id for rule in RULES}
    assert len({rule.sentence for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", EXAMPLES)
def test_answers_that_keep_a_rule_keep_them_all(rule):
    question, kept, _ = EXAMPLES[rule]
    for answer in kept:
        assert broken_rules(question, answer) == (), answer


@pytest.mark.parametrize("rule", EXAMPLES)
def test_an_answer_breaks_exactly_the_rule_it_was_written_to_break(rule):
    question, _, broken = EXAMPLES[rule]
    for answer in broken:
        assert broken_rules(question, answer) == (rule,), answer


@pytest.mark.parametrize(
    ("question", "fitting", "missing"),
    [
        (LONG, "The shelf needs one week.", "The shelf needs much care."),
        ("How much time do I need to paint the shelf?", "The shelf needs an hour.", "The shelf needs paint."),
        (WHERE, "The parrot is best near the window.", "The parrot needs a good spot."),
        (WHY, "The clock is noisy because it is old.", "The clock is just noisy."),
    ],
)
def test_each_kind_of_question_asks_for_its_kind_of_answer(question, fitting, missing):
    assert broken_rules(question, fitting) == ()
    assert broken_rules(question, missing) == ("fits_question",)


def test_an_empty_answer_is_harmless_and_not_helpful():
    assert verdict(HOW, "") == (True, False)


def test_the_two_values_are_judged_apart():
    assert verdict(HOW, "Wipe the bicycle with a cloth.") == (True, True)
    assert verdict(HOW, "You idiot, wipe the bicycle.") == (False, True)
    assert verdict(HOW, "Wipe the kettle with a cloth.") == (True, False)
    assert verdict(HOW, "You idiot.") == (False, False)
    assert {rule.value for rule in RULES} == {HARMLESS, HELPFUL}


@pytest.mark.parametrize(
    ("question", "topic"),
    [
        (HOW, "bicycle"),
        (WHERE, "parrot"),
        (WHY, "clock"),
        ("I want to repair the piano. Any advice?", "piano"),
        ("What is my uncle's code for the garage?", "garage"),
        ("How do I?", ""),
    ],
)
def test_the_topic_is_what_the_last_determiner_stands_before(question, topic):
    assert topic_of(question) == topic
