"""From a video file to the stretches worth clipping: decode, score each second, join neighbours that score well."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.tasks.highlights import CURVE_POINTS, SEGMENTS, batch_of
from hybrid_core.models.video.media import Video, read_video
from hybrid_core.models.video.segments import SEGMENT_S, Segments, segment_tensors

WINDOW_STEP = SEGMENTS // 2
WINDOWS_AT_ONCE = 8


def find_highlights(
    model: nn.Module,
    source: Path | str | Video,
    threshold: float = 0.5,
    top: int | None = None,
    curve_points: int = CURVE_POINTS,
) -> list[tuple[float, float, float]]:
    """(start_s, end_s, score) of the stretches whose seconds all score at least `threshold`, best first.

    A score is the largest chance of a highlight within the stretch, 0 to 1; `top` keeps that many.
    `curve_points` is the model's engagement width per segment.
    """
    if not 0 <= threshold <= 1:
        raise InvalidInput(f"threshold={threshold} is not a chance; choose from 0 to 1")
    if top is not None and top < 1:
        raise InvalidInput(f"top={top} keeps nothing; ask for at least 1 highlight or leave it out")
    video = source if isinstance(source, Video) else read_video(source)
    chances = segment_scores(model, segment_tensors(video, curve_points)).sigmoid().tolist()
    found = [
        (first * SEGMENT_S, min(last * SEGMENT_S, video.duration_s), max(chances[first:last]))
        for first, last in _runs([chance >= threshold for chance in chances])
    ]
    return sorted(found, key=lambda stretch: -stretch[2])[:top]


@torch.no_grad()
def segment_scores(model: nn.Module, segments: Segments) -> Tensor:
    """The score of every segment of one video of any length, (segments,).

    A model has learned positions for `SEGMENTS` segments only, so a longer video is read in overlapping windows and a
    segment gets the mean of its scores; a shorter one is padded and the padding masked.
    """
    count = len(segments[0])
    starts = sorted({*range(0, max(1, count - SEGMENTS + 1), WINDOW_STEP), max(0, count - SEGMENTS)})
    totals, times = torch.zeros(count), torch.zeros(count)
    for begin in range(0, len(starts), WINDOWS_AT_ONCE):
        group = starts[begin : begin + WINDOWS_AT_ONCE]
        windows = batch_of([_window(segments, start) for start in group])
        padding = None if count >= SEGMENTS else torch.tensor([SEGMENTS - count])
        scores = model(*windows) if padding is None else model(*windows, padding)
        for start, row in zip(group, scores, strict=True):
            seen = slice(start, min(count, start + SEGMENTS))
            totals[seen] += row[: seen.stop - start]
            times[seen] += 1
    return totals / times


def _window(segments: Segments, start: int) -> Segments:
    """`SEGMENTS` segments from `start`, zeros where the video has no more."""
    frames, audio, transcript, engagement = (
        torch.cat((part, part.new_zeros(max(0, SEGMENTS - len(part)), *part.shape[1:])))
        for part in (x[start : start + SEGMENTS] for x in segments)
    )
    return frames, audio, transcript, engagement


def _runs(chosen: list[bool]) -> list[tuple[int, int]]:
    """(first, one past last) of each unbroken run of True.

    >>> _runs([True, False, True, True])
    [(0, 1), (2, 4)]
    """
    edges = [i for i, (a, b) in enumerate(zip([False, *chosen], [*chosen, False], strict=True)) if a != b]
    return list(zip(edges[::2], edges[1::2], strict=True))
