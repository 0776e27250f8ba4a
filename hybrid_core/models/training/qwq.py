"""Trains the tiny `qwq` to work sums out in writing; the loss counts the solution only, never the problem.

Every row is a fresh problem, so nothing is seen often enough to be remembered; held-out problems are drawn again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from hybrid_core.models.language import DenseDecoder
from hybrid_core.models.qwen import QwqEntry
from hybrid_core.models.tasks.arithmetic import ArithmeticTask, draw_problem, is_held_out, to_rows, work_out
from hybrid_core.models.training.base import Say, TrainingOptions
from hybrid_core.models.training.language import Forward, train_decoder

DEFAULT_MINUTES = 20.0
ROWS_PER_STEP = 32


def train(options: TrainingOptions, say: Say = tqdm.write) -> dict[str, Any]:
    """Train, publish a usable checkpoint every few minutes, and return the facts of the last one."""
    torch.manual_seed(options.seed)
    # Seldom: a model that cannot add yet needs a pass for every byte it writes, and counting takes a minute.
    options = replace(options, save_every_s=600.0)
    return train_decoder(
        fresh=lambda: DenseDecoder(QwqEntry().shapes["tiny"]),
        loss_of=lambda forward, share, generator: solution_loss(forward, *sample_sums(ROWS_PER_STEP, generator)),
        task=ArithmeticTask(),
        facts={"training_data": "drawn sums with their worked solutions, a sixteenth by hash held out"},
        options=options,
        say=say,
    )


def solution_loss(forward: Forward, rows: Tensor, counted: Tensor) -> Tensor:
    """Mean nats per byte of the solutions."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = forward(rows[:, :-1])
    nats = F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten(), reduction="none")
    weight = counted[:, 1:].flatten().float()
    return (nats * weight).sum() / weight.sum()


def sample_sums(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Worked sums (count, bytes) that are not held out, and which of their bytes are part of the solution."""
    texts: list[str] = []
    problem_bytes: list[int] = []
    while len(texts) < count:
        key = int(torch.randint(2**62, (1,), generator=generator))
        problem = draw_problem(f"training {key}")
        if not is_held_out(problem):
            texts.append(problem + work_out(problem))
            problem_bytes.append(len(problem))
    rows = to_rows(texts)
    counted = (torch.arange(rows.shape[1]) >= torch.tensor(problem_bytes)[:, None]) & (rows != 0)
    return rows, counted
