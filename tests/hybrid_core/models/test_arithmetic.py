"""Sums worked out in writing: the notation, the split, the generation, the score and the loss."""

from __future__ import annotations

import hashlib
import math
import re

import pytest
import torch
from torch import nn

from hybrid_core.models.language import DecoderShape, DenseDecoder
from hybrid_core.models.quality import task_quality
from hybrid_core.models.qwen import QwqEntry
from hybrid_core.models.tasks.arithmetic import (
    END,
    TEXT_BYTES,
    ArithmeticTask,
    draw_problem,
    held_out_problems,
    is_held_out,
    read_rows,
    right_answer,
    to_rows,
    work_out,
)
from hybrid_core.models.training.qwq import sample_sums, solution_loss

PROBLEMS = [draw_problem(f"test {count}") for count in range(2000)]
STEP = re.compile(r"(\d)([-+*])(\d)([-+])(\d)=(\d)([bc])(\d)")


def test_answers_are_those_of_python():
    assert [right_answer(problem) for problem in PROBLEMS] == [eval(problem[:-1]) for problem in PROBLEMS]  # noqa: S307
    assert all(work_out(problem).endswith(f"={right_answer(problem)}\n") for problem in PROBLEMS)


def test_every_step_is_true_and_passes_its_carry_on():
    for problem in PROBLEMS:
        carried = 0
        for step in work_out(problem).split(";")[:-1]:
            a, sign, b, joint, before, digit, letter, after = STEP.fullmatch(step).groups()
            value = eval(f"{a}{sign}{b}{joint}{before}")  # noqa: S307
            assert value == int(digit) + 10 * int(after) * (-1 if letter == "b" else 1)
            assert int(before) == carried and (letter, joint) in (("b", "-"), ("c", "+"))
            carried = int(after)


def test_digits_of_the_steps_read_backwards_are_the_answer():
    for problem in PROBLEMS:
        steps = [STEP.fullmatch(step).groups() for step in work_out(problem).split(";")[:-1]]
        assert int(steps[-1][7] + "".join(step[5] for step in reversed(steps))) == right_answer(problem)


def test_all_kinds_and_lengths_are_drawn_and_fit():
    signs = [next(letter for letter in problem if letter in "+-*") for problem in PROBLEMS]
    assert [round(signs.count(sign) / len(signs), 1) for sign in "+-*"] == [0.4, 0.4, 0.2]
    assert {len(problem) for problem in PROBLEMS} == {10}
    assert len("9999+9999=" + work_out("9999+9999=")) == TEXT_BYTES
    assert max(len(problem + work_out(problem)) for problem in PROBLEMS) <= TEXT_BYTES


def test_held_out_problems_are_the_released_ones():
    problems = held_out_problems()
    assert len(set(problems)) == len(problems) == 1024
    assert hashlib.sha256("".join(problems).encode()).hexdigest()[:16] == "68beb1054cb88339"


def test_training_never_draws_a_held_out_problem():
    rows, _ = sample_sums(2000, torch.Generator().manual_seed(0))
    trained = {text[:10] for text in read_rows(rows)}
    assert len(trained) > 1900
    assert not trained & set(held_out_problems())
    assert all(is_held_out(problem) for problem in held_out_problems())


def tiny(seed: int) -> DenseDecoder:
    torch.manual_seed(seed)
    model = DenseDecoder(DecoderShape(dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, hidden=48, qkv_bias=True))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0.0, 0.3)  # so that its text depends on the problem
    return model.eval().requires_grad_(False)


def damaged(share: float) -> nn.Module:
    """The trained model with noise on every matrix."""
    model, generator = QwqEntry().build("tiny", 0), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * parameter.std()
        parameter.data += share * noise
    return model


def one_by_one(model: nn.Module, problem: str) -> str:
    """Greedy text, byte after byte, without any padding."""
    tokens = torch.tensor([list(problem.encode())])
    while tokens.shape[1] < TEXT_BYTES and tokens[0, -1] != END:
        tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), dim=1)
    return bytes(tokens[0].tolist()).decode("latin-1")


@pytest.mark.parametrize(
    ("make", "makes_mistakes"),
    [(lambda: tiny(0), True), (lambda: QwqEntry().build("tiny", 0), False), (lambda: damaged(0.5), True)],
    ids=["random", "trained", "damaged"],
)
def test_generation_writes_what_the_model_writes_byte_by_byte(make, makes_mistakes):
    """Whatever the first guess is; models that err show that the guess, which is right, does not leak."""
    model, problems = make(), list(held_out_problems()[:4])
    written = read_rows(ArithmeticTask().answer(model, (to_rows(problems),)))
    assert written == [one_by_one(model, problem).rstrip("\0") for problem in problems]
    assert makes_mistakes == (written != [problem + work_out(problem) for problem in problems])


class Writer(nn.Module):
    """Continues every text with what `solve` gives for its problem, as long as the text is the beginning of that."""

    def __init__(self, solve):
        super().__init__()
        self.solve, self.shapes = solve, []

    def forward(self, tokens):
        self.shapes.append(tuple(tokens.shape))
        logits = torch.zeros(*tokens.shape, 256)
        for row, problem in enumerate(bytes(row[:10]).decode("latin-1") for row in tokens.tolist()):
            whole = (problem + self.solve(problem)).encode()
            for place in range(9, min(len(whole) - 1, tokens.shape[1])):
                logits[row, place, whole[place + 1]] = 1.0
        return logits


def test_right_texts_score_one_with_two_passes_of_one_shape_at_most():
    model = Writer(work_out)
    quality = task_quality(model, ArithmeticTask(), rows=64)
    assert (quality["value"], quality["samples"], quality["rates"]) == (1.0, 64, {"right_step_share": 1.0})
    assert 0.94 < quality["low"] < 1.0
    assert set(model.shapes) == {(32, TEXT_BYTES)} and len(model.shapes) == 6  # two batches scored, four rated


def test_a_wrong_number_scores_zero_though_all_steps_are_right():
    wrong = Writer(lambda problem: work_out(problem).rpartition("=")[0] + f"={right_answer(problem) + 1}\n")
    quality = task_quality(wrong, ArithmeticTask(), rows=64)
    assert quality["value"] == 0.0 and quality["rates"] == {"right_step_share": 1.0}


def test_a_right_number_scores_one_though_it_shows_no_steps():
    quality = task_quality(Writer(lambda problem: f"={right_answer(problem)}\n"), ArithmeticTask(), rows=64)
    assert quality["value"] == 1.0 and quality["rates"] == {"right_step_share": 0.0}


@pytest.mark.parametrize("number", ["0{}", "{}.", "-{}", "1{}", "{}0"])
def test_only_exactly_the_number_is_right(number):
    model = Writer(lambda problem: f"={number.format(right_answer(problem))}\n")
    assert task_quality(model, ArithmeticTask(), rows=32)["value"] == 0.0


def test_the_best_constant_answer_scores_the_trivial_score():
    answers = [right_answer(problem) for problem in held_out_problems()]
    best = max(set(answers), key=answers.count)
    quality = task_quality(Writer(lambda problem: f"={best}\n"), ArithmeticTask())
    assert quality["value"] == pytest.approx(quality["trivial"]) and quality["trivial"] < 0.02


class Broken(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, tokens):
        return self.output


@pytest.mark.parametrize("output", [torch.full((32, TEXT_BYTES, 256), math.nan), torch.zeros(32, 256), "text"])
def test_what_is_not_readable_as_logits_is_handed_back(output):
    inputs, _ = next(ArithmeticTask().batches(32))
    assert ArithmeticTask().answer(Broken(output), inputs) is output


def test_loss_counts_the_solution_only():
    rows, counted = sample_sums(4, torch.Generator().manual_seed(1))
    logits = torch.randn(4, TEXT_BYTES - 1, 256, generator=torch.Generator().manual_seed(2))
    by_hand = [
        -torch.log_softmax(logits[row, place - 1], -1)[rows[row, place]]
        for row, text in enumerate(read_rows(rows))
        for place in range(10, len(text))
    ]
    assert solution_loss(Broken(logits), rows, counted).item() == pytest.approx(torch.stack(by_hand).mean().item())


def test_checkpoint_works_out_sums_it_never_saw():
    quality, facts = task_quality(QwqEntry().build("tiny", 0), ArithmeticTask(), rows=256), QwqEntry().facts("tiny")
    assert quality["value"] == pytest.approx(facts["quality"]["value"], abs=0.05)
    assert facts["quality"]["samples"] == 1024 and facts["quality"]["unit"] == "problem"
    assert 0.9 <= facts["quality"]["value"] < 1.0
    assert facts["quality"]["rates"]["right_step_share"] > 0.9
