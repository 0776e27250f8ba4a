"""Finds the moment of a video worth clipping: frames, sound, words and viewers of each second, fused over time.

Four small encoders turn a segment's frames, spectrum, transcript and engagement curve into vectors of one width; their
sum goes through a transformer encoder over the segments (Vaswani et al. 2017, normalised before each part as in Xiong
et al. 2020), and a linear layer scores each segment. The document this project comes from describes the fusion with
widths 2048, 512, 768 and 64 projected to 512 but feeds it random numbers; here encoders and data are real, so the
counts differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.base import RegistryEntry, Task, check_size
from hybrid_core.models.checkpoints import CHECKPOINTS
from hybrid_core.models.parts.blocks import EagerAttention
from hybrid_core.models.parts.video_encoders import BYTE_WIDTH, KERNEL, FrameEncoder, TextEncoder
from hybrid_core.models.tasks.highlights import CURVE_POINTS, SEGMENTS, HighlightsTask, held_out_batch, held_out_videos
from hybrid_core.models.video.media import FRAME_HEIGHT, FRAME_WIDTH, FRAMES_PER_S
from hybrid_core.models.video.segments import BANDS, CHARACTERS, SEGMENT_S, SILENCE, STEPS
from hybrid_core.records import Workload

CHECKPOINT = CHECKPOINTS / "viral_clipper-tiny.safetensors"
DOCUMENT_PARAMETERS = 21_430_531


@dataclass(frozen=True)
class ClipperShape:
    """The dimensions of one size. `images` are the channels of the frame convolutions; each halves the picture."""

    dim: int
    layers: int
    heads: int
    images: tuple[int, ...]
    audio: int
    letters: int
    text: int
    curve: int
    segments: int = 12

    @property
    def visual(self) -> int:
        """The width of a segment's picture features: those of its frames side by side."""
        return FRAMES_PER_S * self.images[-1]

    @property
    def parameters(self) -> int:
        """The count in closed form: nine weights per pair of channels, and so on part by part."""
        d = self.dim
        pairs = zip((6, *self.images[:-1]), self.images, strict=True)
        frames = sum(9 * before * width + width for before, width in pairs) + (self.visual + 1) * d
        audio = (STEPS * BANDS + 1) * self.audio + (self.audio + 1) * d
        convolutions = KERNEL * (self.letters + self.text) * self.text + 2 * self.text
        transcript = BYTE_WIDTH * self.letters + convolutions + (self.text + 1) * d
        engagement = (self.curve + 1) * d + (d + 1) * d
        layer = 4 * (d + 1) * d + (d + 1) * 4 * d + (4 * d + 1) * d + 4 * d
        return frames + audio + transcript + engagement + self.segments * d + self.layers * layer + 2 * d + d + 1


SHAPES = {
    "tiny": ClipperShape(
        dim=128, layers=3, heads=4, images=(16, 32, 64), audio=128, letters=32, text=64, curve=8, segments=12
    ),
    "small": ClipperShape(
        dim=512,
        layers=8,
        heads=8,
        images=(64, 128, 256, 512),
        audio=2048,
        letters=128,
        text=768,
        curve=64,
        segments=1000,
    ),
    "full": ClipperShape(
        dim=1024,
        layers=24,
        heads=16,
        images=(128, 256, 512, 1024),
        audio=4096,
        letters=256,
        text=1536,
        curve=64,
        segments=1000,
    ),
}


class FusionLayer(nn.Module):
    """Attention over the segments and a feed-forward with GELU, each normalised first and added."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.core = EagerAttention()
        self.output = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, segments, dim) to the same; the mask is added to the attention scores."""
        normed = self.attention_norm(x)
        q, k, v = (self._split(project(normed)) for project in (self.query, self.key, self.value))
        mixed = self.core(q, k, v, mask)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        lifted: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return lifted

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class ViralClipper(nn.Module):
    """Segments of videos in, one score per segment out; the sigmoid of a score is the chance of a highlight."""

    def __init__(self, shape: ClipperShape) -> None:
        super().__init__()
        self.shape = shape
        self.frames = FrameEncoder(shape.images, shape.dim)
        self.audio = nn.Sequential(
            nn.Flatten(2), nn.Linear(STEPS * BANDS, shape.audio), nn.GELU(), nn.Linear(shape.audio, shape.dim)
        )
        self.transcript = TextEncoder(shape.letters, shape.text, shape.dim)
        self.engagement = nn.Sequential(nn.Linear(shape.curve, shape.dim), nn.GELU(), nn.Linear(shape.dim, shape.dim))
        self.positions = nn.Parameter(0.02 * torch.randn(shape.segments, shape.dim))
        self.layers = nn.ModuleList(FusionLayer(shape.dim, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.dim)
        self.head = nn.Linear(shape.dim, 1)

    def encode(self, frames: Tensor, audio: Tensor, transcript: Tensor, engagement: Tensor) -> tuple[Tensor, ...]:
        """One vector per segment and modality, each (batch, segments, dim)."""
        return self.frames(frames), self.audio(audio), self.transcript(transcript), self.engagement(engagement)

    def fuse(self, encoded: tuple[Tensor, ...], padding: Tensor | None = None) -> Tensor:
        """Scores (batch, segments) of what `encode` gave; the last `padding` segments of each row are not looked at."""
        x = encoded[0] + encoded[1] + encoded[2] + encoded[3] + self.positions[: encoded[0].shape[1]]
        mask = x.new_zeros(1, 1, 1, x.shape[1]) if padding is None else padding_mask(padding, x)
        for layer in self.layers:
            x = layer(x, mask)
        scores: Tensor = self.head(self.norm(x)).squeeze(-1)
        return scores

    def forward(
        self, frames: Tensor, audio: Tensor, transcript: Tensor, engagement: Tensor, padding: Tensor | None = None
    ) -> Tensor:
        """Scores (batch, segments).

        frames (batch, segments, FRAMES_PER_S, 3, h, w) in [0, 1]; audio (batch, segments, STEPS, BANDS) log power;
        transcript (batch, segments, CHARACTERS) bytes; engagement (batch, segments, points); padding (batch,) counts
        the segments at the end that are not there.
        """
        return self.fuse(self.encode(frames, audio, transcript, engagement), padding)


def padding_mask(padding: Tensor, x: Tensor) -> Tensor:
    """(batch, 1, 1, segments), very negative where a segment is not there."""
    segments = x.shape[1]
    absent = torch.arange(segments, device=x.device) >= segments - padding[:, None]
    return torch.zeros_like(absent, dtype=x.dtype).masked_fill(absent, torch.finfo(x.dtype).min)[:, None, None]


def absent_inputs() -> dict[str, float]:
    """What each input holds where a file has no such stream: black, silence, no text, a flat curve."""
    return {"frames": 0.0, "audio": SILENCE, "transcript": 0, "engagement": 0.0}


class ViralClipperEntry(RegistryEntry):
    """The registry's entry."""

    name = "viral_clipper"
    family = "multimodal transformer"
    title = "Viral Clipper"
    description = (
        "Scores every second of a video by its frames, sound, words and viewer curve. The tiny size finds "
        "the highlights planted in videos that this project generates, encodes and decodes again."
    )
    architecture = (
        "Convolutions over frames and letters, a two-layer network over the spectrum and one over the viewer curve; "
        "their sum plus a learned position goes through a pre-norm transformer encoder over the segments."
    )
    sources = (
        "A. Vaswani et al., Attention Is All You Need, 2017 (arXiv:1706.03762)",
        "R. Xiong et al., On Layer Normalization in the Transformer Architecture, 2020 (arXiv:2002.04745)",
    )
    checkpoint = CHECKPOINT

    def make(self, size: str) -> nn.Module:
        """See `RegistryEntry.make`."""
        return ViralClipper(SHAPES[size])

    def parameters(self, size: str) -> int:
        """See `RegistryEntry.parameters`."""
        return SHAPES[size].parameters

    def workloads(self, size: str) -> tuple[Workload, ...]:
        """A batch of videos of twelve segments, and one video alone."""
        check_size(self.name, self.sizes, size)
        batch = 16 if size == "tiny" else 1
        many = Workload("forward", "forward", batch=batch, length=12)
        return (many, Workload("forward_single", "forward", batch=1, length=12)) if size == "tiny" else (many,)

    def make_inputs(self, size: str, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Held-out videos drawn at random, beginning at a random second, with a little noise: no two are alike."""
        check_size(self.name, self.sizes, size)
        shape, length = SHAPES[size], workload.length or SEGMENTS
        if length > shape.segments:
            raise InvalidInput(f"length={length} is too long for {self.name} {size}; at most {shape.segments} segments")
        numbers = torch.randint(len(held_out_videos()), (workload.batch,), generator=generator).tolist()
        turn = int(torch.randint(SEGMENTS, (1,), generator=generator))
        seconds = (torch.arange(length) + turn) % SEGMENTS
        frames, audio, transcript, engagement = (x[:, seconds] for x in held_out_batch(numbers))
        frames = (frames + 0.01 * torch.randn(frames.shape, generator=generator)).clamp(0, 1)
        audio = audio + 0.01 * torch.randn(audio.shape, generator=generator)
        return frames, audio, transcript, engagement.repeat_interleave(shape.curve // CURVE_POINTS, dim=-1)

    def trained_task(self) -> Task | None:
        """See `RegistryEntry.trained_task`."""
        return HighlightsTask(
            rated=64
        )  # decoding the others would take longer than all that is measured of a candidate

    def limits(self, size: str) -> list[str]:
        """See `RegistryEntry.limits`."""
        if size != "tiny":
            return ["random weights: for speed and memory only, its scores mean nothing"]
        return [
            "trained on generated videos only: moving squares, synthetic sound, made-up speech; on a real video its "
            "scores are a demonstration",
            f"reads {SHAPES[size].segments} segments at a time; longer videos are scored in overlapping windows",
        ]

    def card(self, size: str) -> dict[str, Any]:
        """What a segment is, and why the document's count cannot be met."""
        check_size(self.name, self.sizes, size)
        shape = SHAPES[size]
        return {
            "segment": {
                "seconds": SEGMENT_S,
                "frames": [FRAMES_PER_S, 3, FRAME_HEIGHT, FRAME_WIDTH],
                "spectrum": [STEPS, BANDS],
                "transcript_bytes": CHARACTERS,
                "engagement_points": shape.curve,
            },
            "widths": {"frames": shape.visual, "audio": STEPS * BANDS, "transcript": shape.text, "fused": shape.dim},
            "document": (
                f"The document's figure of {DOCUMENT_PARAMETERS:,} parameters is that of a fusion of ready-made "
                "features fed with random numbers. 'small' has its widths (2048, 512, 768 and 64 to 512, eight heads) "
                "with real encoders and eight layers instead of six; 'full' is larger. Neither was published."
            ),
        }
