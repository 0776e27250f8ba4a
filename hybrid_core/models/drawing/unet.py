"""A U-Net that reads a prompt: convolutions see the neighbourhood, attention sees the whole image and the text.

The image is halved from level to level and built up again, and each block on the way up also gets what its counterpart
on the way down saw. Time enters every residual block, the text enters by cross-attention. Written plainly: convolution,
group normalisation and SiLU are modules of their own, attention is `blocks.EagerAttention`.

Sources: U-Net, Ronneberger et al. 2015; as a denoiser, Ho et al. 2020 (arXiv 2006.11239); text by cross-attention in
transformer blocks between the residual ones, Rombach et al. 2022 (arXiv 2112.10752).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybrid_core.models.parts.blocks import EagerAttention

MAX_PERIOD = 1000.0
"""Times from 0 to 1 are counted in thousandths, so this is the slowest sine's period in units of 2 pi."""


@dataclass(frozen=True)
class UNetShape:
    """One width per level, each level at half the resolution of the one before; attention on the `attended` levels."""

    image: int
    channels: int
    widths: tuple[int, ...]
    blocks: int
    attended: tuple[int, ...]
    head_dim: int
    groups: int
    text_dim: int

    @property
    def time_dim(self) -> int:
        """Width of what every residual block is told about the time."""
        return 4 * self.widths[0]

    @property
    def parameters(self) -> int:
        """The count in closed form."""
        first, last = self.widths[0], self.widths[-1]
        total = _conv(self.channels, first, 3) + _linear(first, self.time_dim) + _linear(self.time_dim, self.time_dim)
        total += 2 * self._residual(last, last) + self._attention(last)
        total += 2 * first + _conv(first, self.channels, 3)
        for level, (before, width) in enumerate(zip((first, *self.widths), self.widths, strict=False)):
            attention = self._attention(width) if level in self.attended else 0
            total += self._residual(before, width) + (self.blocks - 1) * self._residual(width, width)
            total += self.blocks * (self._residual(2 * width, width) + 2 * attention)
        between = zip(self.widths, self.widths[1:], strict=False)
        return total + sum(_conv(above, above, 3) + _conv(below, above, 3) for above, below in between)

    def _residual(self, before: int, width: int) -> int:
        shortcut = _conv(before, width, 1) if before != width else 0
        convolutions = _conv(before, width, 3) + _conv(width, width, 3)
        return 2 * before + 2 * width + convolutions + _linear(self.time_dim, width) + shortcut

    def _attention(self, width: int) -> int:
        own, cross = 4 * width**2, 2 * width**2 + 2 * width * self.text_dim
        return 6 * width + own + cross + _linear(width, 2 * width) + _linear(2 * width, width)


def _conv(before: int, after: int, kernel: int) -> int:
    return kernel**2 * before * after + after


def _linear(before: int, after: int) -> int:
    return before * after + after


def time_features(time: Tensor, width: int) -> Tensor:
    """Sines and cosines (batch, width) of times (batch,) at `width` / 2 frequencies (Vaswani et al. 2017)."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=time.device)
    angle = 1000.0 * time.float()[:, None] * torch.exp(steps * (-math.log(MAX_PERIOD) / half))
    return torch.cat((angle.sin(), angle.cos()), dim=-1).to(time.dtype)


class MultiHeadAttention(nn.Module):
    """Attention of `x` to `memory`, which is `x` itself or the text."""

    def __init__(self, dim: int, memory_dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(memory_dim, dim, bias=False)
        self.value = nn.Linear(memory_dim, dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        self.core = EagerAttention()

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, dim) and (batch, remembered, memory_dim); the mask broadcasts to (tokens, remembered)."""
        q, k, v = self._split(self.query(x)), self._split(self.key(memory)), self._split(self.value(memory))
        merged: Tensor = self.output(self.core(q, k, v, mask).transpose(1, 2).flatten(2))
        return merged

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], -1, self.head_dim).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class ResidualBlock(nn.Module):
    """conv(silu(norm(conv(silu(norm(x))) + time))) + shortcut(x)."""

    def __init__(self, before: int, width: int, time_dim: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, before)
        self.act1 = nn.SiLU()
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.time = nn.Linear(time_dim, width)
        self.norm2 = nn.GroupNorm(groups, width)
        self.act2 = nn.SiLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut: nn.Module = nn.Conv2d(before, width, 1) if before != width else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Image features (batch, before, h, w) and time (batch, time_dim) to (batch, width, h, w)."""
        branch = self.conv1(self.act1(self.norm1(x))) + self.time(time)[:, :, None, None]
        merged: Tensor = self.conv2(self.act2(self.norm2(branch))) + self.shortcut(x)
        return merged


class PictureAttention(nn.Module):
    """Every pixel looks at all pixels, then at the text, then thinks: each added to the features."""

    def __init__(self, dim: int, text_dim: int, head_dim: int) -> None:
        super().__init__()
        self.own_norm = nn.LayerNorm(dim)
        self.own = MultiHeadAttention(dim, dim, head_dim)
        self.text_norm = nn.LayerNorm(dim)
        self.text = MultiHeadAttention(dim, text_dim, head_dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, 2 * dim)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Features (batch, dim, h, w), text (batch, length, text_dim), its additive mask (batch, 1, 1, length)."""
        tokens = x.flatten(2).transpose(1, 2)
        normed = self.own_norm(tokens)
        tokens = tokens + self.own(normed, normed, tokens.new_zeros(1, 1))
        tokens = tokens + self.text(self.text_norm(tokens), text, mask)
        tokens = tokens + self.feed_forward(self.feed_forward_norm(tokens))
        shaped: Tensor = tokens.transpose(1, 2).view(x.shape)
        return shaped


class Stage(nn.Module):
    """A residual block and, on attended levels, attention."""

    def __init__(self, shape: UNetShape, before: int, width: int, attends: bool) -> None:
        super().__init__()
        self.residual = ResidualBlock(before, width, shape.time_dim, shape.groups)
        self.attention = PictureAttention(width, shape.text_dim, shape.head_dim) if attends else None

    def forward(self, x: Tensor, time: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """(batch, before, h, w) to (batch, width, h, w)."""
        features: Tensor = self.residual(x, time)
        if self.attention is None:
            return features
        attended: Tensor = self.attention(features, text, mask)
        return attended


class UNet(nn.Module):
    """Noisy image, time and encoded text in, prediction of the image's shape out."""

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.shape = shape
        first, last, levels = shape.widths[0], shape.widths[-1], range(len(shape.widths))
        self.time = nn.Sequential(
            nn.Linear(first, shape.time_dim), nn.SiLU(), nn.Linear(shape.time_dim, shape.time_dim), nn.SiLU()
        )
        self.stem = nn.Conv2d(shape.channels, first, 3, padding=1)
        self.down = nn.ModuleList(self._level(level, (first, *shape.widths)[level], 1) for level in levels)
        self.halving = nn.ModuleList(nn.Conv2d(w, w, 3, stride=2, padding=1) for w in shape.widths[:-1])
        self.middle = nn.ModuleList((Stage(shape, last, last, True), Stage(shape, last, last, False)))
        self.up = nn.ModuleList(self._level(level, 2 * shape.widths[level], 2) for level in levels)
        self.doubling = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(below, above, 3, padding=1))
            for above, below in zip(shape.widths, shape.widths[1:], strict=False)
        )
        self.head = nn.Sequential(
            nn.GroupNorm(shape.groups, first), nn.SiLU(), nn.Conv2d(first, shape.channels, 3, padding=1)
        )

    def _level(self, level: int, before: int, inputs: int) -> nn.ModuleList:
        width, attends = self.shape.widths[level], level in self.shape.attended
        following = [Stage(self.shape, inputs * width, width, attends) for _ in range(self.shape.blocks - 1)]
        return nn.ModuleList((Stage(self.shape, before, width, attends), *following))

    def forward(self, noisy: Tensor, time: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """(batch, channels, image, image), (batch,) in [0, 1], (batch, length, text_dim), (batch, 1, 1, length)."""
        told = self.time(time_features(time, self.shape.widths[0]))
        x, seen = self.stem(noisy), []
        for level, stages in enumerate(self.down):
            x = self.halving[level - 1](x) if level else x
            for stage in stages:  # type: ignore[attr-defined]
                x = stage(x, told, text, mask)
                seen.append(x)
        for stage in self.middle:
            x = stage(x, told, text, mask)
        for level in reversed(range(len(self.up))):
            for stage in self.up[level]:  # type: ignore[attr-defined]
                x = stage(torch.cat((x, seen.pop()), dim=1), told, text, mask)
            x = self.doubling[level - 1](x) if level else x
        predicted: Tensor = self.head(x)
        return predicted
