"""Multi-head latent attention: what is cached per token is one short vector, whatever the number of heads.

Keys and values of all heads are expanded from a common latent vector, so the cache holds the latent and one rotary key
shared by the heads: 576 numbers per layer in DeepSeek-V3 instead of 32,768. Positions cannot go through the expansion,
which is why each head's query and key have a part without position (`plain`) and a part with it (`rope`). This is the
reference form: keys and values are expanded again at every call, which a faster form would absorb into the projections.

Source: DeepSeek-V2 (arXiv 2405.04434) section 2.1; the layout of weights is that of DeepSeek-V3 (arXiv 2412.19437).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybrid_core.models.parts.blocks import Cache, EagerAttention, RMSNorm
from hybrid_core.models.parts.rotary import rotate


@dataclass(frozen=True)
class LatentWidths:
    """Heads and widths; without `query_rank` queries come straight from the hidden state."""

    heads: int
    latent: int
    plain: int
    rope: int
    value: int
    query_rank: int | None = None

    @property
    def cache_values_per_token(self) -> int:
        """Numbers that one layer keeps per token.

        >>> LatentWidths(heads=128, latent=512, plain=128, rope=64, value=128, query_rank=1536).cache_values_per_token
        576
        """
        return self.latent + self.rope

    def parameters(self, dim: int) -> int:
        """Of one layer's attention, its inner norms included.

        >>> LatentWidths(heads=128, latent=512, plain=128, rope=64, value=128, query_rank=1536).parameters(7168)
        187107328
        """
        queries = self.heads * (self.plain + self.rope)
        rank = self.query_rank
        query = dim * queries if rank is None else dim * rank + rank + rank * queries
        expand = self.latent * self.heads * (self.plain + self.value)
        return query + dim * (self.latent + self.rope) + self.latent + expand + self.heads * self.value * dim


class LatentAttention(nn.Module):
    """Causal self-attention whose keys and values are expanded from cached latents."""

    def __init__(self, dim: int, widths: LatentWidths, eps: float = 1e-6, score_scale: float = 1.0) -> None:
        super().__init__()
        self.widths, self.score_scale = widths, score_scale
        queries, rank = widths.heads * (widths.plain + widths.rope), widths.query_rank
        self.query = nn.Linear(dim, queries, bias=False) if rank is None else low_rank(dim, rank, queries, eps)
        self.compress = nn.Linear(dim, widths.latent + widths.rope, bias=False)
        self.latent_norm = RMSNorm(widths.latent, eps)
        self.expand = nn.Linear(widths.latent, widths.heads * (widths.plain + widths.value), bias=False)
        self.output = nn.Linear(widths.heads * widths.value, dim, bias=False)
        self.core = EagerAttention()

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, layer: int = 0, cache: Cache | None = None
    ) -> Tensor:
        """Hidden states (batch, tokens, dim) to the same; cos, sin (tokens, rope / 2) are these positions' rows."""
        latent, rope_key = torch.split(self.compress(x)[:, None], [self.widths.latent, self.widths.rope], dim=-1)
        latent, rope_key = self.latent_norm(latent), rotate_neighbours(rope_key, cos, sin)
        if cache is not None:
            latent, rope_key = cache.append(layer, latent, rope_key)
        k, v = self._keys_and_values(latent, rope_key)
        mixed = self.core(self._queries(x, cos, sin), k, v, mask)
        merged: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return merged

    def _queries(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        plain, rope = torch.split(self._heads(self.query(x)), [self.widths.plain, self.widths.rope], dim=-1)
        q = torch.cat((plain, rotate_neighbours(rope, cos, sin)), dim=-1)
        # Here and not in the core, which divides by the root of the width and nothing else, as every core does.
        return q if self.score_scale == 1.0 else q * self.score_scale

    def _keys_and_values(self, latent: Tensor, rope_key: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (batch, 1, all, latent) and shared keys (batch, 1, all, rope) to keys and values of every head."""
        expanded = self._heads(self.expand(latent[:, 0]))
        plain, v = torch.split(expanded, [self.widths.plain, self.widths.value], dim=-1)
        return torch.cat((plain, rope_key.expand(-1, self.widths.heads, -1, -1)), dim=-1), v

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.widths.heads, -1).transpose(1, 2)


def low_rank(dim: int, rank: int, out: int, eps: float) -> nn.Sequential:
    """Down to `rank`, normalised, and up again."""
    return nn.Sequential(nn.Linear(dim, rank, bias=False), RMSNorm(rank, eps), nn.Linear(rank, out, bias=False))


def rotate_neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[2i], x[2i + 1]), as DeepSeek's weights are laid out; the result has firsts, then seconds.

    The order of features does not matter to a scalar product as long as queries and keys share it.
    """
    return rotate(torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1), cos, sin)
