"""Find the planted highlight of a video: files that the repository filmed, decoded again with PyAV at run time.

Twelve segments each, exactly one of them the highlight. `data/videos/index.json` names every file with its SHA-256, the
seed of its script and the segment; what the evidence is stands in `training/video_script.py`. The baselines show why
one sense is not enough: the loudest second, the one with most motion, most exclamation marks, the highest curve.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybrid_core.models.checkpoints import DATA
from hybrid_core.models.tasks.base import ClassesTask, check_hash, whole_rows
from hybrid_core.models.video.segments import Segments, read_segments

VIDEOS = DATA / "videos"
INDEX = VIDEOS / "index.json"
INDEX_SHA256 = "7c3ac1baf59473c0e69a96b0d0b6347d750af551594957e14f98d0ebe596d06d"
SEGMENTS = 12
CURVE_POINTS = 8
HELD_OUT_VIDEOS = 256


@dataclass(frozen=True)
class HeldOutVideo:
    """One line of the index."""

    file: str
    sha256: str
    seed: int
    highlight: int


@functools.cache
def held_out_videos() -> tuple[HeldOutVideo, ...]:
    """The index, checked."""
    check_hash(INDEX_SHA256, INDEX)
    return tuple(HeldOutVideo(**line) for line in json.loads(INDEX.read_text()))


@functools.cache
def held_out_segments(number: int) -> Segments:
    """The decoded tensors of one held-out video, kept for the life of the process; frames are uint8 still."""
    video = held_out_videos()[number]
    check_hash(video.sha256, VIDEOS / video.file)
    return read_segments(VIDEOS / video.file, CURVE_POINTS)


def held_out_batch(numbers: list[int]) -> Segments:
    """The inputs of a model for some held-out videos."""
    return batch_of([held_out_segments(number) for number in numbers])


def batch_of(rows: list[Segments]) -> Segments:
    """Stacked, frames in [0, 1]."""
    frames, audio, transcript, engagement = (torch.stack(parts) for parts in zip(*rows, strict=True))
    return frames.float() / 255, audio, transcript, engagement


@dataclass(frozen=True)
class HighlightsTask(ClassesTask):
    """How high the planted segment is ranked among the segments of its video.

    The rank's reciprocal instead of "found first": a highlight that slips from first to second counts half, so a change
    of 1 % shows on these many videos, where single hits and misses would need a thousand.
    """

    batch: int = 8
    metric: str = "mean reciprocal rank of the highlight"
    unit: str = "video"
    bits_per: str | None = None
    rated: int = HELD_OUT_VIDEOS

    def batches(self, rows: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Frames, audio, transcript and engagement of `batch` videos, and their segments (batch,)."""
        videos = held_out_videos()
        count = whole_rows(rows, self.batch, len(videos))
        for start in range(0, count, self.batch):
            numbers = list(range(start, start + self.batch))
            yield held_out_batch(numbers), torch.tensor([videos[number].highlight for number in numbers])

    def score(self, answers: Tensor, targets: Tensor) -> Tensor:
        """One over the rank of the planted segment, (rows,)."""
        return reciprocal_ranks(answers, targets)

    def rates(self, model: nn.Module) -> dict[str, float]:
        """The share of the first `rated` videos whose planted segment has the highest score."""
        device = next(model.parameters()).device
        found = [
            self.answer(model, tuple(part.to(device) for part in inputs)).argmax(1).cpu() == targets
            for inputs, targets in self.batches(self.rated)
        ]
        return {"found_first_share": torch.cat(found).double().mean().item()}

    def trivial_score(self) -> float:
        """Ranking the segments of every video by how often each is the highlight."""
        targets = torch.tensor([video.highlight for video in held_out_videos()])
        counts = torch.bincount(targets).double().sort(descending=True).values
        return float((counts / torch.arange(1, len(counts) + 1)).sum() / len(targets))


def reciprocal_ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """1 / (1 + the number of other segments scored at least as high), (rows,) float64: ties count against the model."""
    own = scores.gather(1, targets[:, None])
    return 1 / (scores >= own).sum(1).double()


@torch.no_grad()
def baseline_scores() -> dict[str, float]:
    """Share of held-out highlights found by rules that look at one thing."""
    task, found = HighlightsTask(), {name: 0.0 for name in BASELINES}
    for inputs, targets in task.batches(len(held_out_videos())):
        for name, rule in BASELINES.items():
            found[name] += float((rule(inputs).argmax(1) == targets).sum())
    return {name: hits / len(held_out_videos()) for name, hits in found.items()}


def _loudness(inputs: tuple[Tensor, ...]) -> Tensor:
    return (10 ** (2 * inputs[1])).mean((2, 3))  # back from the logarithm to power


def _motion(inputs: tuple[Tensor, ...]) -> Tensor:
    return inputs[0].diff(dim=2).abs().mean((2, 3, 4, 5))


def _exclamations(inputs: tuple[Tensor, ...]) -> Tensor:
    return (inputs[2] == ord("!")).sum(2).double()


def _viewers(inputs: tuple[Tensor, ...]) -> Tensor:
    return inputs[3].amax(2)


BASELINES = {
    "loudest segment": _loudness,
    "most motion": _motion,
    "most exclamation marks": _exclamations,
    "highest viewer curve": _viewers,
}
