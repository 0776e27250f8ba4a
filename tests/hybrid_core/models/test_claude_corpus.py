"""The corpus: determinism, the border between training and held-out, labels by the rules, windows of the training."""

from __future__ import annotations

import random
from itertools import islice

import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.models.constitution.dialogue import (
    ANSWER_BYTES,
    NEWLINE,
    PROMPT_BYTES,
    QUESTION_BYTES,
    REVISION_PROMPT_BYTES,
    WINDOW_BYTES,
    WRITTEN_BYTES,
    Dialogue,
    answer_prompt,
    filled_prompts,
    read_dialogues,
    revision_prompt,
    starts_of,
    text_bytes,
    verdict_bytes,
    written_text,
)
from hybrid_core.models.constitution.rules import broken_rules, topic_of, verdict
from hybrid_core.models.tasks.constitutional import ConstitutionalTask, held_out_dialogues, window_starts
from hybrid_core.models.training.claude import PERIODS, Corpus, constitutional_loss, repeated_letters
from hybrid_core.models.training.claude_answers import BREAKERS, answer_badly, answer_well
from hybrid_core.models.training.claude_corpus import ask, dialogues, held_out_part
from hybrid_core.models.training.claude_words import VAGUE

TWO = [
    Dialogue("How do I clean my lamp?", "You fool, wipe the lamp.", "Wipe the lamp with a cloth."),
    Dialogue("Where is the cat?", "The cat is in the hall."),
]


@pytest.fixture(scope="module")
def training():
    return list(islice(dialogues(7, held_out=False), 4000))


def test_the_same_seed_gives_the_same_dialogues_and_another_seed_others():
    first, again, other = (list(islice(dialogues(seed, held_out=False), 200)) for seed in (3, 3, 4))
    assert first == again
    assert len(set(first) & set(other)) < 20


def test_the_shipped_held_out_file_is_what_the_generator_makes():
    assert tuple(held_out_part()) == held_out_dialogues()


def test_no_trained_question_is_held_out(training):
    assert {d.question for d in training}.isdisjoint(d.question for d in held_out_dialogues())


def test_held_out_answers_are_nearly_all_unseen(training):
    seen = {d.answer for d in training}
    long = [d.answer for d in held_out_dialogues() if len(d.answer) > 20]
    assert sum(answer in seen for answer in long) / len(long) < 0.1


@pytest.mark.parametrize("rule", BREAKERS)
def test_an_answer_meant_to_break_a_rule_breaks_it(rule):
    source = random.Random(1)
    for _ in range(100):
        question = ask(source)
        if rule != "fits_question" or question.kind in VAGUE:
            answer = answer_badly(rule, question, answer_well(question, source), source)
            assert rule in broken_rules(question.text, answer), (question.text, answer)


def test_an_answer_meant_to_be_good_breaks_no_rule():
    source = random.Random(2)
    for _ in range(1000):
        question = ask(source)
        answer = answer_well(question, source)
        assert broken_rules(question.text, answer) == (), (question.text, answer)
        assert topic_of(question.text) == question.topic


def test_shares_of_broken_answers_are_those_stated(training):
    broken = sum(not all(verdict(d.question, d.answer)) for d in training) / len(training)
    revised = [d for d in training if d.revision is not None]
    spoilt = sum(not all(verdict(d.question, d.revision)) for d in revised) / len(revised)
    assert broken == pytest.approx(0.42, abs=0.03)
    assert spoilt == pytest.approx(0.08, abs=0.03)


def test_everything_fits_its_line(training):
    for dialogue in training:
        assert len(dialogue.question) <= QUESTION_BYTES
        assert max(len(dialogue.answer), len(dialogue.revision or "")) <= ANSWER_BYTES


def test_dialogues_are_read_back_from_their_text(training):
    assert read_dialogues("".join(d.text for d in training)) == training


def test_a_dialogue_cut_off_is_left_out():
    assert read_dialogues("".join(d.text for d in TWO)[:-1]) == TWO[:1]


def test_verdicts_cover_the_answers_and_nothing_else():
    text = bytes(text_bytes(TWO).tolist()).decode()
    verdicts, ends = verdict_bytes(TWO)
    spans = {
        "".join(text[i] for i in range(len(text)) if verdicts[i].tolist() == values)
        for values in ([0, 1], [1, 1], [-1, -1])
    }
    assert spans == {
        " You fool, wipe the lamp.\n",
        " Wipe the lamp with a cloth.\n The cat is in the hall.\n",
        "Q: How do I clean my lamp?\nA:R:\nQ: Where is the cat?\nA:\n",
    }
    complete = [text[:i].rpartition("\n")[2][3:] for i in ends.nonzero().flatten().tolist()]
    assert complete == ["You fool, wipe the lamp.", "Wipe the lamp with a cloth.", "The cat is in the hall."]
    assert [text[i : i + 3] for i in starts_of(TWO).tolist()] == ["Q: ", "Q: "]


def test_prompts_are_filled_on_the_left_to_one_length():
    answers = filled_prompts([answer_prompt(d.question) for d in TWO], PROMPT_BYTES)
    revisions = filled_prompts([revision_prompt("Why?", "So.")], REVISION_PROMPT_BYTES)
    assert bytes(answers[1].tolist()).decode().lstrip("\n") == "Q: Where is the cat?\nA:"
    assert bytes(revisions[0].tolist()).decode().lstrip("\n") == "Q: Why?\nA: So.\nR:"


def test_a_question_too_long_is_refused_with_both_lengths():
    with pytest.raises(InvalidInput, match=f"prompt of {PROMPT_BYTES + 1} bytes is longer than {PROMPT_BYTES}"):
        filled_prompts([answer_prompt("x" * (QUESTION_BYTES + 1))], PROMPT_BYTES)


def test_the_longest_question_and_answer_fit_into_a_revision_prompt():
    prompt = filled_prompts([revision_prompt("q" * QUESTION_BYTES, "a" * ANSWER_BYTES)], REVISION_PROMPT_BYTES)
    assert prompt[0, :3].tolist() != [NEWLINE] * 3
    assert REVISION_PROMPT_BYTES + WRITTEN_BYTES <= WINDOW_BYTES


def test_what_was_written_ends_at_the_first_newline():
    row = torch.tensor(list(b" Wipe it.\nR: more\n\n"))
    assert written_text(row) == "Wipe it."


def test_training_windows_are_dialogues_behind_their_filling(training):
    corpus = Corpus.of(training[:400])
    windows, verdicts, ends = corpus.sample(torch.Generator().manual_seed(0))
    assert windows.shape[1] == WINDOW_BYTES + 1 and verdicts.shape[1] == ends.shape[1] == WINDOW_BYTES
    for row, labels, finished in zip(windows, verdicts, ends, strict=True):
        filled = int((row == -1).sum())
        assert (row[:filled] == -1).all() and (labels[:filled] == -1).all() and not finished[:filled].any()
        text = bytes(row[filled:].tolist()).decode()
        assert text.startswith("Q: ")
        read = read_dialogues(text)
        expected, where = verdict_bytes(read)
        end = min(filled + len(expected), WINDOW_BYTES)
        assert torch.equal(labels[filled:end], expected[: end - filled])
        assert torch.equal(finished[filled:end], where[: end - filled])
    assert int((windows[:4] == -1).sum()) == 0 and int((windows == -1).sum()) > 0


def test_the_loss_of_an_answer_known_in_advance_is_what_its_parts_say(training):
    """Uniform bytes and undecided heads: ln 256 and twice the weight of ln 2."""
    corpus = Corpus.of(training[:400])

    def undecided(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert int(tokens.min()) >= 0
        return torch.zeros(*tokens.shape, 256), torch.full((*tokens.shape, 2), 0.5)

    two = torch.tensor(2.0).log()
    for share, weight in ((0.3, 0.25), (1.0, 1.5)):
        loss = constitutional_loss(undecided, corpus, share, torch.Generator().manual_seed(0))
        torch.testing.assert_close(loss, 8 * two + 2 * weight * two)


def test_copying_rows_repeat_from_their_first_period_on():
    for row in repeated_letters(20, torch.Generator().manual_seed(0)).tolist():
        assert any(row[period:] == row[:-period] for period in range(*PERIODS))
        assert set(row) <= set(b"abcdefghijklmnopqrstuvwxyz") and len(set(row)) > 3


def test_held_out_windows_start_with_a_question_and_do_not_overlap():
    starts = torch.tensor(window_starts(256))
    assert len(starts) >= 512 and int(starts.diff().min()) >= 256
    for (inputs,), targets in ConstitutionalTask().batches(16):
        assert all(bytes(row[:3].tolist()) == b"Q: " for row in inputs)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_the_questions_asked_are_different_ones():
    asked = ConstitutionalTask().asked()
    assert len(set(asked)) == len(asked) == 64
