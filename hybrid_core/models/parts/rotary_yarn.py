"""YaRN: rotary positions for texts longer than the model was first trained on, as DeepSeek-V3 uses it.

Pairs that turn often within the original length tell neighbours apart and stay as they are; pairs that turn less than
once are slowed by `factor`, as if the text were that much shorter; a linear ramp over the pair number joins the two.
Longer texts also flatten the softmax, which a larger score scale makes up for.

Source: Peng et al. 2023, arXiv 2309.00071; which of the two `mscale` goes where: `inference/model.py` of DeepSeek-V3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class YarnScaling:
    """How far beyond `original_length` the table reaches; `fast` and `slow` are turns within the original length."""

    factor: float = 40.0
    original_length: int = 4096
    fast: float = 32.0
    slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0

    @property
    def score_scale(self) -> float:
        """What attention scores are multiplied by, beside the usual one over the root of the width.

        >>> round(YarnScaling(factor=40.0).score_scale, 4)
        1.8739
        """
        return self._mscale(self.mscale_all_dim) ** 2

    @property
    def table_scale(self) -> float:
        """What cosines and sines are multiplied by; 1 where both `mscale` are the same, as in DeepSeek-V3."""
        return self._mscale(self.mscale) / self._mscale(self.mscale_all_dim)

    def apply(self, frequency: Tensor, theta: float) -> Tensor:
        """Radians per token (pairs,) to the scaled ones."""
        pairs = len(frequency)
        first = max(math.floor(self._pair_turning(self.fast, 2 * pairs, theta)), 0)
        last = min(math.ceil(self._pair_turning(self.slow, 2 * pairs, theta)), 2 * pairs - 1)
        number = torch.arange(pairs, dtype=frequency.dtype, device=frequency.device)
        slowed = ((number - first) / max(last - first, 0.001)).clamp(0, 1)
        return frequency * (1 - slowed) + frequency / self.factor * slowed

    def _pair_turning(self, turns: float, width: int, theta: float) -> float:
        """The (fractional) number of the pair that turns `turns` times within the original length."""
        return width * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    def _mscale(self, weight: float) -> float:
        return 0.1 * weight * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0


def yarn_table(width: int, max_length: int, theta: float, yarn: YarnScaling) -> tuple[Tensor, Tensor]:
    """Cosines and sines of position x scaled frequency, each (max_length, width / 2); computed in float64."""
    frequency = yarn.apply(theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width), theta)
    angle = torch.outer(torch.arange(max_length, dtype=torch.float64), frequency)
    return (angle.cos() * yarn.table_scale).float(), (angle.sin() * yarn.table_scale).float()
