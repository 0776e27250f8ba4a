"""A clip is exactly the asked stretch: its length, pictures and sound; nothing is written when it cannot be."""

from __future__ import annotations

import av
import numpy as np
import pytest

from hybrid_core.errors import InvalidInput
from hybrid_core.models.tasks.highlights import VIDEOS
from hybrid_core.models.training.video_maker import encode
from hybrid_core.models.video.clips import clip
from hybrid_core.models.video.media import SAMPLE_RATE, read_video

HELD_OUT = VIDEOS / "video_000.mkv"


def counted(path, seconds: int) -> None:
    """Write a video whose second k has grey 10 + 5k and a tone of 300 + 40k Hz."""
    frames = np.stack([np.full((48, 64, 3), 10 + 5 * (k // 8), np.uint8) for k in range(8 * seconds)])
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    sound = np.concatenate([0.4 * np.sin(2 * np.pi * (300 + 40 * k) * t) for k in range(seconds)])
    path.write_bytes(encode(frames, sound.astype(np.float32), [0.5], []))


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".MP4"])
@pytest.mark.parametrize(("start_s", "end_s"), [(0, 1), (3.25, 5.75), (11, 12)])
def test_clip_has_the_asked_length(tmp_path, ending, start_s, end_s):
    output = clip(HELD_OUT, start_s, end_s, tmp_path / f"clip{ending}")
    video = read_video(output)
    assert video.duration_s == pytest.approx(end_s - start_s, abs=1e-2)
    assert len(video.samples) / SAMPLE_RATE == pytest.approx(end_s - start_s, abs=0.05)
    with av.open(str(output)) as file:
        assert len(list(file.decode(video=0))) == round((end_s - start_s) * 8)
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("start_s", [2, 31])  # 31: far enough for seeking
def test_clip_shows_and_sounds_like_its_stretch(tmp_path, start_s):
    counted(tmp_path / "counted.mkv", start_s + 3)
    video = read_video(clip(tmp_path / "counted.mkv", start_s, start_s + 2, tmp_path / "clip.mp4"))
    greys = video.frames.float().mean((1, 2, 3)).view(2, 4)
    for second in range(2):
        assert greys[second] == pytest.approx(10 + 5 * (start_s + second), abs=2.4)
        part = video.samples[second * SAMPLE_RATE + 800 :][: SAMPLE_RATE - 1600].numpy()
        strongest = np.abs(np.fft.rfft(part)).argmax() * SAMPLE_RATE / len(part)
        assert strongest == pytest.approx(300 + 40 * (start_s + second), abs=4)


def test_clip_of_a_silent_video_of_odd_size_works(tmp_path):
    with av.open(str(tmp_path / "odd.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 33, 17, "yuv444p"
        for k in range(30):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((17, 33, 3), 8 * k, np.uint8), format="rgb24")))
        file.mux(stream.encode())
    video = read_video(clip(tmp_path / "odd.mkv", 1, 2, tmp_path / "odd.mp4"))
    assert video.duration_s == pytest.approx(1)
    assert video.frames[0].float().mean() == pytest.approx(8 * 11, abs=4)
    assert len(video.samples) == 0


def test_an_end_after_the_video_ends_with_it(tmp_path):
    assert read_video(clip(HELD_OUT, 11, 99, tmp_path / "end.mp4")).duration_s == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize(
    ("start_s", "end_s", "name", "reason"),
    [
        (2, 2, "a.mp4", "no stretch"),
        (-1, 2, "a.mp4", "no stretch"),
        (float("nan"), 2, "a.mp4", "no stretch"),
        (0, float("inf"), "a.mp4", "no stretch"),
        (0, 1, "a.gif", "choose one of .mp4, .mkv"),
        (0, 1, "missing/a.mp4", "folder"),
        (20, 21, "a.mp4", "shows nothing"),
    ],
)
def test_what_cannot_be_cut_is_refused_and_leaves_nothing_behind(tmp_path, start_s, end_s, name, reason):
    with pytest.raises(InvalidInput, match=reason):
        clip(HELD_OUT, start_s, end_s, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_clip_keeps_the_earlier_one_and_the_input_is_never_overwritten(tmp_path):
    output = clip(HELD_OUT, 0, 1, tmp_path / "clip.mp4")
    before = output.read_bytes()
    (tmp_path / "broken.mkv").write_bytes(HELD_OUT.read_bytes()[:3000] + bytes(3000))
    for source in (tmp_path / "broken.mkv", tmp_path / "missing.mkv"):
        with pytest.raises(InvalidInput):
            clip(source, 8, 9, output)
    with pytest.raises(InvalidInput, match="input itself"):
        clip(output, 0, 0.5, tmp_path / "." / "clip.mp4")
    assert output.read_bytes() == before
