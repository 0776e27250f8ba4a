"""What every training of a checkpoint shares: options, schedule, optimizers, the clocked loop, the published file.

The schedule runs over elapsed time, not over steps, so a training ends when it was told to even on a busy machine. The
state is saved every few minutes and an interrupted training goes on from it; a usable checkpoint is written as often,
with the quality of exactly the rounded weights that are stored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hybrid_core.models.base import Task, freeze
from hybrid_core.models.checkpoints import CHECKPOINTS, load_weights, save_weights
from hybrid_core.models.quality import task_quality
from hybrid_core.models.training.state import load_state, save_state

STATES = Path("training")
WARM_UP_SHARE = 0.02
FINAL_LEARNING_RATE_SHARE = 0.02
Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainingOptions:
    """What decides a training beside the clock: wall time, seed, where weights and resumable state are written."""

    minutes: float
    output: Path
    state: Path
    seed: int = 0
    resume: bool = False
    compiled: bool = True
    save_every_s: float = 180.0

    @classmethod
    def of(cls, entry: str, minutes: float, **given: Any) -> TrainingOptions:
        """The usual places of an entry's files."""
        usual = {"output": CHECKPOINTS / f"{entry}-tiny.safetensors", "state": STATES / f"{entry}-tiny.safetensors"}
        return cls(minutes, **{**usual, **given})


class Training:
    """The state of a training: model, optimizers, random source, time and steps spent."""

    def __init__(
        self, model: nn.Module, optimizers: list[torch.optim.Optimizer], learning_rate: float, seed: int
    ) -> None:
        self.model, self.optimizers, self.learning_rate = model, optimizers, learning_rate
        self.generator = torch.Generator().manual_seed(seed)
        self.elapsed_s, self.steps = 0.0, 0

    def run(
        self,
        options: TrainingOptions,
        loss_of: Callable[[float], Tensor],
        publish: Callable[[], dict[str, Any]],
        say: Say = tqdm.write,
        describe_loss: Callable[[float], str] = "loss {:.3f}".format,
    ) -> dict[str, Any]:
        """Update on `loss_of(share of the time spent)` until the minutes are spent; facts of the last checkpoint."""
        if options.resume:
            self.load(options.state)
            say(f"resumed after {self.elapsed_s:.0f} s and {self.steps} steps")
        total_s, started, saved = options.minutes * 60, time.monotonic() - self.elapsed_s, self.elapsed_s
        smooth = math.nan
        with tqdm(total=round(total_s), initial=round(self.elapsed_s), unit="s", mininterval=5) as bar:
            while self.elapsed_s < total_s:
                share = self.elapsed_s / total_s
                loss = self.step(loss_of(share), share)
                smooth = loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss
                self.elapsed_s = time.monotonic() - started
                bar.set_postfix_str(f"step {self.steps}, {describe_loss(smooth)}", refresh=False)
                bar.update(min(round(self.elapsed_s), bar.total) - bar.n)
                if self.elapsed_s - saved > options.save_every_s:
                    saved = self.elapsed_s
                    self.save(options.state)
                    publish()
        self.save(options.state)
        return publish()

    def step(self, loss: Tensor, share: float) -> float:
        """One update at this share of the time; returns the loss."""
        set_learning_rate(self.optimizers, self.learning_rate * learning_rate_share(share))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.steps += 1
        return loss.item()

    def save(self, path: Path) -> None:
        """Everything `load` needs to go on."""
        counters = {"elapsed_s": self.elapsed_s, "steps": self.steps}
        save_state(path, self.model, self.optimizers, self.generator, counters)

    def load(self, path: Path) -> None:
        """Continue from a saved state."""
        counters = load_state(path, self.model, self.optimizers, self.generator)
        self.elapsed_s, self.steps = counters["elapsed_s"], int(counters["steps"])

    def publish(
        self, options: TrainingOptions, fresh: Callable[[], nn.Module], task: Task, facts: dict[str, Any], say: Say
    ) -> dict[str, Any]:
        """Write the checkpoint with the quality that a fresh model has with exactly the stored weights."""
        # Judged under another name: the released file never lacks its quality, however this ends.
        unjudged = options.output.with_suffix(".unjudged")
        save_weights(self.model, unjudged, {})
        stored = fresh()
        load_weights(stored, unjudged)
        unjudged.unlink()
        quality = task_quality(freeze(stored), task)
        spent = {"steps": self.steps, "minutes": round(self.elapsed_s / 60, 1), "seed": options.seed}
        published = {"quality": quality, **spent, **facts}
        save_weights(self.model, options.output, published)
        say(describe(quality, f"after {self.elapsed_s:.0f} s, {self.steps} steps"))
        return published


def make_optimizers(
    matrices: Iterable[nn.Parameter],
    rest: Iterable[nn.Parameter],
    learning_rate: float,
    weight_decay: float = 0.1,
    muon: bool = True,
) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the 2-D matrices inside the layers, AdamW for all that is left (or for everything).

    Embeddings and heads belong to the rest. Only what has two dimensions or more decays.
    """
    inner = list(matrices) if muon else []
    outer = list(rest) if muon else [*matrices, *rest]
    adam: torch.optim.Optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in outer if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in outer if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.95),
    )
    if not inner:
        return [adam]
    # match_rms_adamw scales the update so that one learning rate serves both optimizers.
    return [
        torch.optim.Muon(inner, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        adam,
    ]


def learning_rate_share(share: float) -> float:
    """Linear warm-up, then a cosine down to `FINAL_LEARNING_RATE_SHARE`; `share` of the time is spent."""
    if share < WARM_UP_SHARE:
        return max(share / WARM_UP_SHARE, 0.01)
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, (share - WARM_UP_SHARE) / (1 - WARM_UP_SHARE))))
    return FINAL_LEARNING_RATE_SHARE + (1 - FINAL_LEARNING_RATE_SHARE) * fall


def set_learning_rate(optimizers: list[torch.optim.Optimizer], value: float) -> None:
    """The same learning rate for every group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = value


def describe(quality: dict[str, Any], when: str) -> str:
    """One line: the quality with its interval next to the trivial baseline."""
    return (
        f"{when}: {quality['metric']} {quality['value']:.2%} (95 % {quality['low']:.2%} to {quality['high']:.2%}, "
        f"{quality['samples']} rows), the best answer that ignores the input {quality['trivial']:.2%}"
        + (f", {quality['bits_per_byte']:.3f} bits per byte" if "bits_per_byte" in quality else "")
    )
