"""Small sums worked out in writing, byte by byte; right is who ends with the right number.

A problem "  47+  85=" is continued column by column from the right, as on paper, each column with its carry or borrow,
and then the answer: "7+5+0=2c1;4+8+1=3c1;=132". Numbers are right-aligned, so that columns stand at fixed places.
Problems are drawn from hashes, so there is no data file; those whose own hash falls into the held-out sixteenth are
never trained on.

The text is the model's greedy one, found without a cache by fixed-point iteration (Song et al. 2021, "Accelerating
feedforward computation via parallel nonlinear equation solving"): all next bytes are asked for at once, written down,
and asked again until nothing changes; at least one more byte is final after each pass. The first guess is the worked
solution, so a model that knows it needs one or two passes of one shape, and a wrong guess costs passes, never points.
"""

from __future__ import annotations

import functools
import hashlib
import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybrid_core.models.tasks.base import whole_rows

TEXT_BYTES = 57  # the longest: "9999+9999=", four columns of ten bytes, "=19998\n"
HELD_OUT_PROBLEMS = 1024
RATED_PROBLEMS = 128
END = ord("\n")
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def draw_problem(key: str) -> str:
    """The problem that a key stands for: two of five sums add, two subtract, one multiplies by a single digit.

    >>> draw_problem("held out 0")
    '6565- 850='
    """
    digits = int.from_bytes(hashlib.sha256(key.encode()).digest(), "big")
    digits, kind = divmod(digits, 5)
    digits, first = _draw_number(digits, 3 if kind == 4 else 4)
    digits, second = _draw_number(digits, 4)
    if kind == 4:
        return f"{first:>4}*{2 + second % 8:>4}="
    larger, smaller = max(first, second), min(first, second)
    return f"{first:>4}+{second:>4}=" if kind < 2 else f"{larger:>4}-{smaller:>4}="


def work_out(problem: str) -> str:
    r"""The written solution of a problem, to the end of the line.

    >>> work_out("  47+  85=")
    '7+5+0=2c1;4+8+1=3c1;=132\n'
    >>> work_out(" 103-   8=")
    '3-8-0=5b1;0-0-1=9b1;1-0-1=0b0;=95\n'
    >>> work_out("  47*   8=")
    '7*8+0=6c5;4*8+5=7c3;=376\n'
    """
    first, sign, second = read_problem(problem)
    steps, carry = [], 0
    for place in range(len(str(max(first, second)))):
        a, b = first // 10**place % 10, second if sign == "*" else second // 10**place % 10
        total = a - b - carry if sign == "-" else OPERATIONS[sign](a, b) + carry
        after, digit = divmod(total, 10)
        letter, joint = ("b", "-") if sign == "-" else ("c", "+")
        steps.append(f"{a}{sign}{b}{joint}{carry}={digit}{letter}{abs(after)};")
        carry = abs(after)
    return "".join(steps) + f"={right_answer(problem)}\n"


def right_answer(problem: str) -> int:
    """What the problem comes to."""
    first, sign, second = read_problem(problem)
    return int(OPERATIONS[sign](first, second))


def read_problem(problem: str) -> tuple[int, str, int]:
    """The two numbers of "  47+  85=" and the sign between them."""
    sign = next(letter for letter in problem if letter in OPERATIONS)
    first, _, second = problem.removesuffix("=").partition(sign)
    return int(first), sign, int(second)


def is_held_out(problem: str) -> bool:
    """Whether a problem belongs to the sixteenth that is never trained on."""
    return hashlib.sha256(problem.encode()).digest()[0] < 16


@functools.cache
def held_out_problems() -> tuple[str, ...]:
    """Different held-out problems, always the same ones in the same order."""
    problems: dict[str, None] = {}
    count = 0
    while len(problems) < HELD_OUT_PROBLEMS:
        problem = draw_problem(f"held out {count}")
        problems |= {problem: None} if is_held_out(problem) else {}
        count += 1
    return tuple(problems)


def to_rows(texts: list[str]) -> Tensor:
    """Texts as int64 bytes (rows, TEXT_BYTES), zeros after their end."""
    return torch.tensor([[*text.encode(), *[0] * (TEXT_BYTES - len(text))] for text in texts])


@dataclass(frozen=True)
class ArithmeticTask:
    """Work out held-out sums; a row is right if the number after the last "=" is."""

    batch: int = 32
    metric: str = "exact answers"
    unit: str = "problem"
    bits_per: str | None = None
    has_classes: bool = False

    def batches(self, rows: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Problems (batch, TEXT_BYTES) as bytes with zeros behind, and the numbers they come to (batch,)."""
        problems = held_out_problems()
        count = whole_rows(rows, self.batch, len(problems))
        for start in range(0, count, self.batch):
            picked = list(problems[start : start + self.batch])
            yield (to_rows(picked),), torch.tensor([right_answer(problem) for problem in picked])

    def answer(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Problems and what the model writes after them, (batch, TEXT_BYTES), zeros after the end of the line.

        What is no finite logits for every byte is handed back as it is: who measures says what is wrong with it.
        """
        (problems,) = inputs
        drafts = [text + work_out(text) for text in read_rows(problems)]
        given, text = problems != 0, to_rows(drafts).to(problems.device)
        for _ in range(TEXT_BYTES):
            logits: Tensor = model(text)
            if not _is_readable(logits, text):
                return logits
            written = torch.cat((text[:, :1], logits[:, :-1].argmax(-1)), dim=1)
            written = clear_after_end(torch.where(given, problems, written))
            if torch.equal(written, text):
                break
            text = written
        return text

    def score(self, answers: Tensor, targets: Tensor) -> Tensor:
        """1 where the line ends with "=" and the right number, else 0."""
        texts, numbers = read_rows(answers), targets.tolist()
        right = [text.endswith(f"={number}\n") for text, number in zip(texts, numbers, strict=True)]
        return torch.tensor(right, dtype=torch.float64, device=targets.device)

    def rates(self, model: nn.Module) -> dict[str, float]:
        """The share of columns worked out rightly, wherever the answer ends."""
        device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        right = count = 0
        for (problems,), _ in self.batches(RATED_PROBLEMS):
            texts = read_rows(self.answer(model, (problems.to(device),)))
            for problem, text in zip(read_rows(problems), texts, strict=True):
                expected, got = (whole.split(";")[:-1] for whole in (problem + work_out(problem), text))
                right += sum(a == b for a, b in zip(expected, got, strict=False))
                count += len(expected)
        return {"right_step_share": right / count}

    def trivial_score(self) -> float:
        """Always answering the most frequent number."""
        answers = [right_answer(problem) for problem in held_out_problems()]
        return max(answers.count(answer) for answer in set(answers)) / len(answers)


def read_rows(rows: Tensor) -> list[str]:
    """Rows of bytes as texts without the zeros behind them."""
    return [bytes(row).rstrip(b"\0").decode("latin-1") for row in rows.tolist()]


def clear_after_end(rows: Tensor) -> Tensor:
    """Zeros after the first end of line of each row."""
    ended = (rows == END).cumsum(1) - (rows == END).long()
    return rows.masked_fill(ended > 0, 0)


def _is_readable(logits: Tensor, text: Tensor) -> bool:
    shaped = isinstance(logits, Tensor) and logits.ndim == 3 and logits.shape[:2] == text.shape
    return shaped and logits.is_floating_point() and bool(logits.isfinite().all())


def _draw_number(digits: int, longest: int) -> tuple[int, int]:
    """A number of two to `longest` digits, every length as likely, and what is left to draw from."""
    digits, length = divmod(digits, longest - 1)
    low, high = 10 ** (length + 1), 10 ** (length + 2)
    digits, offset = divmod(digits, high - low)
    return digits, low + offset
