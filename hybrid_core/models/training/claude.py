"""Trains the tiny `claude`: next bytes of generated dialogues, and the verdict of the rules on each answer.

A window begins at the start of a dialogue, half of them after a random number of newlines, as prompts do that are
filled up to a common length. The heads learn at every byte of an answer what the rules will say of the whole, and once
more at its end, where it is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from hybrid_core.models.base import freeze
from hybrid_core.models.checkpoints import load_weights, save_weights
from hybrid_core.models.claude import SHAPES, ConstitutionalDecoder
from hybrid_core.models.constitution.dialogue import (
    NEWLINE,
    WINDOW_BYTES,
    Dialogue,
    starts_of,
    text_bytes,
    verdict_bytes,
)
from hybrid_core.models.constitution.revision import TEMPERATURE, critique_and_revise, violation_rates
from hybrid_core.models.tasks.constitutional import HELD_OUT_DIALOGUES_SHA256, QUESTIONS, ConstitutionalTask
from hybrid_core.models.training.base import Say, TrainingOptions
from hybrid_core.models.training.claude_corpus import dialogues
from hybrid_core.models.training.language import Forward, train_decoder

DEFAULT_MINUTES = 60.0
CORPUS_SEED = 1
DIALOGUES = 80_000
ROWS = 8
LONGEST_FILLING = 100  # newlines before a short question with a short answer, filled up to a revision prompt
# First to write, then to judge: until it copies, the decoder cannot see that an answer is about something else.
CRITIQUE_WEIGHTS = ((0.7, 0.25), (1.0, 1.5))  # (share of the time after which it ends, weight)
# In the first tenth of the time half of the rows are random letters repeated: they teach to look back and copy, without
# which no answer can name what its question is about (induction heads, Olsson et al. 2022, arXiv 2209.11895).
COPYING_TIME = 0.1
PERIODS = (6, 48)
STUDIED_QUESTIONS = 512
STUDY_SEED = 1


@dataclass(frozen=True)
class Corpus:
    """The text of all dialogues with its verdicts, byte by byte; see `dialogue.verdict_bytes`."""

    text: Tensor
    verdicts: Tensor
    ends: Tensor
    starts: Tensor

    @classmethod
    def of(cls, chosen: list[Dialogue]) -> Corpus:
        """Windows may begin wherever a whole one fits."""
        text, starts = text_bytes(chosen), starts_of(chosen)
        return cls(text, *verdict_bytes(chosen), starts[starts < len(text) - WINDOW_BYTES])

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(ROWS, WINDOW_BYTES + 1) int64 bytes, -1 where there is filling; verdicts and ends but for the last."""
        starts = self.starts[torch.randint(len(self.starts), (ROWS, 1), generator=generator)]
        filling = torch.randint(LONGEST_FILLING, (ROWS, 1), generator=generator)
        filling[: ROWS // 2] = 0
        places = torch.arange(WINDOW_BYTES + 1) - filling
        filled, places = places < 0, starts + places.clamp_min(0)
        inputs = filled[:, :-1]
        return (
            self.text[places].long().masked_fill(filled, -1),
            self.verdicts[places[:, :-1]].masked_fill(inputs[..., None], -1),
            self.ends[places[:, :-1]] & ~inputs,
        )


def constitutional_loss(forward: Forward, corpus: Corpus, share: float, generator: torch.Generator) -> Tensor:
    """Nats per byte, plus the weighted nats per verdict within answers and at their ends."""
    windows, verdicts, ends = corpus.sample(generator)
    if share < COPYING_TIME:
        windows[ROWS // 2 :] = repeated_letters(ROWS - ROWS // 2, generator)
        verdicts[ROWS // 2 :], ends[ROWS // 2 :] = -1, False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, critique = forward(windows[:, :-1].where(windows[:, :-1] >= 0, NEWLINE))
    bytes_loss = F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten(), ignore_index=-1)
    judged = verdicts[..., 0] >= 0
    said, true = critique.float(), verdicts.float()
    weight = next(weight for end, weight in CRITIQUE_WEIGHTS if share < end or end == 1.0)
    return bytes_loss + weight * sum(
        (F.binary_cross_entropy(said[where], true[where]) for where in (judged, ends)), torch.zeros(())
    )


def repeated_letters(rows: int, generator: torch.Generator) -> Tensor:
    """(rows, WINDOW_BYTES + 1) random lower-case letters that repeat with a period of their own in each row."""
    periods = torch.randint(*PERIODS, (rows, 1), generator=generator)
    letters = torch.randint(ord("a"), ord("z") + 1, (rows, PERIODS[1]), generator=generator)
    return letters.gather(1, torch.arange(WINDOW_BYTES + 1) % periods)


def train(options: TrainingOptions, say: Say = tqdm.write) -> dict[str, Any]:
    """Train, publish a usable checkpoint every few minutes, and return the facts of the last one."""
    torch.manual_seed(options.seed)
    corpus = Corpus.of(list(islice(dialogues(CORPUS_SEED, held_out=False), DIALOGUES)))
    facts = {
        "training_data": f"{DIALOGUES} generated dialogues, seed {CORPUS_SEED}, held-out questions left out",
        "held_out_sha256": HELD_OUT_DIALOGUES_SHA256,
    }
    published = train_decoder(
        fresh=lambda: ConstitutionalDecoder(SHAPES["tiny"]),
        loss_of=lambda forward, share, generator: constitutional_loss(forward, corpus, share, generator),
        task=ConstitutionalTask(),
        facts=facts,
        options=options,
        say=say,
    )
    return study(options, published, say)


def study(options: TrainingOptions, published: dict[str, Any], say: Say) -> dict[str, Any]:
    """Count violations on more questions than the task asks, with another seed, and add them to the stored facts."""
    model = ConstitutionalDecoder(SHAPES["tiny"])
    load_weights(model, options.output)
    freeze(model)
    questions = ConstitutionalTask(questions=STUDIED_QUESTIONS).asked()
    parts = [questions[start : start + QUESTIONS] for start in range(0, STUDIED_QUESTIONS, QUESTIONS)]
    replies = [critique_and_revise(model, part, STUDY_SEED + index) for index, part in enumerate(parts)]
    rates = violation_rates(list(chain.from_iterable(replies)))
    facts = {**published, "revision_study": {"temperature": TEMPERATURE, **rates}}
    save_weights(model, options.output, facts)
    say(
        f"{rates['violation_samples']} held-out questions: violations {rates['violation_rate']:.1%} before and "
        f"{rates['violation_rate_revised']:.1%} after revision, paired p = {rates['violation_p']:.2g}"
    )
    return facts
