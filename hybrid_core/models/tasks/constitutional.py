"""Held-out dialogues for the constitutional decoder: next bytes, its critique, what the rules say of its answers.

The metric is next-byte accuracy, as for every decoder here. `rates` adds what is special: how often answers to held-out
questions violate the constitution before and after the revision loop, and how often the critique heads agree with the
rules on held-out answers, beside always giving the commoner verdict.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybrid_core.models.checkpoints import DATA
from hybrid_core.models.constitution.dialogue import (
    WINDOW_BYTES,
    Dialogue,
    read_dialogues,
    starts_of,
    text_bytes,
    verdict_bytes,
)
from hybrid_core.models.constitution.revision import Guesses, critique_and_revise, guesses_of, violation_rates
from hybrid_core.models.constitution.rules import VALUES
from hybrid_core.models.constitution.writing import WINDOWS_AT_ONCE, device_of, reads_one_shape_only
from hybrid_core.models.tasks.base import ClassesTask, check_hash, spread, whole_rows

HELD_OUT_DIALOGUES = DATA / "held_out_dialogues.txt"
HELD_OUT_DIALOGUES_SHA256 = "da262d15b55e87a90313e2928c5081ec9e9856280f9b100cb88ea3f76624ed01"
QUESTIONS = 64
CRITIQUE_ROWS = 128
SEED = 0


@functools.cache
def held_out_dialogues() -> tuple[Dialogue, ...]:
    """The dialogues of the held-out file."""
    check_hash(HELD_OUT_DIALOGUES_SHA256, HELD_OUT_DIALOGUES)
    return tuple(read_dialogues(HELD_OUT_DIALOGUES.read_text(encoding="ascii")))


@functools.cache
def held_out_dialogue_bytes() -> Tensor:
    """The whole held-out text as int64 tokens."""
    return text_bytes(held_out_dialogues()).long()


@functools.cache
def _verdicts() -> tuple[Tensor, Tensor]:
    return verdict_bytes(held_out_dialogues())


@functools.cache
def window_starts(window: int) -> tuple[int, ...]:
    """Where windows begin: each at the start of a dialogue, so that a question is never missing, none overlapping."""
    total, free, chosen = len(held_out_dialogue_bytes()), 0, []
    for start in starts_of(held_out_dialogues()).tolist():
        if start >= free and start + window < total:
            chosen.append(start)
            free = start + window
    return tuple(chosen)


@dataclass(frozen=True)
class ConstitutionalTask(ClassesTask):
    """Predict each byte of held-out dialogues; answer held-out questions without violating the constitution."""

    window: int = WINDOW_BYTES
    batch: int = WINDOWS_AT_ONCE  # the shape of all calls of a compiled model
    questions: int = QUESTIONS
    critique_rows: int = CRITIQUE_ROWS
    untouched: Callable[[], nn.Module] | None = None
    """Makes the trained model; what it writes is a compiled model's guess of what it will write itself."""
    metric: str = "next-byte accuracy"
    bits_per: str | None = "byte"

    @property
    def unit(self) -> str:
        """One row."""
        return f"window of {self.window} bytes"

    def batches(self, rows: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Windows (batch, window) with the bytes that follow as targets."""
        text = held_out_dialogue_bytes()
        for starts in self._starts(rows):
            picked = text[starts[:, None] + torch.arange(self.window + 1)]
            yield (picked[:, :-1],), picked[:, 1:]

    def answer(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """The logits of the next byte, without the critique."""
        logits: Tensor = model(*inputs)[0]
        return logits

    def rates(self, model: nn.Module) -> dict[str, float]:
        """Violations before and after revision, as the rules count them; agreement of the heads with the rules."""
        replies = critique_and_revise(model, self.asked(), SEED, guesses=self._guesses(model))
        return {**violation_rates(replies), **self.critique_accuracy(model, self.critique_rows)}

    def _guesses(self, model: nn.Module) -> Guesses | None:
        if self.untouched is None or not reads_one_shape_only(model):
            return None
        return guesses_of(critique_and_revise(self.untouched(), self.asked(), SEED))

    def asked(self) -> list[str]:
        """Different held-out questions, spread over the file."""
        distinct = list(dict.fromkeys(dialogue.question for dialogue in held_out_dialogues()))
        return [distinct[i] for i in spread(len(distinct))[: self.questions]]

    @torch.no_grad()
    def critique_accuracy(self, model: nn.Module, rows: int = CRITIQUE_ROWS) -> dict[str, float]:
        """How often each head agrees with the rules at the end of an answer, and the commoner verdict's share."""
        text, (verdicts, ends) = held_out_dialogue_bytes(), _verdicts()
        said, true = [], []
        for starts in self._starts(rows):
            places = starts[:, None] + torch.arange(self.window)
            critique = model(text[places].to(device_of(model)))[1].float().cpu()
            said.append(critique[ends[places]] > 0.5)
            true.append(verdicts[places][ends[places]] == 1)
        right, holds = (torch.cat(said) == torch.cat(true)).double().mean(0), torch.cat(true).double().mean(0)
        accuracy: dict[str, float] = {"critique_samples": len(torch.cat(true))}
        for value, found, share in zip(VALUES, right.tolist(), holds.tolist(), strict=True):
            accuracy |= {f"{value}_critique_accuracy": found, f"{value}_critique_trivial": max(share, 1 - share)}
        return accuracy

    def trivial_score(self) -> float:
        """Always answering the text's most frequent byte."""
        text = held_out_dialogue_bytes()
        return float(torch.bincount(text[1:]).max()) / (len(text) - 1)

    def _starts(self, rows: int) -> Iterator[Tensor]:
        starts = window_starts(self.window)
        order = torch.tensor(spread(len(starts))[: whole_rows(rows, self.batch, len(starts))])
        yield from torch.split(torch.tensor(starts)[order], self.batch)
