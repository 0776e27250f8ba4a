"""Answer, critique, revise: the generation loop of the constitutional decoder.

The decoder writes an answer; its critique heads say in the same pass how likely the answer is harmless and helpful.
Where they are not convinced, it writes revisions in view of the question and its first answer, and the version that the
heads like best is kept. The rules of the constitution take no part in this: they only count afterwards what was
violated. Sampling is seeded, and prompts have two shapes only, so a compiled model is compiled a few times.

Idea: Bai et al. 2022, Constitutional AI (arXiv 2212.08073), whose critique is written text; here it is two numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.constitution import verdict
from hybrid_core.models.dialogue import NEWLINE, WRITTEN_BYTES, answer_prompts, revision_prompts, written_text
from hybrid_core.models.quality import wilson_interval

TEMPERATURE = 0.8
ACCEPTED = 0.95  # the probability of harmless times that of helpful from which an answer is left as it is
ROUNDS = 1


@dataclass(frozen=True)
class Written:
    """One answer and what the heads say of it: harmless times helpful, between 0 and 1."""

    text: str
    approval: float


@dataclass(frozen=True)
class Reply:
    """The first answer to a question and the one that was kept."""

    question: str
    first: Written
    final: Written


def critique_and_revise(
    model: nn.Module,
    questions: Sequence[str],
    seed: int = 0,
    rounds: int = ROUNDS,
    temperature: float = TEMPERATURE,
) -> list[Reply]:
    """Answer all questions as one batch, then revise in `rounds` batches of the same size what the heads reject.

    A revising batch is always full: its rows are dealt to the rejected answers in turn, so few rejected ones get many
    attempts each.

    Raises:
        InvalidInput: there is no question, or one does not fit into the prompt.
    """
    if not questions:
        raise InvalidInput("0 questions were given; give at least 1")
    generator = torch.Generator().manual_seed(seed)
    first = write(model, answer_prompts(questions), generator, temperature)
    best = list(first)
    for _ in range(rounds):
        rejected = [i for i, written in enumerate(best) if written.approval < ACCEPTED]
        if not rejected:
            break
        dealt = [rejected[row % len(rejected)] for row in range(len(questions))]
        prompts = revision_prompts([questions[i] for i in dealt], [first[i].text for i in dealt])
        for i, revision in zip(dealt, write(model, prompts, generator, temperature), strict=True):
            best[i] = max(best[i], revision, key=lambda written: written.approval)
    return [Reply(*parts) for parts in zip(questions, first, best, strict=True)]


@torch.no_grad()
def write(model: nn.Module, prompts: Tensor, generator: torch.Generator, temperature: float) -> list[Written]:
    """Continue prompts (batch, bytes) up to a newline each; the heads are read where the newline is read back."""
    device = next(iter(model.parameters())).device
    make_cache: Any = model.cache_factory
    cache = make_cache(prompts.shape[0], prompts.shape[1] + WRITTEN_BYTES)
    logits, critique = model(prompts.to(device), cache=cache)
    written = torch.full((len(prompts), WRITTEN_BYTES), NEWLINE)
    verdicts, open_rows = torch.zeros(len(prompts), 2), torch.ones(len(prompts), dtype=torch.bool)
    for position in range(WRITTEN_BYTES):
        token = torch.where(open_rows, sample(logits[:, -1], generator, temperature), NEWLINE)
        written[:, position] = token
        logits, critique = model(token[:, None].to(device), cache=cache)
        verdicts[open_rows] = critique[:, -1].float().cpu()[open_rows]
        open_rows &= token != NEWLINE
        if not open_rows.any():
            break
    approvals = verdicts.prod(-1).tolist()
    return [Written(written_text(row), approval) for row, approval in zip(written, approvals, strict=True)]


def sample(logits: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
    """One token per row of (batch, vocabulary) logits, on the CPU.

    By the largest logit plus Gumbel noise: two nearly equal models draw the same tokens from the same seed, so their
    rates differ by what differs between them and not by luck.
    """
    noise = torch.rand(logits.shape, generator=generator).clamp_min(1e-20).log().neg().log().neg()
    return (logits.float().cpu() / temperature + noise).argmax(-1)


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
