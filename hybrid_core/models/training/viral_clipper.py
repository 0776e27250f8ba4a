"""Trains the `tiny` highlight finder on videos that it films, encodes and decodes; writes the held-out ones once.

The first part of the time goes into filming with other seeds than the held-out videos have. The loss asks for the right
segment (cross entropy over segments) and for scores that mean something alone (binary cross entropy per segment, some
videos have no highlight). Beside it each encoder is told what its kind of evidence is, read off along a fixed random
direction (a linear probe that is not trained, so nothing has to be kept of it); this saves most of the training time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from hybrid_core.models.checkpoints import read_tensors, write_tensors
from hybrid_core.models.tasks.highlights import (
    CURVE_POINTS,
    HELD_OUT_VIDEOS,
    INDEX,
    INDEX_SHA256,
    VIDEOS,
    HighlightsTask,
    baseline_scores,
    held_out_videos,
)
from hybrid_core.models.training.base import Say, Training, TrainingOptions, make_optimizers
from hybrid_core.models.training.video_maker import film
from hybrid_core.models.training.video_script import KINDS, NO_HIGHLIGHT, SEGMENTS, best_with_kinds, write_script
from hybrid_core.models.video.segments import read_segments
from hybrid_core.models.viral_clipper import SHAPES, ViralClipper, absent_inputs

DEFAULT_MINUTES = 14.0
FILMING_SHARE = 0.4
MAX_VIDEOS = 4000
BATCH = 16
LEARNING_RATE = 2e-3
PLAIN_SHARE = 0.1
DROP_SHARE = 0.05
PROBE_SCALE = 4.0
SAME_PICTURES = 2.0  # mean difference of 255 levels between two encodings of the same frames, at most
HELD_OUT_SEED = 1_000_000_000
Rows = dict[str, Tensor]


def write_held_out_videos(folder: Path = VIDEOS) -> str:
    """Film the held-out videos and their index; done once, the files are the task. Returns the index's SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(HELD_OUT_VIDEOS):
        script = write_script(HELD_OUT_SEED + number)
        data, name = film(script), f"video_{number:03d}.mkv"
        (folder / name).write_bytes(data)
        line = {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "seed": script.seed}
        lines.append(line | {"highlight": script.highlight})
    text = "[\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]\n"
    (folder / INDEX.name).write_text(text)
    return hashlib.sha256(text.encode()).hexdigest()


def train(options: TrainingOptions, say: Say = tqdm.write) -> dict[str, Any]:
    """Film, train, save and return the facts of the checkpoint."""
    torch.manual_seed(options.seed)
    started = time.monotonic()
    rows = filmed_rows(options, say)
    model = ViralClipper(SHAPES["tiny"])
    # The layout alone saves a third of a step's time; the weights keep theirs, or their moments could not be stored.
    model.frames.convolutions.register_forward_pre_hook(
        lambda _, inputs: inputs[0].contiguous(memory_format=torch.channels_last)
    )
    inner = [p for p in model.layers.parameters() if p.ndim == 2]
    known = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in known]
    training = Training(model, make_optimizers(inner, rest, LEARNING_RATE, 0.05), LEARNING_RATE, options.seed)
    probes = F.normalize(torch.randn(len(KINDS), SHAPES["tiny"].dim, generator=torch.Generator().manual_seed(1)), dim=1)
    facts = {
        "training_data": f"{len(rows['highlight'])} videos of {SEGMENTS} s that the repository films, encodes, decodes",
        "held_out_sha256": INDEX_SHA256,
        **_comparisons(),
    }
    left = dataclasses.replace(options, minutes=max(0.05, options.minutes - (time.monotonic() - started) / 60))
    return training.run(
        left,
        lambda share: _loss(model, _drawn(rows, training.generator), probes),
        lambda: training.publish(options, lambda: ViralClipper(SHAPES["tiny"]), HighlightsTask(), facts, say),
        say,
    )


def filmed_rows(options: TrainingOptions, say: Say) -> Rows:
    """Training videos as tensors, kept beside the training's state: filming takes long and is the same for a seed."""
    kept = options.state.with_name("viral_clipper-videos.safetensors")
    if kept.is_file() and _are_current(rows := read_tensors(kept), options.seed):
        say(f"read {len(rows['highlight'])} videos filmed before from {kept}")
        return rows
    started = time.monotonic()
    filmed: list[Rows] = []
    for number in tqdm(range(MAX_VIDEOS), unit="video", mininterval=5):
        if filmed and time.monotonic() - started > options.minutes * 60 * FILMING_SHARE:
            break
        filmed.append(filmed_row(options.seed, number))
    rows = stacked(filmed)
    write_tensors(rows, kept, {"seed": options.seed})
    say(f"filmed {len(filmed)} videos in {time.monotonic() - started:.0f} s")
    return rows


def filmed_row(seed: int, number: int) -> Rows:
    """What a reader finds in the encoded file of one training video, and what its script says."""
    script = write_script(seed * MAX_VIDEOS + number, PLAIN_SHARE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mkv"
        path.write_bytes(film(script))
        frames, audio, transcript, engagement = read_segments(path, CURVE_POINTS)
    return {
        "frames": frames,
        "audio": audio.half(),
        "transcript": transcript.to(torch.uint8),
        "engagement": engagement.half(),
        "evidence": torch.tensor([[moment.evidence[kind] > 0 for kind in KINDS] for moment in script.moments]),
        "highlight": torch.tensor(script.highlight),
    }


def stacked(rows: list[Rows]) -> Rows:
    """Rows of single videos as rows of tensors."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _are_current(rows: Rows, seed: int) -> bool:
    """Whether the first kept video is what is filmed and read today from this seed; coding may move a few pixels."""
    today = filmed_row(seed, 0)
    moved = (rows["frames"][0].float() - today.pop("frames").float()).abs().mean().item()
    return moved < SAME_PICTURES and all(torch.equal(rows[name][0], value) for name, value in today.items())


def _drawn(rows: Rows, generator: torch.Generator) -> Rows:
    """A random batch; its segments are turned round, its pictures mirrored and recoloured, its sound made louder."""
    picked = torch.randint(len(rows["highlight"]), (BATCH,), generator=generator)
    turn = int(torch.randint(SEGMENTS, (1,), generator=generator))
    batch = {name: values[picked].roll(turn, 1) if values.ndim > 1 else values[picked] for name, values in rows.items()}
    highlight = batch["highlight"]
    batch["highlight"] = torch.where(highlight == NO_HIGHLIGHT, highlight, (highlight + turn) % SEGMENTS)
    frames = batch["frames"][:, :, :, torch.randperm(3, generator=generator)].float() / 255
    mirrored = [axis for axis in (4, 5) if torch.rand(1, generator=generator) < 0.5]
    batch["frames"] = frames.flip(mirrored)
    batch["audio"] = batch["audio"].float() + 0.1 * torch.randn(BATCH, 1, 1, 1, generator=generator)
    batch["transcript"], batch["engagement"] = batch["transcript"].long(), batch["engagement"].float()
    for name, nothing in absent_inputs().items():
        dropped = torch.rand(BATCH, generator=generator) < DROP_SHARE
        batch[name][dropped] = torch.as_tensor(nothing, dtype=batch[name].dtype)
    return batch


def _loss(model: ViralClipper, batch: Rows, probes: Tensor) -> Tensor:
    encoded = model.encode(batch["frames"], batch["audio"], batch["transcript"], batch["engagement"])
    scores, highlight = model.fuse(encoded), batch["highlight"]
    here = (torch.arange(SEGMENTS) == highlight[:, None]).float()
    told = torch.stack([part @ probe for part, probe in zip(encoded, probes, strict=True)], -1) * PROBE_SCALE
    return (
        F.cross_entropy(scores, highlight, ignore_index=NO_HIGHLIGHT)
        + 4 * F.binary_cross_entropy_with_logits(scores, here)
        + 2 * F.binary_cross_entropy_with_logits(told, batch["evidence"].float())
    )


def _comparisons() -> dict[str, Any]:
    """What rules that look at one thing reach, and the most that perfect knowledge of some kinds could."""
    scripts = [write_script(video.seed) for video in held_out_videos()]
    one = {kind: best_with_kinds(scripts, (kind,)) for kind in KINDS}
    three = {f"all but {kind}": best_with_kinds(scripts, [k for k in KINDS if k != kind]) for kind in KINDS}
    return {"baselines": baseline_scores(), "perfect_knowledge": {**one, **three}}
