"""Rotary positions: each pair of features is turned by an angle that grows with the position.

A model that was trained on short texts reads longer ones when its slow rotations are slowed down further.
`Llama3Scaling` is how Llama 3.1 does it: fast pairs stay, slow ones are divided by `factor`, those between are
interpolated.

Sources: RoPE (Su et al. 2021, arXiv 2104.09864); the scaling of Llama 3.1 (Grattafiori et al. 2024, arXiv 2407.21783).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Llama3Scaling:
    """Pairs that turn fewer than `low` times in `original_length` tokens are slowed by `factor`, above `high` never."""

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    original_length: int = 8192

    def apply(self, frequency: Tensor) -> Tensor:
        """Radians per token (pairs,) to the scaled ones."""
        turns = self.original_length * frequency / (2 * math.pi)
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return kept * frequency + (1 - kept) * frequency / self.factor


def rotary_table(
    head_dim: int, max_length: int, theta: float, scaling: Llama3Scaling | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of position x frequency, each (max_length, head_dim / 2).

    Frequency i is theta^(-2i / head_dim); computed in float64, because position x frequency loses digits otherwise.
    """
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if scaling is not None:
        frequency = scaling.apply(frequency)
    angle = torch.outer(torch.arange(max_length, dtype=torch.float64), frequency)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + head_dim/2]) by its position's angle; x is (batch, heads, tokens, head_dim)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
