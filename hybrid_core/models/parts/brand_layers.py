"""The transformer parts that analysis and writer share: attention over anything, feed-forward, one layer of each kind.

Pre-norm (Xiong et al. 2020) with LayerNorm and GELU, all as plain modules; attention runs in `EagerAttention`, so that
a strategy finds it. The closed-form counts stand beside the layers they count.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybrid_core.models.parts.blocks import Cache, EagerAttention
from hybrid_core.models.parts.rotary import rotate

WIDENING = 4
START = 0.5
"""Standard deviation of fresh embeddings and of positions: a position must be as loud as the word that stands there."""


Turn = tuple[Tensor, Tensor]
"""Cosines and sines, each (new, head_dim / 2), of the positions of the new tokens."""


class Attention(nn.Module):
    """Queries from `x`, keys and values from `memory` (self-attention where they are the same), several heads."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value, self.output = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.core = EagerAttention()

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor,
        turn: Turn | None = None,
        layer: int = 0,
        cache: Cache | None = None,
    ) -> Tensor:
        """(batch, new, dim) over (batch, all, dim) to (batch, new, dim); the mask broadcasts to (new, all)."""
        q, k, v = self._split(self.query(x)), self._split(self.key(memory)), self._split(self.value(memory))
        if turn is not None:
            q, k = rotate(q, *turn), rotate(k, *turn)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        merged: Tensor = self.output(self.core(q, k, v, mask).transpose(1, 2).flatten(2))
        return merged

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """down(gelu(up(x)))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up, self.gelu, self.down = nn.Linear(dim, WIDENING * dim), nn.GELU(), nn.Linear(WIDENING * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        lowered: Tensor = self.down(self.gelu(self.up(x)))
        return lowered


class SelfLayer(nn.Module):
    """Self-attention, then feed-forward, each added to its input."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.feed_norm, self.feed_forward = nn.LayerNorm(dim), FeedForward(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, dim) to the same."""
        near = self.norm(x)
        x = x + self.attention(near, near, mask)
        lifted: Tensor = x + self.feed_forward(self.feed_norm(x))
        return lifted


class ReadingLayer(nn.Module):
    """Cross-attention into a memory, then feed-forward, each added to its input."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.feed_norm, self.feed_forward = nn.LayerNorm(dim), FeedForward(dim)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """(batch, readers, dim) with memory (batch, tokens, dim) to (batch, readers, dim)."""
        x = x + self.attention(self.norm(x), memory, mask)
        lifted: Tensor = x + self.feed_forward(self.feed_norm(x))
        return lifted


def fresh_positions(count: int, dim: int) -> nn.Parameter:
    """A learned vector per place."""
    return nn.Parameter(START * torch.randn(count, dim))


def fresh_embedding(count: int, dim: int) -> nn.Embedding:
    """A learned vector per token."""
    embedding = nn.Embedding(count, dim)
    nn.init.normal_(embedding.weight, std=START)
    return embedding


def attention_parameters(dim: int) -> int:
    """Four matrices with bias."""
    return 4 * (dim * dim + dim)


def layer_parameters(dim: int) -> int:
    """Attention, feed-forward and two norms: the count of `SelfLayer` and of `ReadingLayer`."""
    return attention_parameters(dim) + 2 * WIDENING * dim * dim + (WIDENING + 1) * dim + 4 * dim


def no_mask(like: Tensor) -> Tensor:
    """The additive mask that hides nothing."""
    return torch.zeros(1, 1, device=like.device, dtype=like.dtype)


def causal_mask(new: int, held: int, like: Tensor) -> Tensor:
    """(new, held + new): position i of the new ones sees all held ones and the new ones up to itself."""
    hidden = torch.full((new, held + new), torch.finfo(like.dtype).min, device=like.device, dtype=like.dtype)
    return hidden.triu(held + 1)
