"""Cuts a video into segments of a second and gives each its four tensors: frames, spectrum, bytes, curve.

The spectrum is a short-time Fourier transform summed into mel bands (O'Shaughnessy 1987: 2595 log10(1 + f / 700)) and
taken as a logarithm; the curve is relative to the video's mean, because viewers of different videos differ.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from hybrid_core.models.video.media import FRAMES_PER_S, SAMPLE_RATE, Video, read_video

SEGMENT_S = 1.0
STEPS, BANDS = 16, 32  # of the spectrum of one segment
CHARACTERS = 32
WINDOW, HOPS_PER_STEP = 256, 4
LOWEST_HZ = 50.0
QUIETEST = 1e-6
SILENCE = -1.5  # the spectrum where nothing is heard, (log10(QUIETEST) + 3) / 2

Segments = tuple[Tensor, Tensor, Tensor, Tensor]


def read_segments(path: Path | str, curve_points: int) -> Segments:
    """`segment_tensors` of a file."""
    return segment_tensors(read_video(path), curve_points)


def segment_tensors(video: Video, curve_points: int) -> Segments:
    """Frames uint8 (s, FRAMES_PER_S, 3, h, w), spectrum (s, STEPS, BANDS), bytes (s, CHARACTERS), curve (s, points).

    A rest of half a second or more counts as a segment; its missing half is the last frame and silence.
    """
    count = max(1, int(video.duration_s / SEGMENT_S + 0.5))
    frames = video.frames[: count * FRAMES_PER_S]
    rest = frames[-1:].expand(count * FRAMES_PER_S - len(frames), -1, -1, -1)
    frames = torch.cat((frames, rest)).view(count, FRAMES_PER_S, *frames.shape[1:])
    return frames, spectrum(video.samples, count), transcript(video.cues, count), curve(video, count, curve_points)


def spectrum(samples: Tensor, count: int) -> Tensor:
    """Log power in mel bands (count, STEPS, BANDS), about -1.5 for silence and 1.5 for a loud tone."""
    length, hop = count * SAMPLE_RATE, SAMPLE_RATE // (STEPS * HOPS_PER_STEP)
    padded = F.pad(samples[:length], (0, max(0, length - len(samples))))
    window = torch.hann_window(WINDOW)
    waves = torch.stft(padded, WINDOW, hop, window=window, pad_mode="constant", return_complex=True)
    power = waves[:, : count * STEPS * HOPS_PER_STEP].abs().square() / window.square().sum()
    bands = (mel_bands() @ power).T.reshape(count, STEPS, HOPS_PER_STEP, BANDS).mean(2)
    return (torch.log10(QUIETEST + bands) + 3) / 2


@functools.cache
def mel_bands() -> Tensor:
    """Triangular filters (BANDS, WINDOW / 2 + 1) from LOWEST_HZ to half the sample rate, equally wide in mel."""
    mel_ends = 2595 * torch.log10(1 + torch.tensor([LOWEST_HZ, SAMPLE_RATE / 2]).double() / 700)
    mels = torch.linspace(float(mel_ends[0]), float(mel_ends[1]), BANDS + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mels / 2595) - 1)
    hertz = torch.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    rising = (hertz - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - hertz) / (corners[2:] - corners[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()


def transcript(cues: tuple[tuple[float, float, str], ...], count: int) -> Tensor:
    """What is said during each segment as bytes (count, CHARACTERS) int64; 0 where there is no more text."""
    said: list[list[str]] = [[] for _ in range(count)]
    for start_s, end_s, text in cues:
        first, last = max(0, int(start_s / SEGMENT_S)), min(count - 1, int(max(start_s, end_s - 0.02) / SEGMENT_S))
        for segment in range(first, last + 1):
            if len(said[segment]) < CHARACTERS:  # what comes later cannot be seen
                said[segment].append(text)
    tokens = torch.zeros(count, CHARACTERS, dtype=torch.int64)
    for row, texts in zip(tokens, said, strict=True):
        data = " ".join(texts).replace("\0", " ").encode()[:CHARACTERS]
        row[: len(data)] = torch.tensor(list(data), dtype=torch.int64)
    return tokens


def curve(video: Video, count: int, points: int) -> Tensor:
    """The viewer curve at `points` times of each segment (count, points), less its mean; zero where there is none."""
    if video.curve is None:
        return torch.zeros(count, points)
    step_s, values = video.curve
    held = torch.tensor(values, dtype=torch.float64)
    places = (torch.arange(count * points, dtype=torch.float64) / points * SEGMENT_S / step_s + 1e-9).long()
    return (held[places.clamp(max=len(held) - 1)] - held.mean()).float().view(count, points)
