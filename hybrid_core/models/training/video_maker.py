"""Films a script: draws frames, synthesises sound, writes subtitles and a viewer curve, encodes a real video file.

H.264 pictures of 64x48 at 8 per second, 8 kHz Opus speech and sound, SubRip subtitles and a JSON tag with the curve, in
a Matroska file of about 15 kB for 12 seconds. What is drawn and heard follows from the script's seed to the bit, but
H.264 encoders of another version, and now and then two runs of the same one, decide differently about a block; so the
held-out files themselves are shipped.
"""

from __future__ import annotations

import io
import json
from fractions import Fraction

import av
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from hybrid_core.models.training.video_script import Moment, Script

WIDTH, HEIGHT, RATE = 64, 48, 8
SAMPLE_RATE = 8000
CURVE_STEP_S = 0.125
SHAPE = 9  # side of the moving shape in pixels
VIDEO_OPTIONS = {"crf": "31", "preset": "veryfast", "x264-params": "keyint=96:rc-lookahead=8"}
AUDIO_OPTIONS = {"frame_duration": "60", "compression_level": "1"}
AUDIO_BITS_PER_S = 6000
BIT_EXACT = {"fflags": "+bitexact"}  # no random identifiers in the file

Floats = NDArray[np.float32]


def film(script: Script) -> bytes:
    """The whole Matroska file of a script."""
    random = np.random.default_rng((script.seed, 8))
    frames, sound, curve = _draw(script, random), _sound(script, random), _curve(script, random)
    return encode(frames, sound, curve, _cues(script, random))


def encode(frames: NDArray[np.uint8], sound: Floats, curve: list[float], cues: list[tuple[float, float, str]]) -> bytes:
    """Frames (n, HEIGHT, WIDTH, 3), samples in [-1, 1], curve in [0, 1] and (start_s, end_s, text) as one file."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska", container_options=BIT_EXACT) as file:
        file.metadata["engagement"] = json.dumps({"step_s": CURVE_STEP_S, "values": [round(v, 3) for v in curve]})
        video = file.add_stream("libx264", rate=RATE, options=VIDEO_OPTIONS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.thread_count = 1
        audio = file.add_stream("libopus", rate=SAMPLE_RATE, options=AUDIO_OPTIONS)
        audio.layout, audio.bit_rate = "mono", AUDIO_BITS_PER_S
        text = file.add_mux_stream("subrip")
        text.time_base = Fraction(1, 1000)
        for picture in frames:
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode())
        heard = av.AudioFrame.from_ndarray((sound[None] * 32767).astype(np.int16), format="s16", layout="mono")
        heard.sample_rate, heard.pts = SAMPLE_RATE, 0
        file.mux(audio.encode(heard))
        file.mux(audio.encode())
        for start_s, end_s, words in cues:
            packet = av.Packet(words.encode())
            packet.stream, packet.time_base = text, Fraction(1, 1000)
            packet.pts = packet.dts = round(start_s * 1000)
            packet.duration = round((end_s - start_s) * 1000)
            file.mux(packet)
    return buffer.getvalue()


def _draw(script: Script, random: Generator) -> NDArray[np.uint8]:
    scenes, place, look = [], random.uniform((0, 0), (WIDTH, HEIGHT)), _new_look(random)
    for moment in script.moments:
        look = _new_look(random) if moment.cut else look
        scene, place = _scene(moment, place, look, random)
        scenes.append(scene)
    return np.concatenate(scenes)


def _new_look(random: Generator) -> Floats:
    """What a cut changes: two colours and, in the last row, the direction of the background's waves."""
    turn = random.uniform(0, 2 * np.pi)
    return np.array([*random.uniform(40, 215, (2, 3)), (np.sin(turn), np.cos(turn), 0)], dtype=np.float32)


def _scene(
    moment: Moment, place: NDArray[np.float64], look: Floats, random: Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """One second: a wavy background, scrolled or still, and one shape, slow or fast; returns where the shape ended."""
    fast, decoy = moment.evidence["motion"], moment.decoys["scroll"]
    speed = 2.5 + 4.5 * fast if fast else random.uniform(0, 1.0)  # pixels per frame
    scroll = 1.5 + 5 * decoy if decoy else random.uniform(0, 0.3)
    steps, angle = np.arange(RATE, dtype=np.float32), random.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    along = rows * look[2, 0] + columns * look[2, 1] + (scroll * steps)[:, None, None].astype(np.float32)
    pictures = look[0] + 30 * np.sin(along * np.float32(2 * np.pi / 21))[..., None]
    path = place + speed * steps[:, None] * (np.cos(angle), np.sin(angle))
    room = np.array((WIDTH - SHAPE, HEIGHT - SHAPE))
    bounced = np.abs((path + room) % (2 * room) - room)  # reflected at the borders
    for picture, (x, y) in zip(pictures, bounced.astype(int), strict=True):
        picture[y : y + SHAPE, x : x + SHAPE] = look[1]
    pictures += 2 * random.standard_normal((*pictures.shape[:3], 1), dtype=np.float32)
    return pictures.clip(0, 255).astype(np.uint8), bounced[-1]


def _sound(script: Script, random: Generator) -> Floats:
    """Speech-like bursts where something is said, cheers, decoy tones, and a little noise everywhere."""
    return np.concatenate([_second(moment, random) for moment in script.moments]).clip(-1, 1).astype(np.float32)


def _second(moment: Moment, random: Generator) -> NDArray[np.float64]:
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    heard = random.normal(0, 0.003, SAMPLE_RATE)
    if moment.text:
        pitch, syllables = random.uniform(100, 220), np.abs(np.sin(np.pi * random.uniform(3, 5) * t))
        heard += 0.03 * syllables * (2 * (pitch * t % 1) - 1)
    if cheer := moment.evidence["cheer"]:
        swell = np.exp(-(((t - random.uniform(0.4, 0.6)) / 0.18) ** 2))  # a crowd swells and falls within the second
        heard += 0.10 * cheer * swell * random.normal(0, 1, SAMPLE_RATE)
    if tone := moment.decoys["tone"]:
        heard += 0.4 * tone * np.sin(2 * np.pi * random.uniform(250, 2500) * t) * np.minimum(1, 20 * (1 - t))
    return heard


def _curve(script: Script, random: Generator) -> list[float]:
    """How many watch or replay, from 0 to 1: it rises for seconds after a replay, for an instant at a spike."""
    t = np.arange(0, len(script.moments), CURVE_STEP_S)
    curve = 0.4 - 0.015 * t + 0.03 * np.sin(t * random.uniform(0.5, 1.5)) + random.normal(0, 0.012, len(t))
    for second, moment in enumerate(script.moments):
        if replay := moment.evidence["replay"]:
            after = t - second - random.uniform(0.2, 0.6)
            curve += np.where(after > 0, 0.25 * replay * (1 - np.exp(-after / 0.15)) * np.exp(-after / 1.2), 0)
        if spike := moment.decoys["spike"]:
            curve[int((second + random.uniform(0, 0.8)) / CURVE_STEP_S)] += 0.35 * spike
    return [float(value) for value in curve.clip(0, 1)]


def _cues(script: Script, random: Generator) -> list[tuple[float, float, str]]:
    return [
        (second + random.uniform(0.05, 0.25), second + random.uniform(0.7, 0.95), moment.text)
        for second, moment in enumerate(script.moments)
        if moment.text
    ]
