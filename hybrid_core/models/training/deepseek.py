"""Trains the tiny `deepseek` on the standard library's source, with the load of its experts kept even.

A router that is only trained by the loss soon sends everything to a few experts. DeepSeek-V3 adds no loss against that:
after each step the selection bias of an expert moves by a fixed amount, up if it had fewer tokens than the mean and
down if it had more; at the end of the training it rests. Everything else is the method of `training.language`.

Source: arXiv 2412.19437 section 2.1.2, after Wang et al. 2024 (arXiv 2408.15664).
"""

from __future__ import annotations

import math
import platform
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hybrid_core.models.corpus import training_text
from hybrid_core.models.deepseek import SHAPES, DeepSeek
from hybrid_core.models.parts.blocks import EagerAttention
from hybrid_core.models.parts.experts import MixtureOfExperts
from hybrid_core.models.tasks.next_byte import HELD_OUT_TEXT_SHA256, NextByteTask
from hybrid_core.models.training.base import Say, TrainingOptions
from hybrid_core.models.training.language import LEARNING_RATE, next_byte_loss, replace_attention, start_training

DEFAULT_MINUTES = 35.0
BIAS_STEP = 0.002
BIAS_RESTS_AFTER_SHARE = 0.9
LOAD_ROWS = 64


def train(options: TrainingOptions, say: Say = tqdm.write) -> dict[str, Any]:
    """Train, publish a usable checkpoint every few minutes, and return the facts of the last one."""
    torch.manual_seed(options.seed)
    text = torch.frombuffer(bytearray(training_text()), dtype=torch.uint8)
    model = DeepSeek(SHAPES["tiny"])
    replace_attention(model, NarrowAttention)
    load = ExpertLoad(model)
    training = start_training(model, LEARNING_RATE, options.seed)
    forward: Any = torch.compile(model, dynamic=False) if options.compiled else model

    def loss_of(share: float) -> Tensor:
        load.balance(BIAS_STEP if share < BIAS_RESTS_AFTER_SHARE else 0.0)
        return next_byte_loss(forward, text, share, training.generator)

    facts: dict[str, Any] = {
        "training_data": f"standard library of Python {platform.python_version()}, held-out modules left out",
        "held_out_sha256": HELD_OUT_TEXT_SHA256,
    }

    def publish() -> dict[str, Any]:
        loaded = {**facts, "expert_load": load.held_out_shares()}
        return training.publish(options, lambda: DeepSeek(SHAPES["tiny"]), NextByteTask(), loaded, say)

    return training.run(options, loss_of, publish, say, lambda nats: f"{nats / math.log(2):.3f} bits per byte")


class NarrowAttention(EagerAttention):
    """`EagerAttention` wholly in the type of the running autocast, the softmax too.

    Autocast widens a softmax to float32, which costs more than the products around it; for windows this short the
    narrow form is also 1.5 to 3 times as quick as the fused kernel of the CPU (128 to 512 bytes, AMD EPYC).
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """See `EagerAttention.forward`; without autocast there is no difference."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else q.dtype
        with torch.autocast("cpu", enabled=False):
            return super().forward(q.to(dtype), k.to(dtype), v.to(dtype), mask.to(dtype))


class ExpertLoad:
    """Counts the tokens that each expert of a model gets, and evens them out."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.mixtures = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
        self.counts = [torch.zeros(len(mixture.experts)) for mixture in self.mixtures]
        for mixture, count in zip(self.mixtures, self.counts, strict=True):
            count_into(count, mixture)

    @torch.no_grad()
    def balance(self, step: float) -> None:
        """Move each selection bias by `step` towards an even load, judged by what was counted since the last call."""
        for mixture, count in zip(self.mixtures, self.counts, strict=True):
            mixture.router.selection_bias.add_(torch.sign(count.mean() - count), alpha=step)
            count.zero_()

    @torch.no_grad()
    def held_out_shares(self) -> list[list[float]]:
        """The part of held-out bytes that each expert gets, one list per layer with experts."""
        self.balance(0.0)
        for inputs, _ in NextByteTask().batches(LOAD_ROWS):
            self.model(*inputs)
        shares = [[round(share, 4) for share in (count / count.sum()).tolist()] for count in self.counts]
        self.balance(0.0)
        return shares


def count_into(count: Tensor, mixture: Any) -> None:
    """Make a mixture add the tokens of each of its experts to `count`."""
    dispatch = mixture.dispatch

    def counted(tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        count.add_(torch.bincount(chosen.flatten(), minlength=len(count)))
        mixed: Tensor = dispatch(tokens, weights, chosen)
        return mixed

    # Which rows go where cannot be compiled, so a compiled model calls this as it is.
    mixture.dispatch = torch.compiler.disable(counted)  # type: ignore[no-untyped-call]
