"""The brand kit's analyser: shapes and counts, what its parts promise, and what the shipped weights can do."""

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brandkit import SHAPES, BrandKit, BrandKitEntry
from hybrid_core.models.parts.blocks import EagerAttention
from hybrid_core.models.tasks.base import spread
from hybrid_core.models.tasks.brand import HELD_OUT_SITES, BrandTask, held_out_sites, held_out_tokens, retrieved
from hybrid_core.models.website.colours import lab_distances, rgb_of
from hybrid_core.models.website.labels import ASPECTS, ROLES
from hybrid_core.models.website.profile import analyse_website
from hybrid_core.models.website.reading import PADDING
from hybrid_core.records import Workload

ENTRY = BrandKitEntry()
ABLATED = 256


@pytest.fixture(scope="module")
def model() -> BrandKit:
    built = ENTRY.build("tiny", 0)
    assert isinstance(built, BrandKit)
    return built


@pytest.fixture(scope="module")
def answers(model: BrandKit) -> tuple[torch.Tensor, ...]:
    """What the shipped model says to every held-out site."""
    parts = [model(*inputs) for inputs, _ in BrandTask().batches(10**6)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


class Recorded(torch.nn.Module):
    """Says again what was answered, in batches of 16, so that 512 sites are analysed once only."""

    def __init__(self, answers: tuple[torch.Tensor, ...]) -> None:
        super().__init__()
        self.batches = iter(zip(*(answer.split(16) for answer in answers), strict=True))

    def forward(self, tokens: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return next(self.batches)


def a_site(row: int) -> tuple[str, bytes]:
    """The HTML and a large screenshot, as a person would hand them in."""
    file = io.BytesIO()
    pixels = held_out_sites().pictures[row].permute(1, 2, 0).numpy()
    Image.fromarray(np.repeat(np.repeat(pixels, 5, 0), 5, 1)).save(file, "PNG")
    return held_out_sites().html[row], file.getvalue()


@pytest.mark.parametrize("size", ENTRY.sizes)
def test_the_parameters_are_those_of_the_closed_form(size: str) -> None:
    assert sum(p.numel() for p in ENTRY.skeleton(size).parameters()) == ENTRY.parameters(size)


def test_the_sizes_are_what_they_promise_to_be() -> None:
    assert ENTRY.trained_weights().stat().st_size <= 3_000_000
    assert 30e6 <= ENTRY.parameters("small") <= 120e6 < ENTRY.parameters("full")
    full = SHAPES["full"]
    assert (full.analyser.dim, full.analyser.heads, full.analyser.html_layers) == (768, 12, 8)
    assert (full.writer.dim, full.writer.layers) == (768, 6)
    facts = ENTRY.facts("full")
    assert facts["published_parameters"] is None
    assert "9,476,347" in facts["published_note"]
    assert "137.7 million" in facts["published_note"]


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_inputs_of_every_workload_fit_the_model(size: str) -> None:
    shape, model = SHAPES[size].analyser, ENTRY.skeleton(size)
    for workload in ENTRY.workloads(size):
        inputs = ENTRY.make_inputs(size, workload, torch.Generator().manual_seed(1))
        assert inputs[0].shape == (workload.batch, shape.html_length)
        assert inputs[1].shape == (workload.batch, 3, shape.height, shape.width)
        outputs = ENTRY.call(model, workload, tuple(x.to("meta") for x in inputs))
        assert outputs[0].shape == (workload.batch, 3, 8)
        assert outputs[1].shape == (workload.batch, 5, 3)
        assert len(outputs) == (7 if workload.length else 6)
        if workload.length:
            assert outputs[6].shape == (workload.batch, workload.length, 256)


def test_every_attention_is_a_plain_module_that_a_strategy_finds(model: BrandKit) -> None:
    tiny = SHAPES["tiny"]
    expected = tiny.analyser.html_layers + tiny.analyser.fusion_layers + 1 + 2 * tiny.writer.layers
    assert sum(isinstance(module, EagerAttention) for module in model.modules()) == expected


def test_padding_changes_nothing(model: BrandKit) -> None:
    tokens, pixels = held_out_tokens(256), held_out_sites().pixels()
    row = int((tokens != PADDING).sum(1).argmin())
    used = int((tokens[row] != PADDING).sum())
    assert used < 200
    padded = model(tokens[row : row + 1], pixels[row : row + 1])
    exact = model(tokens[row : row + 1, :used], pixels[row : row + 1])
    for left, right in zip(padded, exact, strict=True):
        torch.testing.assert_close(left, right, atol=2e-5, rtol=1e-4)


def test_rows_of_a_batch_do_not_see_each_other(model: BrandKit) -> None:
    tokens, pixels = held_out_tokens(256)[:4], held_out_sites().pixels()[:4]
    for left, right in zip(model(tokens, pixels), model(tokens[2:3], pixels[2:3]), strict=True):
        torch.testing.assert_close(left[2:3], right, atol=2e-5, rtol=1e-4)


def test_a_pointed_colour_is_a_mixture_of_the_pictures_own_pixels() -> None:
    torch.manual_seed(0)
    pointer = BrandKit(SHAPES["tiny"]).analyser.palette
    torch.nn.init.zeros_(pointer.correction.weight)
    torch.nn.init.zeros_(pointer.correction.bias)
    pixels = held_out_sites().pixels()[:3]
    fine, profile = torch.randn(3, 18 * 24, pointer.width), torch.randn(3, SHAPES["tiny"].analyser.profile)
    colours = pointer(profile, fine, pixels)
    shown = pixels[:, :, 1::4, 1::4].flatten(2)
    query = pointer.query(profile).view(3, 5, pointer.width)
    weights = torch.stack([torch.softmax(fine[i] @ query[i].T / pointer.width**0.5, dim=0) for i in range(3)])
    torch.testing.assert_close(colours, torch.stack([(shown[i] @ weights[i]).T for i in range(3)]), atol=1e-5, rtol=0)
    assert bool((colours <= shown.amax(2)[:, None] + 1e-5).all())
    assert bool((colours >= shown.amin(2)[:, None] - 1e-5).all())


def test_embeddings_do_not_see_the_other_modality(model: BrandKit) -> None:
    tokens, pixels = held_out_tokens(256)[:2], held_out_sites().pixels()
    here, there = model(tokens, pixels[:2]), model(tokens, pixels[2:4])
    assert torch.equal(here[4], there[4])
    assert not torch.allclose(here[5], there[5], atol=1e-3)
    torch.testing.assert_close(here[5].norm(dim=1), torch.ones(2))


def test_retrieval_counts_like_a_loop_over_all_pairs() -> None:
    generator = torch.Generator().manual_seed(5)
    html = torch.nn.functional.normalize(torch.randn(60, 8, generator=generator), dim=1)
    pictures = torch.nn.functional.normalize(html + 0.5 * torch.randn(60, 8, generator=generator), dim=1)
    found = 0
    for row in range(60):
        distances = [float((html[row] - pictures[other]).norm()) for other in range(60)]
        found += distances.index(min(distances)) == row
    assert 0 < found < 60
    assert retrieved(html, pictures) == pytest.approx(found / 60)


def test_the_trivial_score_is_the_best_constant_answer() -> None:
    labels = held_out_sites().labels.tolist()
    best = sum(max(sum(row[aspect] == c for row in labels) for c in range(8)) for aspect in range(3))
    assert BrandTask().trivial_score() == pytest.approx(best / (3 * len(labels)))


def test_a_row_scores_the_share_of_its_three_names_that_are_right() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 2, 3], [4, 5, 6]]), 8).float()
    assert BrandTask().score(logits, torch.tensor([[1, 2, 0], [4, 5, 6]])).tolist() == pytest.approx([2 / 3, 1.0])


def test_the_shipped_figures_are_those_of_the_shipped_weights(
    model: BrandKit, answers: tuple[torch.Tensor, ...]
) -> None:
    facts = ENTRY.facts("tiny")
    right = (answers[0].argmax(-1) == held_out_sites().labels).double()
    assert facts["quality"]["value"] == pytest.approx(float(right.mean()), abs=0.005)
    assert facts["quality"]["samples"] == len(right) == 512
    assert facts["quality"]["trivial"] == pytest.approx(BrandTask().trivial_score())
    rates = BrandTask().rates(Recorded(answers))
    assert torch.equal(answers[0][16:32], model(held_out_tokens(256)[16:32], held_out_sites().pixels()[16:32])[0])
    assert rates["tone named right"] == pytest.approx(float(right[:, 0].mean()))
    distance = lab_distances(answers[1], held_out_sites().palettes).mean()
    assert rates["palette distance (CIE 1976)"] == pytest.approx(float(distance))
    for name, value in rates.items():
        assert facts["quality"]["rates"][name] == pytest.approx(value, abs=0.005 if "distance" not in name else 0.1)


def test_the_trained_model_beats_each_modality_alone(model: BrandKit, answers: tuple[torch.Tensor, ...]) -> None:
    """Both are needed: the words for the tone, the picture for what a linked style sheet hides."""
    rows = spread(512)[:ABLATED]
    tokens, pixels, labels = held_out_tokens(256)[rows], held_out_sites().pixels()[rows], held_out_sites().labels[rows]
    no_words = tokens.clone()
    no_words[:, 1:] = PADDING
    whole = (answers[0][rows].argmax(-1) == labels).double().mean(0)
    blind = torch.cat([model(tokens[i : i + 32], torch.full((32, 3, 72, 96), 0.5))[0] for i in range(0, ABLATED, 32)])
    mute = torch.cat([model(no_words[i : i + 32, :8], pixels[i : i + 32])[0] for i in range(0, ABLATED, 32)])
    without_picture = (blind.argmax(-1) == labels).double().mean(0)
    without_words = (mute.argmax(-1) == labels).double().mean(0)
    aspects = list(ASPECTS)
    assert float(whole.mean()) > BrandTask().trivial_score() + 0.4
    assert float(whole.mean()) > float(without_picture.mean()) + 0.15
    assert float(whole.mean()) > float(without_words.mean()) + 0.15
    assert whole[aspects.index("tone")] > without_words[aspects.index("tone")] + 0.2
    assert whole[aspects.index("layout")] > without_picture[aspects.index("layout")] + 0.2


def test_damage_shows(model: BrandKit, answers: tuple[torch.Tensor, ...]) -> None:
    """The task does not saturate, and weights rounded to five levels cost right answers."""
    assert float((answers[0].argmax(-1) == held_out_sites().labels).double().mean()) < 0.97
    damaged = ENTRY.build("tiny", 0)
    for parameter in damaged.parameters():
        if parameter.ndim == 2:
            step = parameter.abs().max() / 2  # two levels on each side of zero
            parameter.copy_((parameter / step).round() * step)
    inputs, targets = next(BrandTask(batch=128).batches(128))
    worse = BrandTask().score(BrandTask().answer(damaged, inputs), targets).mean()
    assert float(worse) < float(BrandTask().score(answers[0][:128], targets).mean()) - 0.05


def test_palettes_are_nearer_to_the_truth_than_any_fixed_palette(answers: tuple[torch.Tensor, ...]) -> None:
    truth = held_out_sites().palettes
    fixed = lab_distances(truth.median(0).values.expand_as(truth), truth)
    read = lab_distances(answers[1], truth)
    assert float(read.mean()) < 0.6 * float(fixed.mean())
    background = ROLES.index("background")
    assert float(read[:, background].mean()) < 0.3 * float(fixed[:, background].mean())
    assert float(read[:, background].median()) < 2.3, "the smallest distance that is noticed"


def test_a_site_is_found_far_more_often_than_by_chance(answers: tuple[torch.Tensor, ...]) -> None:
    assert retrieved(answers[4], answers[5]) > 10 / 512
    assert retrieved(answers[5], answers[4]) > 10 / 512


def test_a_website_becomes_a_profile_a_person_can_read(model: BrandKit) -> None:
    records = [json.loads(line) for line in HELD_OUT_SITES.read_text().splitlines()]
    near = 0
    for row in range(12):
        profile = analyse_website(model, *a_site(row))
        assert json.loads(json.dumps(profile)) == profile
        assert profile["name"] == records[row]["name"]
        for aspect, names in ASPECTS.items():
            scores: dict[str, Any] = profile[aspect]["scores"]
            assert tuple(scores) == names
            assert sum(scores.values()) == pytest.approx(1.0)
            assert profile[aspect]["probability"] == scores[profile[aspect]["name"]] == max(scores.values())
        assert 0 <= profile["consistency"] <= 1
        assert -1 <= profile["likeness"] <= 1
        found = torch.tensor([rgb_of(profile["palette"][role]["hex"]) for role in ROLES]) / 255
        truth = torch.tensor([rgb_of(records[row][role]) for role in ROLES]) / 255
        near += int((lab_distances(found, truth) < 25).sum())
    assert near > 12 * len(ROLES) * 0.6


def test_the_same_picture_in_another_file_format_or_size_gives_the_same_profile(model: BrandKit) -> None:
    html, png = a_site(3)
    picture = Image.open(io.BytesIO(png))
    webp = io.BytesIO()
    picture.save(webp, "WEBP", lossless=True)
    larger = picture.resize((1440, 1080), Image.Resampling.NEAREST)
    first = analyse_website(model, html, png)
    assert analyse_website(model, html, webp.getvalue()) == first
    assert analyse_website(model, html.encode(), larger) == first


def test_what_cannot_be_analysed_is_refused(model: BrandKit) -> None:
    html, png = a_site(0)
    for page, picture in ((html, b"no picture"), ("no page", png), (html, Image.new("RGB", (40, 30)))):
        with pytest.raises(InvalidInput):
            analyse_website(model, page, picture)


def test_untrained_sizes_say_so_and_have_no_task() -> None:
    for size in ("small", "full"):
        assert ENTRY.task(size) is None
        assert "random weights" in ENTRY.facts(size)["limits"][0]
    assert ENTRY.task("tiny") == BrandTask()
    with pytest.raises(InvalidInput, match="enormous"):
        ENTRY.make_inputs("enormous", Workload("analyse", "forward", batch=1), torch.Generator())
