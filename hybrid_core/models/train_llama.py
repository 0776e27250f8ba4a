"""Trains the `tiny` byte-level decoder on the standard library, in a given number of minutes.

The schedule runs over elapsed time, not over steps, so the training ends when it was told to even on a busy machine.
Matrices inside the layers are trained by Muon (Jordan et al. 2024: momentum, orthogonalised by Newton-Schulz), the
rest by AdamW. Windows grow from 128 to 256 to 512 bytes: short ones teach spelling at a lower price. Inside the
training only, attention is the fused kernel and the model is compiled; the weights are those of the plain model.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from hybrid_core.models.blocks import EagerAttention
from hybrid_core.models.checkpoints import CHECKPOINTS, load_weights, save_weights
from hybrid_core.models.corpus import training_text
from hybrid_core.models.llama import SHAPES, Llama
from hybrid_core.models.quality import task_quality
from hybrid_core.models.tasks.next_byte import HELD_OUT_TEXT_SHA256, NextByteTask
from hybrid_core.models.training_state import load_state, save_state

TOKENS_PER_STEP = 4096
# (share of the time after which it ends, window length)
WINDOWS = ((0.3, 128), (0.8, 256), (1.0, 512))
WARM_UP_SHARE = 0.02
FINAL_LEARNING_RATE_SHARE = 0.02


@dataclass(frozen=True)
class LlamaTraining:
    """What decides a training beside the clock."""

    minutes: float = 45.0
    seed: int = 0
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    muon: bool = True
    compiled: bool = True
    save_every_s: float = 180.0
    output: Path = CHECKPOINTS / "llama-tiny.safetensors"
    state: Path = Path("training") / "llama-tiny.safetensors"


class FusedCausalAttention(nn.Module):
    """Same numbers as `EagerAttention` under a causal mask, faster to train; parameters none."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """The mask argument is ignored: training windows are always causal from their first byte."""
        del mask
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def train_llama(
    options: LlamaTraining, resume: bool = False, say: Callable[[str], None] = tqdm.write
) -> dict[str, Any]:
    """Train, save a usable checkpoint every few minutes, and return the facts of the last one."""
    torch.manual_seed(options.seed)
    model = Llama(SHAPES["tiny"])
    replace_attention(model, FusedCausalAttention)
    run = Progress(model, make_optimizers(model, options), torch.Generator().manual_seed(options.seed))
    if resume:
        run.load(options.state)
        say(f"resumed after {run.elapsed_s:.0f} s and {run.steps} steps")
    text = torch.frombuffer(bytearray(training_text()), dtype=torch.uint8)
    run.train(text, options, say)
    return run.publish(options, say)


class Progress:
    """The state of a training: model, optimizers, random windows, time and steps spent."""

    def __init__(self, model: Llama, optimizers: list[torch.optim.Optimizer], generator: torch.Generator) -> None:
        self.model, self.optimizers, self.generator = model, optimizers, generator
        self.elapsed_s, self.steps = 0.0, 0

    def train(self, text: Tensor, options: LlamaTraining, say: Callable[[str], None]) -> None:
        """Steps until the time is spent; the clock counts on where an interrupted training stopped."""
        forward: Any = torch.compile(self.model, dynamic=False) if options.compiled else self.model
        total_s, started, saved = options.minutes * 60, time.monotonic() - self.elapsed_s, self.elapsed_s
        smooth = math.nan
        with tqdm(total=round(total_s), initial=round(self.elapsed_s), unit="s", mininterval=5) as bar:
            while self.elapsed_s < total_s:
                share = self.elapsed_s / total_s
                set_learning_rate(self.optimizers, options.learning_rate * learning_rate_share(share))
                loss = self.step(forward, sample_windows(text, window_length(share), self.generator))
                smooth = loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss
                self.elapsed_s = time.monotonic() - started
                bar.set_postfix_str(f"step {self.steps}, {smooth / math.log(2):.3f} bits per byte", refresh=False)
                bar.update(min(round(self.elapsed_s), bar.total) - bar.n)
                if self.elapsed_s - saved > options.save_every_s:
                    saved = self.elapsed_s
                    self.save(options.state)
                    self.publish(options, say)

    def step(self, forward: Callable[[Tensor], Tensor], windows: Tensor) -> float:
        """One update on (batch, length + 1) bytes; returns the loss in nats per byte."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = forward(windows[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())
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

    def publish(self, options: LlamaTraining, say: Callable[[str], None]) -> dict[str, Any]:
        """Write the checkpoint with the quality of exactly the rounded weights that are stored."""
        save_weights(self.model, options.output, {})
        stored = Llama(self.model.shape).eval()
        load_weights(stored, options.output)
        quality = task_quality(stored, NextByteTask())
        facts = {
            "quality": quality,
            "steps": self.steps,
            "bytes_seen": self.steps * TOKENS_PER_STEP,
            "minutes": round(self.elapsed_s / 60, 1),
            "seed": options.seed,
            "training_text": f"standard library of Python {platform.python_version()}, held-out modules left out",
            "held_out_sha256": HELD_OUT_TEXT_SHA256,
        }
        save_weights(self.model, options.output, facts)
        say(describe(quality, f"after {self.elapsed_s:.0f} s, {self.steps} steps"))
        return facts


def describe(quality: dict[str, Any], when: str) -> str:
    """One line: the quality with its interval next to the trivial baseline."""
    return (
        f"{when}: {quality['metric']} {quality['value']:.2%} (95 % {quality['low']:.2%} to {quality['high']:.2%}, "
        f"{quality['samples']} rows), always the most frequent answer {quality['trivial']:.2%}"
        + (f", {quality['bits_per_byte']:.3f} bits per byte" if "bits_per_byte" in quality else "")
    )


def replace_attention(model: nn.Module, core: Callable[[], nn.Module]) -> None:
    """Put a new `core` into every place that holds an `EagerAttention`."""
    for name, module in list(model.named_modules()):
        if isinstance(module, EagerAttention):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, core())


def make_optimizers(model: Llama, options: LlamaTraining) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embedding, head and norms (or AdamW for all)."""
    matrices = [p for p in model.layers.parameters() if p.ndim == 2] if options.muon else []
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    adam: torch.optim.Optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.ndim == 2], "weight_decay": options.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
        betas=(0.9, 0.95),
    )
    if not matrices:
        return [adam]
    # match_rms_adamw scales the update so that one learning rate serves both optimizers.
    muon = torch.optim.Muon(
        matrices, lr=options.learning_rate, weight_decay=options.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, adam]


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


def window_length(share: float) -> int:
    """The window of this part of the training."""
    return next(length for end, length in WINDOWS if share < end or end == 1.0)


def sample_windows(text: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """(TOKENS_PER_STEP / length, length + 1) bytes from random places, as int64."""
    starts = torch.randint(len(text) - length, (TOKENS_PER_STEP // length, 1), generator=generator)
    return text[starts + torch.arange(length + 1)].long()
