"""The generated videos: one highlight each, recorded truly, recoverable from the files, and needing every sense."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.models.tasks import highlights as task_module
from hybrid_core.models.tasks.highlights import INDEX, VIDEOS, HighlightsTask, baseline_scores, held_out_videos
from hybrid_core.models.training import viral_clipper as training
from hybrid_core.models.training.base import TrainingOptions
from hybrid_core.models.training.video_maker import film
from hybrid_core.models.training.video_script import KINDS, NO_HIGHLIGHT, SEGMENTS, best_with_kinds, write_script
from hybrid_core.models.video.media import read_video
from hybrid_core.models.video.segments import segment_tensors

SCRIPTS = [write_script(seed) for seed in range(500)]


def test_the_highlight_alone_has_three_kinds_of_evidence():
    for script in SCRIPTS:
        counts = [sum(strength > 0 for strength in moment.evidence.values()) for moment in script.moments]
        assert len(counts) == SEGMENTS and sorted(counts)[-5:] == [2, 2, 2, 2, 3]
        assert counts.index(3) == script.highlight


def test_highlights_are_spread_evenly_and_plain_videos_have_none():
    places = np.bincount([script.highlight for script in SCRIPTS], minlength=SEGMENTS)
    assert places.min() > 20 and places.max() < 65
    plain = [write_script(seed, plain_share=0.25) for seed in range(400)]
    assert 70 < sum(script.highlight == NO_HIGHLIGHT for script in plain) < 130


def test_best_with_kinds_equals_an_enumeration():
    for kinds in (("motion",), ("cheer", "words"), KINDS):
        found = []
        for script in SCRIPTS[:50]:
            columns = list(zip(*(script.has(kind) for kind in kinds), strict=True))
            best = max(columns, key=sum)
            shares = [sum(column) == sum(best) for column in columns]
            found.append(shares[script.highlight] / sum(shares))
        assert best_with_kinds(SCRIPTS[:50], kinds) == pytest.approx(np.mean(found))


def test_no_three_senses_suffice_even_when_known_perfectly():
    assert all(best_with_kinds(SCRIPTS, (kind,)) < 0.3 for kind in KINDS)
    assert all(best_with_kinds(SCRIPTS, [k for k in KINDS if k != without]) < 0.65 for without in KINDS)
    assert best_with_kinds(SCRIPTS, KINDS) == 1


def test_the_index_is_what_the_scripts_say():
    videos = held_out_videos()
    assert len(videos) == 256 == len(list(VIDEOS.glob("*.mkv")))
    assert sum((VIDEOS / video.file).stat().st_size for video in videos) < 4_000_000
    assert all(write_script(video.seed).highlight == video.highlight for video in videos)
    trained_on = {seed * training.MAX_VIDEOS + number for seed, number in product(range(100), (0, training.MAX_VIDEOS))}
    assert max(trained_on) < min(video.seed for video in videos)
    assert len({video.sha256 for video in videos}) == 256


def test_decoded_files_hold_what_their_scripts_say():
    for video in held_out_videos()[:6]:
        script = write_script(video.seed)
        frames, audio, words, curve = segment_tensors(read_video(VIDEOS / video.file), 8)
        assert [bytes(row.tolist()).rstrip(b"\0").decode() for row in words] == [m.text for m in script.moments]
        loud = (10 ** (2 * audio)).mean((1, 2))
        quiet = [not (m.evidence["cheer"] or m.decoys["tone"]) for m in script.moments]
        assert loud[torch.tensor(quiet)].max() < loud[~torch.tensor(quiet)].min()
        change = frames.float().diff(dim=1).abs().mean((1, 2, 3, 4))
        still = torch.tensor([not (m.evidence["motion"] or m.decoys["scroll"]) for m in script.moments])
        assert change[still].mean() < 0.5 * change[~still].mean()
        rises = curve.diff(dim=1).amax(1)
        calm = torch.tensor([not (m.evidence["replay"] or m.decoys["spike"]) for m in script.moments])
        assert rises[calm].mean() < 0.5 * rises[~calm].mean()


def test_the_same_script_gives_the_same_video_and_another_seed_another(tmp_path):
    def filmed(seed: int):
        (tmp_path / "filmed.mkv").write_bytes(film(SCRIPTS[seed]))
        return segment_tensors(read_video(tmp_path / "filmed.mkv"), 8)

    first, again, other = filmed(0), filmed(0), filmed(1)
    assert all(torch.equal(a, b) for a, b in zip(first[1:], again[1:], strict=True))
    assert (first[0].float() - again[0].float()).abs().mean() < training.SAME_PICTURES
    assert (first[0].float() - other[0].float()).abs().mean() > 10 * training.SAME_PICTURES
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_kept_videos_of_another_seed_or_maker_are_not_used():
    rows = training.stacked([training.filmed_row(0, 0)])
    assert training._are_current(rows, 0)
    assert not training._are_current(rows, 1)
    assert not training._are_current({**rows, "audio": rows["audio"] + 0.5}, 0)


def test_rules_that_look_at_one_thing_are_no_better_than_guessing(monkeypatch):
    first = held_out_videos()[:64]
    monkeypatch.setattr(task_module, "held_out_videos", lambda: first)
    assert all(share < 0.3 for share in baseline_scores().values())
    assert HighlightsTask().trivial_score() < 0.4


def test_a_changed_video_or_index_is_refused(tmp_path, monkeypatch):
    changed = tmp_path / "video_000.mkv"
    changed.write_bytes((VIDEOS / "video_000.mkv").read_bytes() + b"#")
    monkeypatch.setattr(task_module, "VIDEOS", tmp_path)
    with pytest.raises(InvalidInput, match="restore the file"):
        task_module.held_out_segments.__wrapped__(0)
    (tmp_path / "index.json").write_text(INDEX.read_text().replace('"highlight": 1', '"highlight": 2'))
    monkeypatch.setattr(task_module, "INDEX", tmp_path / "index.json")
    with pytest.raises(InvalidInput, match="restore the file"):
        task_module.held_out_videos.__wrapped__()


def test_turning_a_batch_round_moves_its_highlights_along():
    rows = training.stacked([training.filmed_row(0, number) for number in range(3)])
    for seed in range(3):
        batch = training._drawn(rows, torch.Generator().manual_seed(seed))
        kinds = batch["evidence"].sum(2)
        for row, highlight in zip(kinds, batch["highlight"].tolist(), strict=True):
            assert row.max() == (2 if highlight == NO_HIGHLIGHT else 3)
            assert highlight == NO_HIGHLIGHT or row[highlight] == 3


def test_training_films_learns_and_goes_on_after_an_interruption(tmp_path, monkeypatch):
    first = held_out_videos()[:8]
    for module in (task_module, training):
        monkeypatch.setattr(module, "held_out_videos", lambda: first)
    monkeypatch.setattr(training, "MAX_VIDEOS", 6)
    options = TrainingOptions(0.03, tmp_path / "weights.safetensors", tmp_path / "state.safetensors", seed=5)
    said: list[str] = []
    facts = training.train(options, said.append)
    assert facts["quality"]["samples"] == 8 and facts["steps"] >= 1 and facts["seed"] == 5
    assert "videos of 12 s" in facts["training_data"] and len(facts["baselines"]) == 4
    again = training.train(TrainingOptions(0.05, options.output, options.state, seed=5, resume=True), said.append)
    assert any("filmed before" in line for line in said)
    assert any("resumed" in line for line in said)
    assert again["steps"] >= facts["steps"]
