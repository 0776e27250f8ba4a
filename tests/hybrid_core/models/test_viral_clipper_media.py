"""Video files become tensors: compared with PyAV's low level, numpy's FFT and known pictures; strange files refused."""

from __future__ import annotations

import io
import json
import os
import random
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.models.tasks.highlights import VIDEOS
from hybrid_core.models.training.video_maker import encode
from hybrid_core.models.video import media
from hybrid_core.models.video.media import FRAMES_PER_S, SAMPLE_RATE, Video, read_video
from hybrid_core.models.video.segments import (
    BANDS,
    CHARACTERS,
    SILENCE,
    STEPS,
    mel_bands,
    segment_tensors,
    spectrum,
    transcript,
)

HELD_OUT = VIDEOS / "video_000.mkv"


def stepping_frames(seconds: int) -> np.ndarray:
    """Frame k of 8 per second is grey 10 + 5k, so each frame tells its own time."""
    return np.stack([np.full((48, 64, 3), 10 + 5 * k, np.uint8) for k in range(8 * seconds)])


def tone(hertz: float, seconds: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def write_avi(path: Path, frames: np.ndarray, hertz: float) -> None:
    with av.open(str(path), "w", format="avi") as file:
        video = file.add_stream("mpeg4", rate=8)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = file.add_stream("pcm_s16le", rate=16000)
        audio.layout = "stereo"
        for picture in frames:
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode())
        wave = (16000 * np.sin(2 * np.pi * hertz * np.arange(len(frames) * 2000) / 16000)).astype(np.int16)
        sound = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None], format="s16", layout="stereo")
        sound.sample_rate, sound.pts = 16000, 0
        file.mux(audio.encode(sound))
        file.mux(audio.encode())


def test_duration_and_frames_agree_with_a_plain_decoding():
    video = read_video(HELD_OUT)
    with av.open(str(HELD_OUT)) as file:
        times = [frame.time for frame in file.decode(video=0)]
    assert len(times) == 96
    assert video.duration_s == pytest.approx(times[-1] + 1 / 8)
    assert video.frames.shape == (12 * FRAMES_PER_S, 3, 36, 48)
    assert abs(len(video.samples) - 12 * SAMPLE_RATE) < SAMPLE_RATE // 10


def test_each_kept_frame_is_the_one_on_screen_at_its_time(tmp_path):
    path = written(tmp_path / "steps.mkv", encode(stepping_frames(4), tone(440, 4), [0.5], []))
    shown = read_video(path).frames.float().mean((1, 2, 3))
    on_screen = [int((k + 0.5) / FRAMES_PER_S * 8) for k in range(4 * FRAMES_PER_S)]
    expected = torch.tensor([10.0 + 5 * frame for frame in on_screen])
    assert (shown - expected).abs().max() < 2.5  # nearest to this frame's grey, after lossy coding


@pytest.mark.parametrize("hertz", [300, 1000, 2500])
def test_a_tone_keeps_its_frequency_through_the_codec(tmp_path, hertz):
    path = written(tmp_path / "tone.mkv", encode(stepping_frames(3), tone(hertz, 3), [0.5], []))
    samples = read_video(path).samples.numpy()
    strongest = np.abs(np.fft.rfft(samples)).argmax() * SAMPLE_RATE / len(samples)
    assert strongest == pytest.approx(hertz, abs=3)


def test_other_containers_and_codecs_are_read_too(tmp_path):
    write_avi(tmp_path / "stereo.avi", stepping_frames(3), 700)
    video = read_video(tmp_path / "stereo.avi")
    assert video.duration_s == pytest.approx(3)
    assert np.abs(np.fft.rfft(video.samples.numpy())).argmax() / 3 == pytest.approx(700, abs=3)
    assert video.cues == () and video.curve is None
    assert segment_tensors(video, 8)[3].abs().max() == 0


def test_words_and_curve_come_back_as_written(tmp_path):
    cues = [(0.1, 0.9, "what a save"), (1.2, 1.8, "süß, 漢字"), (2.25, 2.75, "{\\b1}last")]
    curve = [0.0, 0.25, 0.5, 0.75, 1.0, 0.125] * 4
    path = written(tmp_path / "words.mkv", encode(stepping_frames(3), tone(440, 3), curve, cues))
    video = read_video(path)
    assert [text for _, _, text in video.cues] == ["what a save", "süß, 漢字", "last"]
    times = [time_s for start_s, end_s, _ in video.cues for time_s in (start_s, end_s)]
    assert times == pytest.approx([0.1, 0.9, 1.2, 1.8, 2.25, 2.75], abs=2e-3)
    assert video.curve == (0.125, tuple(curve))
    _, _, words, viewers = segment_tensors(video, 8)
    assert bytes(words[1].tolist()).rstrip(b"\0") == "süß, 漢字".encode()
    assert viewers.flatten() == pytest.approx(np.array(curve) - np.mean(curve), abs=1e-6)


def test_a_long_cue_is_heard_in_every_second_it_lasts_and_no_other():
    words = transcript(((0.5, 2.5, "a"), (2.0, 3.0, "b" * 99)), count=5)
    said = [bytes(row.tolist()).rstrip(b"\0").decode() for row in words]
    assert said == ["a", "a", "a " + "b" * (CHARACTERS - 2), "", ""]


def test_spectrum_equals_a_numpy_fourier_transform():
    samples = torch.randn(2 * SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    window, hop = np.hanning(257)[:-1], SAMPLE_RATE // 64
    padded = np.pad(samples.numpy().astype(np.float64), 128)
    power = np.stack([np.abs(np.fft.rfft(padded[k * hop :][:256] * window)) ** 2 for k in range(128)])
    bands = (power / (window**2).sum()) @ mel_bands().numpy().T.astype(np.float64)
    expected = (np.log10(1e-6 + bands.reshape(2, STEPS, 4, BANDS).mean(2)) + 3) / 2
    assert spectrum(samples, 2).numpy() == pytest.approx(expected, abs=1e-4)
    assert spectrum(torch.zeros(0), 1).numpy() == pytest.approx(np.full((1, STEPS, BANDS), SILENCE), abs=1e-6)


def test_a_rest_counts_as_a_segment_from_half_a_second_on():
    def seconds(duration_s: float) -> int:
        frames = torch.zeros(max(1, int(duration_s * FRAMES_PER_S)), 3, 36, 48, dtype=torch.uint8)
        return len(segment_tensors(Video(duration_s, frames, torch.zeros(0), (), None), 8)[0])

    assert [seconds(s) for s in (0.1, 1.4, 1.5, 2.0, 7.75)] == [1, 1, 2, 2, 8]


def test_foreign_and_broken_files_are_refused_with_one_sentence(tmp_path):
    whole = HELD_OUT.read_bytes()
    cases = {
        "empty.mkv": b"",
        "text.mp4": b"this is not a video",
        "playlist.m3u8": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "concat.mkv": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "picture.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "head.mkv": whole[:60],
        "half.mkv": whole[: len(whole) // 2],
        "atoms.mp4": b"\0\0\0\x18ftypisom" + bytes(2000),
        "zeros.mkv": whole[:4] + bytes(5000),
        "riff.avi": b"RIFF\xff\xff\xff\xffAVI LIST" + b"\xff" * 500,
    }
    for name, data in cases.items():
        with pytest.raises(InvalidInput) as refusal:
            read_video(written(tmp_path / name, data))
        text = str(refusal.value)
        assert repr(name) in text and "\n" not in text and len(text) < 400
    with pytest.raises(InvalidInput, match=r"ends after \d\.\d s but announces 12\.0 s"):
        read_video(tmp_path / "half.mkv")


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.mkv")
    for path in (tmp_path / "pipe.mkv", tmp_path, tmp_path / "missing.mkv", Path("/dev/zero"), "a\0b.mkv"):
        with pytest.raises(InvalidInput, match="give the path"):
            read_video(path)


@pytest.mark.parametrize(
    "name", ["concat:a|b.mkv", "http:%5c%5cx.mkv", "-i.mkv", "ü\n\x1b[31m;rm.mkv", "%03d.mkv", "pipe:0"]
)
def test_a_hostile_name_is_only_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / name, HELD_OUT.read_bytes())
    assert read_video(name).duration_s == 12
    written(tmp_path / name, b"nothing")
    with pytest.raises(InvalidInput) as refusal:
        read_video(name)
    assert str(refusal.value).isprintable()


def test_damaged_bytes_give_a_video_or_a_sentence_and_nothing_else(tmp_path):
    chance, whole, outcomes = random.Random(4), HELD_OUT.read_bytes(), {"read": 0, "refused": 0}
    for _ in range(60):
        data = bytearray(whole[: chance.randrange(1, len(whole))] if chance.random() < 0.3 else whole)
        for _ in range(chance.choice((1, 10, 100))):
            data[chance.randrange(min(len(data), chance.choice((3000, len(data)))))] = chance.randrange(256)
        try:
            segments = segment_tensors(read_video(written(tmp_path / "damaged.mkv", bytes(data))), 8)
            assert all(part.isfinite().all() for part in segments)
            outcomes["read"] += 1
        except InvalidInput:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 3, outcomes


@pytest.mark.parametrize(
    "tag",
    ["[", "[" * 100_000, "{}", '{"step_s": 0, "values": [1]}', '{"step_s": 1, "values": []}', "7"]
    + ['{"step_s": 1, "values": [NaN]}', '{"step_s": 1, "values": ["x"]}', '{"step_s": 1, "values": [1e999]}'],
)
def test_a_curve_that_is_none_is_refused(tmp_path, monkeypatch, tag):
    real = json.dumps
    monkeypatch.setattr(json, "dumps", lambda value: tag)
    data = encode(stepping_frames(1), tone(440, 1), [0.5], [])
    monkeypatch.setattr(json, "dumps", real)
    with pytest.raises(InvalidInput, match="engagement"):
        read_video(written(tmp_path / "curve.mkv", data))


def test_long_and_large_videos_are_refused_before_they_fill_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "MAX_SECONDS", 5)
    with pytest.raises(InvalidInput, match="longer than 5 s|sound after 5 s"):
        read_video(HELD_OUT)
    monkeypatch.setattr(media, "MAX_SECONDS", 1800)
    monkeypatch.setattr(media, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(InvalidInput, match="64x48"):
        read_video(HELD_OUT)
    monkeypatch.setattr(media, "MAX_BYTES", 1000)
    with pytest.raises(InvalidInput, match="at most 1,000"):
        read_video(HELD_OUT)


def test_sound_alone_is_refused(tmp_path):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        stream = file.add_stream("pcm_s16le", rate=SAMPLE_RATE)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray((tone(440, 1) * 9999).astype(np.int16)[None], format="s16", layout="mono")
        sound.sample_rate, sound.pts = SAMPLE_RATE, 0
        file.mux(stream.encode(sound))
    with pytest.raises(InvalidInput, match="no pictures"):
        read_video(written(tmp_path / "sound.mkv", buffer.getvalue()))
