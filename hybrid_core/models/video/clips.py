"""Cuts a stretch out of a video file: decoded, trimmed to the frame and sample, encoded again as H.264 and AAC.

Copying packets would be faster but can begin at key frames only; a highlight of two seconds has to begin on time.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from hybrid_core.errors import InvalidInput
from hybrid_core.models.video.media import decodable, first_video, open_media, shown_name

FORMATS = {".mp4": "mp4", ".mkv": "matroska"}
CLIP_RATE = 48_000
DEFAULT_FRAME_RATE = Fraction(25)
TICKS_PER_S = 90_000
EARLY_S = 10.0  # decoding begins this much before the clip, so that sound stored apart from its picture is there too
VIDEO_OPTIONS = {"crf": "20", "preset": "veryfast"}


def clip(path: Path | str, start_s: float, end_s: float, output: Path | str) -> Path:
    """Write the pictures and sound of [start_s, end_s) to `output` (.mp4 or .mkv), which is replaced if it is there.

    Subtitles and tags are left behind. An end after the last picture ends with the video.

    Raises:
        InvalidInput: the times hold no picture, the output is of another kind or the input itself, or the input cannot
            be read; `output` is untouched then.
    """
    path, output = Path(path), Path(output)
    _check(path, start_s, end_s, output)
    partial = output.with_name(f".{output.name[:80]}.{os.getpid()}.partial")
    try:
        with open_media(path) as source:
            pictures = first_video(source, shown_name(path))
            with partial.open("wb") as raw, av.open(raw, "w", format=FORMATS[output.suffix.lower()]) as target:
                written = _Cut(source, pictures, target, start_s, end_s).write()
        if not written:
            raise InvalidInput(
                f"{shown_name(path)} shows nothing from {start_s:g} s to {end_s:g} s; choose times within it"
            )
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return output


def _check(path: Path, start_s: float, end_s: float, output: Path) -> None:
    if not (math.isfinite(start_s) and math.isfinite(end_s) and 0 <= start_s < end_s):
        raise InvalidInput(f"start={start_s:g} s and end={end_s:g} s are no stretch; choose 0 <= start < end")
    if output.suffix.lower() not in FORMATS:
        raise InvalidInput(f"{shown_name(output)} has an unknown ending; choose one of {', '.join(FORMATS)}")
    if not output.parent.is_dir() or output.is_dir() or not os.access(output.parent, os.W_OK):
        raise InvalidInput(f"{shown_name(output)} cannot be written there; name a file in a folder that is yours")
    if output.exists() and path.exists() and output.samefile(path):
        raise InvalidInput(f"{shown_name(output)} is the input itself; choose another name for the clip")


class _Cut:
    """One pass over the input; times are those of the input less its beginning."""

    def __init__(
        self, source: InputContainer, pictures: VideoStream, target: OutputContainer, start_s: float, end_s: float
    ) -> None:
        self.source, self.target, self.start_s, self.end_s = source, target, start_s, end_s
        self.origin_s = (source.start_time or 0) / av.time_base
        self.video_in, self.audio_in = pictures, decodable(source.streams.audio)[:1]
        rate = self.video_in.average_rate or DEFAULT_FRAME_RATE
        self.video = target.add_stream("libx264", rate=rate, options=VIDEO_OPTIONS)
        self.video.width = max(2, self.video_in.codec_context.width // 2 * 2)  # 4:2:0 colour halves both sides
        self.video.height = max(2, self.video_in.codec_context.height // 2 * 2)
        self.video.pix_fmt, self.video.codec_context.thread_count = "yuv420p", 1
        self.video.codec_context.time_base = Fraction(1, TICKS_PER_S)
        self.audio: AudioStream | None = None
        if self.audio_in:
            self.audio = target.add_stream("aac", rate=CLIP_RATE)
            self.audio.layout = "stereo"
        self.resampler = av.AudioResampler(format="fltp", layout="stereo", rate=CLIP_RATE)
        self.pictures, self.samples, self.last_tick = 0, 0, -1
        self.frame_s, self.next_s = float(1 / rate), 0.0

    def write(self) -> int:
        """Everything within the times; the number of pictures written."""
        if self.start_s > EARLY_S:
            self.source.seek(int((self.start_s - EARLY_S + self.origin_s) * av.time_base))
        waiting = {self.video_in.index, *(stream.index for stream in self.audio_in)}
        for packet in self.source.demux([self.video_in, *self.audio_in]):
            if packet.stream.index not in waiting:
                continue
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame | av.AudioFrame), "only these two streams were asked for"
                time_s = self.next_s if frame.time is None else frame.time - self.origin_s
                if time_s >= self.end_s:
                    waiting.discard(packet.stream.index)
                elif isinstance(frame, av.VideoFrame):
                    self._write_picture(frame, time_s)
                else:
                    self._write_sound(frame, time_s)
            if not waiting:
                break
        self.target.mux(self.video.encode())
        if self.audio is not None:
            self.target.mux(self.audio.encode())
        return self.pictures

    def _write_picture(self, frame: av.VideoFrame, time_s: float) -> None:
        self.next_s = time_s + self.frame_s
        tick = round((time_s - self.start_s) * TICKS_PER_S)
        if time_s < self.start_s - 1e-6 or tick <= self.last_tick:
            return
        picture = frame.reformat(width=self.video.width, height=self.video.height, format="yuv420p")
        picture.pts, picture.time_base = tick, Fraction(1, TICKS_PER_S)
        picture.pict_type = av.video.frame.PictureType.NONE  # the encoder decides again what is a key frame
        self.last_tick, self.pictures = tick, self.pictures + 1
        self.target.mux(self.video.encode(picture))

    def _write_sound(self, frame: av.AudioFrame, time_s: float) -> None:
        """The part of a piece of sound that lies within the times, to the sample."""
        assert self.audio is not None
        for piece in self.resampler.resample(frame):
            begin_s = time_s if piece.time is None else piece.time - self.origin_s
            data = piece.to_ndarray()
            first = max(0, round((self.start_s - begin_s) * CLIP_RATE))
            last = min(data.shape[1], round((self.end_s - begin_s) * CLIP_RATE))
            if first >= last:
                continue
            kept = av.AudioFrame.from_ndarray(data[:, first:last].copy(), format="fltp", layout="stereo")
            kept.sample_rate, kept.pts, kept.time_base = CLIP_RATE, self.samples, Fraction(1, CLIP_RATE)
            self.samples += last - first
            self.target.mux(self.audio.encode(kept))
