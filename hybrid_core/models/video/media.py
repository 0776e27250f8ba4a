"""Reads a video file into tensors with PyAV: a few small frames per second, mono sound, subtitles, a viewer curve.

Files come from strangers. They are opened as bytes with a container format chosen from their first bytes, so no
playlist and no name that looks like an address makes anything else be opened; sizes and times are bounded before and
while decoding; whatever cannot be read is one `InvalidInput` sentence. Decoding runs in FFmpeg's native code: read
files of people you do not know in a process of its own.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import torch
from av.container import InputContainer
from av.stream import Stream
from av.subtitles.subtitle import AssSubtitle
from av.video.stream import VideoStream
from torch import Tensor

from hybrid_core.errors import InvalidInput

FRAMES_PER_S, FRAME_HEIGHT, FRAME_WIDTH = 4, 36, 48
SAMPLE_RATE = 8000
ROUNDING_SAMPLES = SAMPLE_RATE // 20  # smaller gaps between pieces of sound are rounding of their times
MAX_SECONDS = 1800
MAX_BYTES = 2 * 2**30
MAX_PIXELS = 4096 * 2304
MAX_FRAMES_PER_S = 120
MAX_CUES, MAX_CUE_CHARACTERS = 20_000, 500
MAX_CURVE_VALUES = 200_000
UNTIMED_CUE_S = 2.0
AnyStream = TypeVar("AnyStream", bound=Stream)
ALLOWED = "a Matroska, WebM, MP4, MOV or AVI file"


@dataclass(frozen=True)
class Video:
    """What the models see of a file. `frames` are uint8 (n, 3, FRAME_HEIGHT, FRAME_WIDTH), FRAMES_PER_S of them per
    second; `samples` float32 at SAMPLE_RATE; `cues` are (start_s, end_s, text); `curve` is (step_s, values) or None.
    """

    duration_s: float
    frames: Tensor
    samples: Tensor
    cues: tuple[tuple[float, float, str], ...]
    curve: tuple[float, tuple[float, ...]] | None


def read_video(path: Path | str) -> Video:
    """Decode a whole file; frame k is what the screen shows at (k + 0.5) / FRAMES_PER_S seconds.

    Raises:
        InvalidInput: no regular file, another format, broken, cut off, without pictures, or beyond the limits above.
    """
    with open_media(path) as file:
        reading = _Reading(file, Path(path).name)
        for packet in file.demux(reading.streams):
            if packet.stream.type == "subtitle":
                reading.add_cue(packet)
            else:
                for frame in packet.decode():
                    reading.add_frame(frame)
        return reading.finished()


@contextmanager
def open_media(path: Path | str) -> Iterator[InputContainer]:
    """A container opened for reading; every failure of decoding inside the block becomes one sentence."""
    path = Path(path)
    name = shown_name(path)
    try:
        form = _container_format(path, name)
        with path.open("rb") as raw, av.open(raw, "r", format=form, metadata_errors="replace") as file:
            yield file
    except InvalidInput:
        raise
    except (av.FFmpegError, ValueError, OverflowError, OSError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:120]
        raise InvalidInput(f"{name} cannot be decoded ({reason}); give an undamaged copy of {ALLOWED}") from error


def shown_name(path: Path) -> str:
    """The file's name as one short printable line, whatever is in it."""
    return repr(path.name[:80])


def decodable(streams: Sequence[AnyStream]) -> list[AnyStream]:
    """The streams for whose codec there is a decoder."""
    # PyAV has no context where FFmpeg knows no decoder, whatever its annotations say.
    return [stream for stream in streams if stream.codec_context is not None]


def first_video(file: InputContainer, name: str) -> VideoStream:
    """The pictures of a file.

    Raises:
        InvalidInput: there are none, or none that can be decoded here, or they are too large.
    """
    if not file.streams.video:
        raise InvalidInput(f"{name} holds no pictures; give a video, not sound alone")
    if not decodable(file.streams.video):
        raise InvalidInput(f"the pictures of {name} are coded in an unknown way; convert them to H.264")
    video = decodable(file.streams.video)[0]
    check_picture_size(video.codec_context.width, video.codec_context.height, name)
    return video


def check_picture_size(width: int, height: int, name: str) -> None:
    """Refuse pictures too large to hold and those without any size."""
    if not 0 < width * height <= MAX_PIXELS:
        raise InvalidInput(
            f"{name} has pictures of {width}x{height}; from 1 to {MAX_PIXELS:,} pixels are allowed, scale it down"
        )


def _container_format(path: Path, name: str) -> str:
    """FFmpeg's name of the format, from the first bytes alone."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        raise InvalidInput(f"{name} is not there or may not be read; give the path of {ALLOWED}") from None
    if not stat.S_ISREG(status.st_mode):
        raise InvalidInput(f"{name} is not a regular file; give the path of {ALLOWED}")
    if status.st_size > MAX_BYTES:
        raise InvalidInput(f"{name} has {status.st_size:,} bytes; at most {MAX_BYTES:,} are read, give a shorter video")
    with path.open("rb") as raw:
        head = raw.read(12)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return "mp4"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    raise InvalidInput(f"{name} begins with {head[:8]!r}, which is no known video format; give {ALLOWED}")


class _Reading:
    """Collects what is decoded, within the limits."""

    def __init__(self, file: InputContainer, name: str) -> None:
        self.file, self.name = file, repr(name[:80])
        video = first_video(file, self.name)
        video.codec_context.thread_count = 1  # a measurement's other thread is not ours to use
        self.streams = [video, *decodable(file.streams.audio)[:1], *decodable(file.streams.subtitles)[:1]]
        self.start_s = (file.start_time or 0) / av.time_base
        rate = float(video.average_rate or 0)
        self.frame_s = 1 / rate if rate > 0 else 1 / FRAMES_PER_S
        self.end_s, self.heard_end_s, self.decoded = 0.0, 0.0, 0
        self.shown: av.VideoFrame | None = None
        self.pictures: list[Tensor] = []
        self.sound: list[Tensor] = []
        self.samples = 0
        self.cues: list[tuple[float, float, str]] = []
        self.scaler = av.video.reformatter.VideoReformatter()
        self.resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)

    def add_frame(self, frame: Any) -> None:
        """One decoded picture or piece of sound."""
        if isinstance(frame, av.VideoFrame):
            self._add_picture(frame)
        elif isinstance(frame, av.AudioFrame):
            for piece in self.resampler.resample(frame):
                self._add_sound(piece)

    def add_cue(self, packet: av.Packet[Any]) -> None:
        """The text of one subtitle; bitmap subtitles have none."""
        if packet.pts is None or not packet.size or len(self.cues) >= MAX_CUES:
            return
        start_s = float(packet.pts * packet.time_base) - self.start_s
        length_s = float(packet.duration * packet.time_base) if packet.duration else UNTIMED_CUE_S
        shown = [part for part in packet.decode() if isinstance(part, AssSubtitle)]
        text = " ".join(part.dialogue.decode("utf-8", "replace").replace("\\N", " ") for part in shown).strip()
        if text:
            self.cues.append((start_s, start_s + length_s, text[:MAX_CUE_CHARACTERS]))

    def finished(self) -> Video:
        """Everything decoded so far as a video, unless the file ends long before it says it does."""
        for piece in self.resampler.resample(None):
            self._add_sound(piece)
        if self.shown is None:
            raise InvalidInput(f"{self.name} holds no picture that can be decoded; give an undamaged copy")
        announced_s, found_s = (self.file.duration or 0) / av.time_base, max(self.end_s, self.heard_end_s)
        if found_s < announced_s - max(1.0, 0.05 * announced_s):
            raise InvalidInput(
                f"{self.name} ends after {found_s:.1f} s but announces {announced_s:.1f} s; give the whole file"
            )
        self._show_until(self.end_s)
        self.pictures = self.pictures or [self._picture()]
        sound = torch.cat(self.sound) if self.sound else torch.zeros(0)
        curve = _curve(self.file.metadata, self.name)
        return Video(self.end_s, torch.stack(self.pictures), sound, tuple(self.cues), curve)

    def _add_picture(self, frame: av.VideoFrame) -> None:
        check_picture_size(frame.width, frame.height, self.name)
        time_s = self.end_s if frame.time is None else frame.time - self.start_s
        self.decoded += 1
        if not time_s <= MAX_SECONDS or self.decoded > MAX_SECONDS * MAX_FRAMES_PER_S:
            raise InvalidInput(f"{self.name} is longer than {MAX_SECONDS} s; cut it into shorter files")
        self.shown = self.shown or frame
        self._show_until(time_s)
        self.shown, self.end_s = frame, max(self.end_s, time_s + self.frame_s)

    def _show_until(self, time_s: float) -> None:
        """Take the picture now on screen for every sampling time before `time_s`."""
        missing = math.ceil(time_s * FRAMES_PER_S - 0.5) - len(self.pictures)
        if missing > 0:
            self.pictures.extend([self._picture()] * missing)

    def _picture(self) -> Tensor:
        assert self.shown is not None
        small = self.scaler.reformat(self.shown, width=FRAME_WIDTH, height=FRAME_HEIGHT, format="rgb24")
        return torch.from_numpy(small.to_ndarray()).permute(2, 0, 1).contiguous()

    def _add_sound(self, piece: av.AudioFrame) -> None:
        """Sound goes where its time says: silence fills gaps, what comes too early is dropped."""
        heard = torch.from_numpy(piece.to_ndarray()[0].astype(np.float32))
        place = self.samples if piece.time is None else round((piece.time - self.start_s) * SAMPLE_RATE)
        if not place + len(heard) <= (MAX_SECONDS + 1) * SAMPLE_RATE:
            raise InvalidInput(f"{self.name} has sound after {MAX_SECONDS} s; cut it into shorter files")
        gap = place - self.samples
        if gap > ROUNDING_SAMPLES:
            self.sound.append(torch.zeros(gap))
            self.samples += gap
        elif gap < -ROUNDING_SAMPLES or self.samples == 0:
            heard = heard[max(0, -gap) :]
        self.sound.append(heard)
        self.samples += len(heard)
        self.heard_end_s = self.samples / SAMPLE_RATE


def _curve(metadata: dict[str, str], name: str) -> tuple[float, tuple[float, ...]] | None:
    """The tag "engagement", {"step_s": seconds, "values": [numbers]}, checked."""
    text = next((value for key, value in metadata.items() if key.lower() == "engagement"), None)
    if text is None:
        return None
    try:
        data = json.loads(text)
        step_s, values = float(data["step_s"]), tuple(float(value) for value in data["values"])
        good = step_s >= 0.001 and 0 < len(values) <= MAX_CURVE_VALUES and all(map(math.isfinite, (step_s, *values)))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        good = False
    if not good:
        raise InvalidInput(
            f"the tag 'engagement' of {name} is {text[:40]!r}; write it as "
            '{"step_s": 0.5, "values": [0.1, 0.2]} with finite numbers, or remove it'
        )
    return step_s, values
