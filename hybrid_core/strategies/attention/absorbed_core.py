"""Attention over compressed latents, with the matrices that expand them moved to the query and the output side.

Keys are k = W_k c for a latent c, so q' k = (W_k' q)' c: the query is turned once instead of every cached key, and the
value matrix is applied once to the mixed latents. What remains is attention with one key of latent + rope numbers that
all heads share. It reads 8 to 70 times less memory than expanded keys, but multiplies wider vectors, so for many new
tokens keys and values are expanded as before. Source: DeepSeek-V2, section 2.1.2 (arXiv 2405.04434).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class LatentSizes:
    """Heads, and widths of the latent, of the key's parts without and with position, and of the value."""

    heads: int
    latent: int
    plain: int
    rope: int
    value: int

    @property
    def cached_ratio(self) -> float:
        """How many times smaller a token is in the cache than its expanded key and value.

        >>> LatentSizes(heads=16, latent=512, plain=128, rope=64, value=128).cached_ratio
        8.88888888888889
        """
        return self.heads * (self.plain + self.rope + self.value) / (self.latent + self.rope)

    def absorbing_is_cheaper(self, new: int, held: int) -> bool:
        """Whether `new` queries on `held` tokens take fewer multiplications absorbed than expanded, per head.

        >>> sizes = LatentSizes(heads=16, latent=512, plain=128, rope=64, value=128)
        >>> [sizes.absorbing_is_cheaper(new, 2048) for new in (1, 128, 256)]
        [True, True, False]
        >>> sizes.absorbing_is_cheaper(512, 512)
        False
        """
        expansion = self.latent * (self.plain + self.value)
        wider = 2 * self.latent - self.plain - self.value
        return new * (expansion + held * wider) < held * expansion


class HeldWeight(nn.Module):
    """The expanding matrix (heads * (plain + value), latent); not an nn.Linear, so that no quantizer packs it away."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """(..., latent) to (..., heads * (plain + value))."""
        return functional.linear(x, self.weight)


class AbsorbedCore(nn.Module):
    """softmax(q k' * scale + mask) v for keys and values that exist as latents; the cheaper of two forms per call."""

    def __init__(self, weight: nn.Parameter, sizes: LatentSizes, scale: float) -> None:
        super().__init__()
        self.sizes, self.scale = sizes, scale
        self.expand = HeldWeight(weight)

    def forward(self, q: Tensor, latent: Tensor, rope_key: Tensor, mask: Tensor | None) -> Tensor:
        """Queries (b, heads, new, plain + rope), latents (b, 1, all, latent), keys (b, 1, all, rope); the mask
        broadcasts to (b, heads, new, all). Returns (b, heads, new, value).
        """
        if self.sizes.absorbing_is_cheaper(q.shape[2], latent.shape[2]):
            return self.absorbed(q, latent, rope_key, mask)
        return self.expanded(q, latent, rope_key, mask)

    def absorbed(self, q: Tensor, latent: Tensor, rope_key: Tensor, mask: Tensor | None) -> Tensor:
        """Nothing is expanded: the heads are rows of one attention over the latents.

        Written out, because the rows are few: the fused kernel wants key and position as one tensor, and joining them
        copies the whole cache at every step (3 to 17 % slower when tried).
        """
        sizes, (batch, heads, new, _) = self.sizes, q.shape
        matrices = self.expand.weight.view(heads, -1, sizes.latent)
        of_keys, of_values = torch.split(matrices, [sizes.plain, sizes.value], dim=1)
        plain, rope = torch.split(q, [sizes.plain, sizes.rope], dim=-1)
        turned = _per_head(plain, of_keys).reshape(batch, heads * new, -1)
        scores = torch.bmm(turned, latent[:, 0].transpose(1, 2))
        places = rope.reshape(batch, heads * new, -1), rope_key[:, 0].transpose(1, 2)
        scores = torch.baddbmm(scores, *places, beta=self.scale, alpha=self.scale).view(batch, heads, new, -1)
        weights = _softmax(scores, mask).reshape(batch, heads * new, -1)
        mixed = torch.bmm(weights, latent[:, 0]).view(batch, heads, new, -1)
        return _per_head(mixed, of_values.transpose(1, 2))

    def expanded(self, q: Tensor, latent: Tensor, rope_key: Tensor, mask: Tensor | None) -> Tensor:
        """Keys and values of every head, as the untouched module makes them, through the fused kernel."""
        sizes, (batch, held) = self.sizes, latent.shape[0::2]
        per_head = self.expand(latent[:, 0]).view(batch, held, sizes.heads, -1).transpose(1, 2)
        plain, v = torch.split(per_head, [sizes.plain, sizes.value], dim=-1)
        k = torch.cat((plain, rope_key.expand(-1, sizes.heads, -1, -1)), dim=-1)
        missing = k.shape[-1] - sizes.value
        if missing > 0 and v.device.type == "cpu":
            v = functional.pad(v, (0, missing))
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return mixed[..., : sizes.value]


def _per_head(x: Tensor, matrices: Tensor) -> Tensor:
    """(b, heads, new, in) times (heads, in, out); a plain matmul would copy the matrices for every row of the batch."""
    batch, heads, new, width = x.shape
    rows = torch.bmm(x.transpose(0, 1).reshape(heads, batch * new, width), matrices)
    return rows.view(heads, batch, new, -1).transpose(0, 1)


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last axis, in float32 for narrower types; a mask is added, or True where it lets pass."""
    wide = torch.float32 if scores.dtype in (torch.bfloat16, torch.float16) else scores.dtype
    if mask is None or mask.dtype != torch.bool:
        return torch.softmax(scores if mask is None else scores + mask, dim=-1, dtype=wide).to(scores.dtype)
    # A row that may look nowhere (padding) mixes nothing, as in the fused kernel; with -inf it would become NaN and
    # spread through the cache.
    low = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(low, dim=-1, dtype=wide).to(scores.dtype).masked_fill(~mask, 0.0)
