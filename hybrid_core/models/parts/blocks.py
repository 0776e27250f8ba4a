"""The parts of a Llama-style decoder, written plainly so that a strategy can find and replace them.

Normalisation, rotary positions, grouped-query attention and the gated feed-forward are each a few lines of readable
PyTorch without fused kernels: the untouched baseline that every optimization is measured against. `EagerAttention` is a
module of its own, because swapping exactly that submodule is what attention fusion does.

Sources: RMSNorm (Zhang and Sennrich 2019), grouped-query attention (Ainslie et al. 2023), SwiGLU
(Shazeer 2020), put together as in Llama 2/3 (Touvron et al. 2023).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybrid_core.models.parts.rotary import rotate


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last axis, then scale; computed in float32 whatever the input is."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape (..., dim) to the same shape and dtype."""
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


def repeat_heads(x: Tensor, times: int) -> Tensor:
    """Give each key or value head to `times` neighbouring query heads: (b, kv, t, d) to (b, kv * times, t, d)."""
    batch, heads, tokens, width = x.shape
    return x[:, :, None].expand(batch, heads, times, tokens, width).reshape(batch, heads * times, tokens, width)


class EagerAttention(nn.Module):
    """softmax(q k' / sqrt(d) + mask) v with every intermediate materialised: the textbook form."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Query (b, heads, new, d), key and value (b, heads, all, d); the mask broadcasts to (new, all)."""
        scores = torch.matmul(q, k.transpose(-2, -1)) * q.shape[-1] ** -0.5
        return torch.matmul(torch.softmax(scores + mask, dim=-1), v)


@runtime_checkable
class Cache(Protocol):
    """Keys and values of the tokens read so far. The model reads `length` once per call, before its first `append`."""

    @property
    def length(self) -> int:
        """Tokens held by every layer."""

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (batch, kv_heads, new, head_dim) and return everything this layer holds, in the same layout."""


class GrowingCache:
    """The simplest cache: `torch.cat` at each step, which copies everything it holds. It is the baseline."""

    def __init__(self, layers: int) -> None:
        self._held: list[tuple[Tensor, Tensor] | None] = [None] * layers

    @property
    def length(self) -> int:
        """Tokens held by every layer: the last layer is the last to be filled."""
        last = self._held[-1]
        return 0 if last is None else last[0].shape[2]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (batch, kv_heads, new, head_dim) and return everything this layer holds, in the same layout."""
        held = self._held[layer]
        joined = (k, v) if held is None else (torch.cat((held[0], k), dim=2), torch.cat((held[1], v), dim=2))
        self._held[layer] = joined
        return joined


class Attention(nn.Module):
    """Causal self-attention with fewer key/value heads than query heads; Qwen2 has biases where q, k and v are made."""

    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int, qkv_bias: bool = False) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.query = nn.Linear(dim, heads * head_dim, bias=qkv_bias)
        self.key = nn.Linear(dim, kv_heads * head_dim, bias=qkv_bias)
        self.value = nn.Linear(dim, kv_heads * head_dim, bias=qkv_bias)
        self.output = nn.Linear(heads * head_dim, dim, bias=False)
        self.core = EagerAttention()

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, layer: int = 0, cache: Cache | None = None
    ) -> Tensor:
        """Hidden states (batch, tokens, dim) to the same; cos, sin (tokens, head_dim / 2) are these positions' rows."""
        q = rotate(self._split(self.query(x), self.heads), cos, sin)
        k = rotate(self._split(self.key(x), self.kv_heads), cos, sin)
        v = self._split(self.value(x), self.kv_heads)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        times = self.heads // self.kv_heads
        mixed = self.core(q, repeat_heads(k, times), repeat_heads(v, times), mask)
        merged: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return merged

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], heads, self.head_dim).transpose(1, 2)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        lowered: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return lowered


class DecoderLayer(nn.Module):
    """Pre-norm attention and pre-norm feed-forward, each added to the residual stream."""

    def __init__(
        self,
        dim: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        hidden: int,
        qkv_bias: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(dim, norm_eps)
        self.attention = Attention(dim, heads, kv_heads, head_dim, qkv_bias)
        self.feed_forward_norm = RMSNorm(dim, norm_eps)
        self.feed_forward = SwiGLU(dim, hidden)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, layer: int = 0, cache: Cache | None = None
    ) -> Tensor:
        """Hidden states (batch, tokens, dim) to the same."""
        x = x + self.attention(self.attention_norm(x), cos, sin, mask, layer, cache)
        lifted: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return lifted
