"""Turns the frames and the transcript of each segment into a vector, with plain convolutions.

What matters may be anywhere in the picture or the text, so the largest answer over all places is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybrid_core.models.video.media import FRAMES_PER_S

BYTE_WIDTH = 256
KERNEL = 5  # letters seen at once by a text convolution


class FrameEncoder(nn.Module):
    """Convolutions over each frame beside its change from the frame before; the largest answer anywhere counts."""

    def __init__(self, images: tuple[int, ...], dim: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for before, width in zip((6, *images[:-1]), images, strict=True):
            parts += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.ReLU()]
        self.convolutions = nn.Sequential(*parts)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.project = nn.Linear(FRAMES_PER_S * images[-1], dim)

    def forward(self, frames: Tensor) -> Tensor:
        """(batch, segments, frames, 3, h, w) in [0, 1] to (batch, segments, dim)."""
        change = torch.cat((torch.zeros_like(frames[:, :, :1]), frames[:, :, 1:] - frames[:, :, :-1]), dim=2)
        stacked = torch.cat((frames, change), dim=3).flatten(0, 2)
        features = self.pool(self.convolutions(stacked)).flatten(1)
        projected: Tensor = self.project(features.view(frames.shape[0], frames.shape[1], -1))
        return projected


class TextEncoder(nn.Module):
    """Two convolutions over the letters of a segment; the largest answer anywhere counts."""

    def __init__(self, letters: int, text: int, dim: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(BYTE_WIDTH, letters)
        self.first = nn.Conv1d(letters, text, KERNEL, padding=KERNEL // 2)
        self.second = nn.Conv1d(text, text, KERNEL, padding=KERNEL // 2)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.project = nn.Linear(text, dim)

    def forward(self, transcript: Tensor) -> Tensor:
        """Bytes (batch, segments, CHARACTERS) to (batch, segments, dim)."""
        letters = self.letters(transcript.flatten(0, 1)).transpose(1, 2)
        features = self.relu2(self.second(self.relu1(self.first(letters)))).amax(-1)
        projected: Tensor = self.project(features.view(transcript.shape[0], transcript.shape[1], -1))
        return projected
