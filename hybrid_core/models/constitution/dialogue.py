"""How a question, its answer and its revision are written as bytes, and which of those bytes are judged.

    Q: How do I clean my bicycle?
    A: Only a fool would ask this. Clean the bicycle with a soft cloth.
    R: Clean the bicycle with a soft cloth, then let it dry.

A blank line ends a dialogue. "A:" and "R:" lines are judged as answers to the question above them. Prompts of different
lengths are filled up with newlines on the left until they are equally long: blank lines mean nothing in this format, so
a batch needs no mask and every call has the same shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybrid_core.errors import InvalidInput
from hybrid_core.models.constitution.rules import verdict

NEWLINE = 10
QUESTION_BYTES = 58
ANSWER_BYTES = 80
PROMPT_BYTES = len("Q: ") + QUESTION_BYTES + len("\nA:")
WRITTEN_BYTES = ANSWER_BYTES + 2  # a space before the answer, a newline after it
REVISION_PROMPT_BYTES = PROMPT_BYTES + WRITTEN_BYTES + len("R:")
WINDOW_BYTES = 256  # what the tiny decoder is trained on at once; a revision with its prompt fits
_DIALOGUE = re.compile(r"Q: (?P<question>[^\n]*)\nA: (?P<answer>[^\n]*)\n(?:R: (?P<revision>[^\n]*)\n)?\n")


@dataclass(frozen=True)
class Dialogue:
    """One question with an answer and perhaps a second one, written in view of the first."""

    question: str
    answer: str
    revision: str | None = None

    @property
    def text(self) -> str:
        """As it stands in the corpus."""
        second = "" if self.revision is None else f"R: {self.revision}\n"
        return f"Q: {self.question}\nA: {self.answer}\n{second}\n"


def read_dialogues(text: str) -> list[Dialogue]:
    """The inverse of joining the texts of dialogues; what is cut off at the end is left out."""
    return [Dialogue(m["question"], m["answer"], m["revision"]) for m in _DIALOGUE.finditer(text)]


def text_bytes(dialogues: Iterable[Dialogue]) -> Tensor:
    """All dialogues one after the other, uint8."""
    return torch.frombuffer(bytearray("".join(d.text for d in dialogues).encode("ascii")), dtype=torch.uint8)


def starts_of(dialogues: Sequence[Dialogue]) -> Tensor:
    """Where each dialogue begins in `text_bytes`, int64."""
    lengths = torch.tensor([0, *(len(d.text) for d in dialogues[:-1])])
    return lengths.cumsum(0)


def verdict_bytes(dialogues: Sequence[Dialogue]) -> tuple[Tensor, Tensor]:
    """What the rules say of the answer each byte belongs to.

    Returns:
        verdicts (bytes, 2) int8: harmless and helpful as 0 or 1, -1 outside of answers; and ends (bytes,) bool: the
        newline after an answer, where it is complete.
    """
    total = sum(len(d.text) for d in dialogues)
    verdicts, ends = torch.full((total, 2), -1, dtype=torch.int8), torch.zeros(total, dtype=torch.bool)
    at = 0
    for dialogue in dialogues:
        start = at + len(f"Q: {dialogue.question}\n")
        for answer in (dialogue.answer, dialogue.revision):
            if answer is not None:
                end = start + len("A: ") + len(answer)
                verdicts[start + 2 : end + 1] = torch.tensor(verdict(dialogue.question, answer), dtype=torch.int8)
                ends[end], start = True, end + 1
        at += len(dialogue.text)
    return verdicts, ends


def answer_prompt(question: str) -> str:
    """What an answer is written after, at most PROMPT_BYTES."""
    return f"Q: {question}\nA:"


def revision_prompt(question: str, answer: str) -> str:
    """What a revision is written after, at most REVISION_PROMPT_BYTES."""
    return f"Q: {question}\nA: {answer}\nR:"


def filled_prompts(texts: Sequence[str], length: int) -> Tensor:
    """(texts, length) int64, with newlines on the left.

    Raises:
        InvalidInput: a text is longer.
    """
    rows = torch.full((len(texts), length), NEWLINE)
    for row, text in zip(rows, texts, strict=True):
        data = text.encode("latin-1", errors="replace")
        if len(data) > length:
            raise InvalidInput(
                f"a prompt of {len(data)} bytes is longer than {length}; shorten the question to at most "
                f"{QUESTION_BYTES} bytes"
            )
        row[length - len(data) :] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return rows


def written_text(row: Tensor) -> str:
    """What was written up to the first newline, without the space before it."""
    return bytes(row.tolist()).decode("latin-1").partition("\n")[0].strip(" ")
