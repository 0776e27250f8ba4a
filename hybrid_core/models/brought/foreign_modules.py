"""Thin modules around those of `transformers`: tensors in, one tensor out, and a cache a strategy may replace.

The wrapped module stays as `transformers` builds it, with eager attention, so it is the untouched model of a run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.models.brought.family import LOGITS, STATES, TOKEN_LOGITS
from hybrid_core.models.brought.text_cache import transformers_cache_class
from hybrid_core.models.parts.blocks import Cache, GrowingCache


class ForeignDecoder(nn.Module):
    """A causal language model: tokens (batch, new) int64 to logits (batch, new, vocabulary)."""

    def __init__(self, model: nn.Module, layers: int) -> None:
        super().__init__()
        self.model = model
        self.layer_count = layers
        self.past_class = transformers_cache_class()  # found here, because a compiler cannot look inside imports

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """With a cache, only the new tokens go in."""
        past = None if cache is None else self.past_class(cache)
        logits: Tensor = self.model(input_ids=tokens, past_key_values=past, use_cache=cache is not None).logits
        return logits

    def cache_factory(self, batch: int, max_length: int) -> Cache:
        """An empty cache that grows by copying, as the registry's decoders have it."""
        del batch, max_length
        return GrowingCache(self.layer_count)


class ForeignEncoder(nn.Module):
    """A text encoder: tokens (batch, length) int64, none of them padding, to hidden states or logits."""

    def __init__(self, model: nn.Module, gives: str) -> None:
        super().__init__()
        self.model = model
        self.gives = gives

    def forward(self, tokens: Tensor) -> Tensor:
        """Hidden states (batch, length, width), token logits (batch, length, classes) or logits (batch, classes)."""
        output = self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
        return answer_of(output, self.gives)


class ForeignVision(nn.Module):
    """An image model: images (batch, channels, side, side) to hidden states or logits (batch, classes)."""

    def __init__(self, model: nn.Module, gives: str) -> None:
        super().__init__()
        self.model = model
        self.gives = gives

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return answer_of(self.model(pixel_values=images), self.gives)


def answer_of(output: Any, gives: str) -> Tensor:
    """The tensor of an output object that the architecture is known for."""
    assert gives in (LOGITS, TOKEN_LOGITS, STATES), gives
    answer: Tensor = output.last_hidden_state if gives == STATES else output.logits
    return answer
