"""Trains the tiny `deepseek` on the standard library's source, with the load of its experts kept even.

A router that is only trained by the loss soon sends everything to a few experts. DeepSeek-V3 adds no loss against that:
after each step the selection bias of an expert moves by a fixed amount, up if it had fewer tokens than the mean and
down if it had more; at the end of the training it rests. Everything else is the method of `training.language`.

Source: arXiv 2412.19437 section 2.1.2, after Wang et al. 2024 (arXiv 2408.15664).
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

from hybrid_core.models.corpus import training_text
from hybrid_core.models.deepseek import SHAPES, DeepSeek
from hybrid_core.models.experts import MixtureOfExperts
from hybrid_core.models.tasks.next_byte import HELD_OUT_TEXT_SHA256, NextByteTask
from hybrid_core.models.training.base import Say, TrainingOptions
from hybrid_core.models.training.language import LEARNING_RATE, next_byte_loss, replace_attention, start_training

DEFAULT_MINUTES = 35.0
BIAS_STEP = 0.002
BIAS_RESTS_AFTER_SHARE = 0.9

Dispatch = Callable[[Tensor, Tensor, Tensor], Tensor]


def train(options: TrainingOptions, say: Say = tqdm.write) -> dict[str, Any]:
    """Train, publish a usable checkpoint every few minutes, and return the facts of the last one."""
    torch.manual_seed(options.seed)
    text = torch.frombuffer(bytearray(training_text()), dtype=torch.uint8)
    model = DeepSeek(SHAPES["tiny"])
    replace_attention(model, PaddedCausalAttention)
    load = ExpertLoad(model)
    training = start_training(model, LEARNING_RATE, options.seed)
    forward: Any = torch.compile(model, dynamic=False) if options.compiled else model

    def loss_of(share: float) -> Tensor:
        load.balance(BIAS_STEP if share < BIAS_RESTS_AFTER_SHARE else 0.0)
        return next_byte_loss(forward, text, share, training.generator)

    facts = {
        "training_data": f"standard library of Python {platform.python_version()}, held-out modules left out",
        "held_out_sha256": HELD_OUT_TEXT_SHA256,
    }
    return training.run(
        options,
        loss_of,
        publish=lambda: training.publish(
            options, lambda: DeepSeek(SHAPES["tiny"]), NextByteTask(), {**facts, "expert_load": load.shares()}, say
        ),
        say=say,
        describe_loss=lambda nats: f"{nats / math.log(2):.3f} bits per byte",
    )


class PaddedCausalAttention(nn.Module):
    """Same numbers as `EagerAttention` under a causal mask; the fused kernel wants values as wide as keys."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """The mask argument is ignored: training windows are always causal from their first byte."""
        del mask
        padded = F.pad(v, (0, k.shape[-1] - v.shape[-1]))
        return F.scaled_dot_product_attention(q, k, padded, is_causal=True)[..., : v.shape[-1]]


class ExpertLoad:
    """Counts the tokens that each expert of a model gets, and evens them out."""

    def __init__(self, model: nn.Module) -> None:
        self.mixtures = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
        self.counts = [torch.zeros(len(mixture.experts)) for mixture in self.mixtures]
        for index, mixture in enumerate(self.mixtures):
            # Which rows go where cannot be compiled, so a compiled model calls this as it is.
            mixture.dispatch = torch.compiler.disable(self._counted(index, mixture.dispatch))  # type: ignore[method-assign]

    @torch.no_grad()
    def balance(self, step: float) -> None:
        """Move each selection bias by `step` towards an even load, judged by what was counted since the last call."""
        for index, mixture in enumerate(self.mixtures):
            counted = self.counts[index]
            mixture.router.selection_bias += step * torch.sign(counted.mean() - counted)
            self.counts[index] = torch.zeros_like(counted)

    def shares(self) -> list[list[float]]:
        """The part of the counted tokens that each expert got, one list per layer with experts."""
        return [[round(share, 4) for share in (count / count.sum()).tolist()] for count in self.counts]

    def _counted(self, index: int, dispatch: Dispatch) -> Dispatch:
        def counting(tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
            self.counts[index] += torch.bincount(chosen.flatten(), minlength=len(self.counts[index]))
            return dispatch(tokens, weights, chosen)

        return counting
