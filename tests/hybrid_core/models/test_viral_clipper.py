"""The highlight finder: its arithmetic against PyTorch's own modules, and what the trained one finds."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.parts.blocks import EagerAttention
from hybrid_core.models.quality import task_quality
from hybrid_core.models.tasks import highlights as highlights_task
from hybrid_core.models.tasks.highlights import (
    CURVE_POINTS,
    VIDEOS,
    HighlightsTask,
    held_out_batch,
    held_out_videos,
    reciprocal_ranks,
)
from hybrid_core.models.training.video_maker import film
from hybrid_core.models.training.video_script import NO_HIGHLIGHT, SEGMENTS, write_script
from hybrid_core.models.video.highlights import find_highlights, segment_scores
from hybrid_core.models.video.media import Video, read_video
from hybrid_core.models.video.segments import read_segments, segment_tensors
from hybrid_core.models.viral_clipper import SHAPES, FusionLayer, ViralClipperEntry, absent_inputs
from hybrid_core.records import Workload

ENTRY = ViralClipperEntry()
FRESH_SEED = 77_000_000  # neither trained on nor held out


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return ENTRY.build("tiny", 0)


@pytest.mark.parametrize("size", ENTRY.sizes)
def test_parameter_count_equals_the_closed_form(size):
    assert sum(p.numel() for p in ENTRY.skeleton(size).parameters()) == ENTRY.parameters(size)


def test_sizes_are_what_the_registry_promises():
    assert 30e6 <= ENTRY.parameters("small") <= 120e6
    assert ENTRY.parameters("full") > 2 * ENTRY.parameters("small")
    widths = ENTRY.facts("small")["widths"]
    assert widths == {"frames": 2048, "audio": 512, "transcript": 768, "fused": 512}


def test_fusion_layer_equals_pytorchs_encoder_layer():
    torch.manual_seed(0)
    ours = FusionLayer(32, 4).eval()
    theirs = nn.TransformerEncoderLayer(32, 4, 128, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    theirs.self_attn.in_proj_weight.data = torch.cat((ours.query.weight, ours.key.weight, ours.value.weight)).data
    theirs.self_attn.in_proj_bias.data = torch.cat((ours.query.bias, ours.key.bias, ours.value.bias)).data
    theirs.self_attn.out_proj.load_state_dict(ours.output.state_dict())
    theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward[2].state_dict())
    theirs.norm1.load_state_dict(ours.attention_norm.state_dict())
    theirs.norm2.load_state_dict(ours.feed_forward_norm.state_dict())
    x, absent = torch.randn(2, 7, 32), torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    mask = torch.zeros(2, 1, 1, 7).masked_fill(absent[:, None, None], torch.finfo(torch.float32).min)
    expected = theirs(x, src_key_padding_mask=absent)
    torch.testing.assert_close(ours(x, mask)[~absent], expected[~absent], atol=2e-5, rtol=0)


def test_attention_is_the_plain_module_that_strategies_look_for(trained):
    assert sum(isinstance(module, EagerAttention) for module in trained.modules()) == 3


def test_what_is_padded_does_not_matter(trained):
    inputs = held_out_batch([0, 1])
    padding = torch.tensor([5, 2])
    other = tuple(x.clone() for x in inputs)
    for row, count in enumerate(padding.tolist()):
        for part in other:
            part[row, SEGMENTS - count :] = 1
    scores, changed = trained(*inputs, padding), trained(*other, padding)
    for row, count in enumerate(padding.tolist()):
        torch.testing.assert_close(scores[row, : SEGMENTS - count], changed[row, : SEGMENTS - count])
    assert not torch.allclose(scores, trained(*inputs), atol=1e-3)


def test_trained_checkpoint_beats_every_rule_and_all_that_three_senses_could_reach(trained):
    facts = ENTRY.facts("tiny")
    stated, seen = facts["quality"], task_quality(trained, HighlightsTask(), 128)
    assert stated["samples"] == 256
    assert seen["trivial"] == stated["trivial"] < 0.35
    first = stated["rates"]["found_first_share"]
    assert first - 0.05 > max(facts["training"]["perfect_knowledge"].values())
    assert first - 0.05 > 3 * max(facts["training"]["baselines"].values())
    assert seen["low"] < stated["value"] < seen["high"]
    assert seen["rates"] == pytest.approx(stated["rates"], abs=0.01)


def test_no_single_input_is_enough_and_each_is_used(trained):
    inputs, targets = held_out_batch(list(range(64))), [video.highlight for video in held_out_videos()[:64]]
    blanks = absent_inputs()
    present = dict(zip(blanks, trained.encode(*inputs), strict=True))
    nothing = [torch.full_like(part[:1], value) for part, value in zip(inputs, blanks.values(), strict=True)]
    absent = dict(zip(blanks, trained.encode(*nothing), strict=True))

    def found(kept: set[str]) -> float:
        parts = tuple(present[name] if name in kept else absent[name].expand_as(present[name]) for name in blanks)
        return (trained.fuse(parts).argmax(1) == torch.tensor(targets)).double().mean().item()

    everything = found({*blanks})
    assert everything == pytest.approx(ENTRY.facts("tiny")["quality"]["rates"]["found_first_share"], abs=0.12)
    for name in blanks:
        assert found({name}) < 0.45, f"{name} alone finds too many"
        assert found({*blanks} - {name}) < everything - 0.1, f"{name} is not needed"


def test_trivial_score_is_the_best_fixed_order_by_brute_force(monkeypatch):
    targets = [video.highlight for video in held_out_videos()]
    orders = itertools.permutations(range(5))
    few = [t for t in targets if t < 5]
    best = max(sum(1 / (order.index(t) + 1) for t in few) / len(few) for order in orders)
    videos = [video for video in held_out_videos() if video.highlight < 5]
    monkeypatch.setattr(highlights_task, "held_out_videos", lambda: videos)
    assert HighlightsTask().trivial_score() == pytest.approx(best)


def test_reciprocal_rank_equals_sorting():
    scores = torch.randn(200, 12, generator=torch.Generator().manual_seed(3))
    targets = torch.arange(200) % 12
    ranks = [
        sorted(row, reverse=True).index(row[t]) + 1 for row, t in zip(scores.tolist(), targets.tolist(), strict=True)
    ]
    assert reciprocal_ranks(scores, targets).tolist() == pytest.approx([1 / rank for rank in ranks])
    assert reciprocal_ranks(torch.zeros(1, 4), torch.tensor([2])).item() == 0.25  # all equal: last, not first


def test_planted_highlights_are_found_in_fresh_files(trained, tmp_path):
    hits = 0
    for seed in range(FRESH_SEED, FRESH_SEED + 20):
        script = write_script(seed)
        (tmp_path / "fresh.mkv").write_bytes(film(script))
        best = find_highlights(trained, tmp_path / "fresh.mkv", threshold=0, top=1)
        scores = segment_scores(trained, read_segments(tmp_path / "fresh.mkv", CURVE_POINTS))
        assert best == [(0, 12, pytest.approx(scores.sigmoid().max().item()))]  # every second passes a threshold of 0
        hits += int(scores.argmax()) == script.highlight
    assert hits >= 13  # three of four with a margin for chance


def test_thresholds_mean_something(trained):
    scored = torch.cat([trained(*inputs).sigmoid() for inputs, _ in HighlightsTask().batches(64)])
    planted = torch.tensor([video.highlight for video in held_out_videos()[:64]])
    right = torch.arange(SEGMENTS) == planted[:, None]
    assert right[scored >= 0.5].double().mean() > 0.7
    assert right[scored < 0.1].double().mean() < 0.05


class Loudest(nn.Module):
    """Knows only the mean of the spectrum: scores can be predicted by hand."""

    def forward(self, frames, audio, transcript, engagement, padding=None):
        assert frames.shape[1] == SEGMENTS
        return audio.mean((2, 3))


def test_neighbours_are_joined_and_long_videos_are_read_in_windows():
    levels = torch.full((40,), -1.5)
    levels[[3, 17, 18, 19, 38]] = torch.tensor([2.0, 3.0, 5.0, 3.0, 4.0])
    video = Video(39.6, torch.zeros(159, 3, 36, 48, dtype=torch.uint8), torch.zeros(0), (), None)
    segments = segment_tensors(video, CURVE_POINTS)
    segments = (segments[0], levels[:, None, None].expand(-1, 16, 32), segments[2], segments[3])
    torch.testing.assert_close(segment_scores(Loudest(), segments), levels)
    short = tuple(part[:3] for part in segments)
    torch.testing.assert_close(segment_scores(Loudest(), short), levels[:3])


def test_stretches_are_sorted_joined_and_end_with_the_video(monkeypatch):
    chances = torch.tensor([0.9, 0.1, 0.6, 0.7, 0.2, 0.95])
    monkeypatch.setattr("hybrid_core.models.video.highlights.segment_scores", lambda model, segments: chances.logit())
    video = Video(5.6, torch.zeros(23, 3, 36, 48, dtype=torch.uint8), torch.zeros(0), (), None)
    found = find_highlights(Loudest(), video)
    assert found == [(5, 5.6, pytest.approx(0.95)), (0, 1, pytest.approx(0.9)), (2, 4, pytest.approx(0.7))]
    assert find_highlights(Loudest(), video, threshold=0.99) == []
    assert find_highlights(Loudest(), video, top=1) == found[:1]


@pytest.mark.parametrize("wrong", [{"threshold": 1.5}, {"threshold": float("nan")}, {"top": 0}])
def test_impossible_wishes_are_refused(wrong):
    with pytest.raises(InvalidInput):
        find_highlights(Loudest(), VIDEOS / "video_000.mkv", **wrong)


def test_a_video_without_sound_words_or_curve_is_scored_too(trained):
    video = read_video(VIDEOS / "video_000.mkv")
    silent = Video(video.duration_s, video.frames, torch.zeros(0), (), None)
    assert segment_scores(trained, segment_tensors(silent, CURVE_POINTS)).isfinite().all()


def test_a_video_without_highlight_mostly_scores_low(trained, tmp_path):
    scripts = [
        s for s in (write_script(FRESH_SEED + k, plain_share=0.5) for k in range(24)) if s.highlight == NO_HIGHLIGHT
    ]
    highest = []
    for script in scripts:
        (tmp_path / "plain.mkv").write_bytes(film(script))
        highest.append(
            segment_scores(trained, read_segments(tmp_path / "plain.mkv", CURVE_POINTS)).sigmoid().max().item()
        )
    assert len(scripts) >= 8
    assert sum(highest) / len(highest) < 0.6


def test_inputs_longer_than_the_positions_are_refused():
    with pytest.raises(InvalidInput, match="at most 12"):
        ENTRY.make_inputs("tiny", Workload("forward", "forward", batch=1, length=13), torch.Generator())
    longer = ENTRY.make_inputs("small", Workload("forward", "forward", batch=1, length=30), torch.Generator())
    assert [part.shape[:2] for part in longer] == [(1, 30)] * 4
    assert longer[3].shape[2] == SHAPES["small"].curve
