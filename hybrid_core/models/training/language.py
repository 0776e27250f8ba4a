"""Trains byte-level decoders: on source text (`llama`, `qwen`), or on whatever a family samples.

Matrices inside the layers are trained by Muon, the rest by AdamW. Windows grow from 128 to 256 to 512 bytes: short ones
teach spelling at a lower price. Inside the training only, attention is the fused kernel and the model is compiled; the
weights are those of the plain model.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from hybrid_core.models.base import Task
from hybrid_core.models.corpus import training_text
from hybrid_core.models.language import DenseDecoder, DenseEntry
from hybrid_core.models.parts.blocks import EagerAttention
from hybrid_core.models.parts.decoder import Decoder
from hybrid_core.models.tasks.next_byte import HELD_OUT_TEXT_SHA256, NextByteTask
from hybrid_core.models.training.base import Say, Training, TrainingOptions, make_optimizers

TOKENS_PER_STEP = 4096
LEARNING_RATE = 3e-3
# (share of the time after which it ends, window length)
WINDOWS = ((0.3, 128), (0.8, 256), (1.0, 512))

Forward = Callable[[Tensor], Any]
# (the model or its compiled form, share of the time spent, random source) -> loss in nats
LossOf = Callable[[Forward, float, torch.Generator], Tensor]


class FusedCausalAttention(nn.Module):
    """Same numbers as `EagerAttention` under a causal mask, faster to train; parameters none."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """The mask argument is ignored: training windows are always causal from their first byte."""
        del mask
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def train_dense(entry: DenseEntry, options: TrainingOptions, say: Say = tqdm.write) -> dict[str, Any]:
    """Train the tiny size of an entry on the standard library's source and publish it."""
    torch.manual_seed(options.seed)
    text = torch.frombuffer(bytearray(training_text()), dtype=torch.uint8)
    facts = {
        "training_data": f"standard library of Python {platform.python_version()}, held-out modules left out",
        "held_out_sha256": HELD_OUT_TEXT_SHA256,
    }
    return train_decoder(
        fresh=lambda: DenseDecoder(entry.shapes["tiny"]),
        loss_of=lambda forward, share, generator: next_byte_loss(forward, text, share, generator),
        task=NextByteTask(),
        facts=facts,
        options=options,
        say=say,
    )


def train_decoder(
    fresh: Callable[[], Decoder],
    loss_of: LossOf,
    task: Task,
    facts: dict[str, Any],
    options: TrainingOptions,
    say: Say = tqdm.write,
    learning_rate: float = LEARNING_RATE,
    model: Decoder | None = None,
) -> dict[str, Any]:
    """Train a decoder on any loss; `fresh` makes an untrained one, `facts` go into the checkpoint with the quality."""
    model = fresh() if model is None else model
    replace_attention(model, FusedCausalAttention)
    training = start_training(model, learning_rate, options.seed)
    forward: Any = torch.compile(model, dynamic=False) if options.compiled else model
    return training.run(
        options,
        loss_of=lambda share: loss_of(forward, share, training.generator),
        publish=lambda: training.publish(options, fresh, task, facts, say),
        say=say,
        describe_loss=lambda nats: f"{nats / math.log(2):.3f} bits per byte",
    )


def start_training(model: Decoder, learning_rate: float, seed: int) -> Training:
    """Muon for the matrices inside the layers, AdamW for embedding, heads and norms."""
    matrices = [p for p in model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return Training(model, make_optimizers(matrices, rest, learning_rate), learning_rate, seed)


def next_byte_loss(forward: Forward, text: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Nats per byte on random windows of the text."""
    windows = sample_windows(text, window_length(share), generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = forward(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


def replace_attention(model: nn.Module, core: Callable[[], nn.Module]) -> None:
    """Put a new `core` into every place that holds an `EagerAttention`."""
    for name, module in list(model.named_modules()):
        if isinstance(module, EagerAttention):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, core())


def window_length(share: float) -> int:
    """The window of this part of the training."""
    return next(length for end, length in WINDOWS if share < end or end == 1.0)


def sample_windows(text: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """(TOKENS_PER_STEP / length, length + 1) bytes from random places, as int64."""
    starts = torch.randint(len(text) - length, (TOKENS_PER_STEP // length, 1), generator=generator)
    return text[starts + torch.arange(length + 1)].long()
