"""The brand kit's writer: a causal decoder whose text follows the profile it is given."""

import copy
import json
import random
import re
from typing import Any

import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brandkit import BrandKit, BrandKitEntry
from hybrid_core.models.parts.blocks import GrowingCache
from hybrid_core.models.parts.brand_writer import END, BrandWriter, ProfileMemory, WriterShape, fill_in_name
from hybrid_core.models.tasks.brand import HELD_OUT_SITES
from hybrid_core.models.training.site_texts import IGNORED, make_texts
from hybrid_core.models.training.site_words import tone_by_counting
from hybrid_core.models.website.labels import ASPECTS, KINDS, ROLES, TONES
from hybrid_core.models.website.profile import read_conditions, write_batch, write_content

SHAPE = WriterShape(dim=32, heads=2, layers=2, length=64)


@pytest.fixture(scope="module")
def model() -> BrandKit:
    built = BrandKitEntry().build("tiny", 0)
    assert isinstance(built, BrandKit)
    return built


@pytest.fixture(scope="module")
def profiles() -> list[dict[str, Any]]:
    """The true profiles of 48 held-out sites."""
    records = [json.loads(line) for line in HELD_OUT_SITES.read_text().splitlines()[:48]]
    return [
        {
            "name": record["name"],
            **{aspect: {"name": record[aspect]} for aspect in ASPECTS},
            "palette": {role: {"hex": record[role]} for role in ROLES},
        }
        for record in records
    ]


def a_writer() -> BrandWriter:
    torch.manual_seed(2)
    return BrandWriter(SHAPE).eval().requires_grad_(False)


def conditions(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    return torch.rand(batch, 3, 8, generator=generator), torch.rand(batch, 5, 3, generator=generator)


def test_writing_byte_by_byte_with_a_cache_gives_the_logits_of_one_pass() -> None:
    writer, (classes, palette) = a_writer(), conditions(3)
    text = torch.randint(1, 256, (3, 40), generator=torch.Generator().manual_seed(1))
    cache = GrowingCache(SHAPE.layers)
    steps = [writer(text[:, :7], classes, palette, cache)]
    steps += [writer(text[:, i : i + 1], classes, palette, cache) for i in range(7, 40)]
    torch.testing.assert_close(torch.cat(steps, dim=1), writer(text, classes, palette), atol=1e-5, rtol=1e-5)


def test_a_byte_is_never_predicted_from_what_follows_it() -> None:
    writer, (classes, palette) = a_writer(), conditions(2)
    text = torch.randint(1, 256, (2, 30), generator=torch.Generator().manual_seed(1))
    changed = text.clone()
    changed[:, 17] += 1
    before, after = writer(text, classes, palette), writer(changed % 256, classes, palette)
    assert torch.equal(before[:, :17], after[:, :17])
    assert not torch.equal(before[:, 17:], after[:, 17:])


def test_a_level_between_two_is_the_mix_of_both() -> None:
    torch.manual_seed(0)
    memory = ProfileMemory(16)
    memory.norm = torch.nn.Identity()  # type: ignore[assignment]
    classes = conditions(1)[0]
    low, high = torch.full((1, 5, 3), 100 / 255), torch.full((1, 5, 3), 101 / 255)
    mixed = memory(classes, 0.75 * low + 0.25 * high)
    torch.testing.assert_close(mixed, 0.75 * memory(classes, low) + 0.25 * memory(classes, high), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        memory(classes, low)[0, 3:] - memory.positions[3:],
        memory.level.weight[:, 100].expand(15, 16),
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_texts_for_training_begin_with_their_kind_and_end(kind: str) -> None:
    tokens, targets, classes, palette = make_texts(6, kind, random.Random(3))
    assert classes.sum(-1).eq(1).all()
    assert 0 <= float(palette.min()) and float(palette.max()) <= 1
    for row, target in zip(tokens, targets, strict=True):
        asked = target[target != IGNORED]
        assert int(row[0]) == 2 + KINDS.index(kind)
        assert int(asked[-1]) == END
        assert torch.equal(row[1 : len(asked)], asked[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_writes_the_same_text(model: BrandKit, profiles: list[dict[str, Any]], kind: str) -> None:
    first = write_content(model, profiles[0], kind, seed=4)
    assert first == write_content(model, profiles[0], kind, seed=4)
    assert 3 < len(first) < model.writer.shape.length
    assert first.isprintable()


def test_other_seeds_write_other_taglines(model: BrandKit, profiles: list[dict[str, Any]]) -> None:
    assert len({write_content(model, profiles[0], "tagline", seed) for seed in range(5)}) >= 3


def test_taglines_have_the_asked_tone_far_more_often_than_by_chance(
    model: BrandKit, profiles: list[dict[str, Any]]
) -> None:
    taglines = write_batch(model.writer, profiles, "tagline", seed=1)
    right = [tone_by_counting(t) == p["tone"]["name"] for t, p in zip(taglines, profiles, strict=True)]
    assert sum(right) / len(right) > 0.9 > 7 / len(TONES)


def test_changing_the_tone_changes_the_words(model: BrandKit, profiles: list[dict[str, Any]]) -> None:
    heard = {}
    for tone in TONES:
        asked = [{**profile, "tone": {"name": tone}} for profile in profiles[:6]]
        texts = " ".join(write_batch(model.writer, asked, "about", seed=2))
        heard[tone] = tone_by_counting(texts)
    assert sum(heard[tone] == tone for tone in TONES) >= 7


def test_a_style_sheet_names_every_role_and_holds_the_profiles_colours(
    model: BrandKit, profiles: list[dict[str, Any]]
) -> None:
    styles = write_batch(model.writer, profiles, "css", seed=1, temperature=0.3)
    exact, foreign = 0, 0
    for style, profile, other in zip(styles, profiles, [*profiles[1:], profiles[0]], strict=True):
        assert style.startswith(":root{--background:#"), style
        exact += sum(f"--{role}:{profile['palette'][role]['hex']}" in style for role in ROLES)
        foreign += sum(f"--{role}:{other['palette'][role]['hex']}" in style for role in ROLES)
    assert exact / (len(styles) * len(ROLES)) > 0.95
    assert foreign / (len(styles) * len(ROLES)) < 0.1


def test_changing_one_colour_changes_only_that_colour(model: BrandKit, profiles: list[dict[str, Any]]) -> None:
    found = 0
    for profile in profiles[:8]:
        changed = copy.deepcopy(profile)
        changed["palette"]["accent"]["hex"] = "#12ab9f"
        before, after = write_batch(model.writer, [profile, changed], "css", seed=3, temperature=0.1)
        found += "--accent:#12ab9f" in after and before.split("--accent")[0] == after.split("--accent")[0]
    assert found >= 6


def test_the_name_is_filled_in_exactly_and_in_readable_ascii(model: BrandKit, profiles: list[dict[str, Any]]) -> None:
    texts = write_batch(model.writer, [{**p, "name": "Zyxw & Q"} for p in profiles], "about", seed=5)
    named = [text for text in texts if re.search(r"\b(At|this is) ", text)]
    assert len(named) > 10
    assert sum("Zyxw & Q" in text for text in named) == len(named)
    assert all(text.isprintable() for text in texts)
    assert fill_in_name(b"At \x01 we", "Caf\u00e9\0\n \u4e2d" + "x" * 90) == "At Caf " + "x" * 12 + " we"
    assert fill_in_name(b"\x01: \xff", "\u4e2d") == "Brand: \ufffd"


def test_an_unknown_kind_or_a_broken_profile_is_refused_in_one_sentence(
    model: BrandKit, profiles: list[dict[str, Any]]
) -> None:
    with pytest.raises(InvalidInput, match="kind 'poem' is unknown; choose one of tagline, about, button, css"):
        write_content(model, profiles[0], "poem", seed=0)
    broken = {**profiles[0], "tone": {"name": "grumpy"}}
    with pytest.raises(InvalidInput, match="tone 'grumpy' is unknown; choose one of playful"):
        write_content(model, broken, "css", seed=0)
    with pytest.raises(InvalidInput, match="is not of the form '#rrggbb'"):
        read_conditions({**profiles[0], "palette": {role: {"hex": "red"} for role in ROLES}})
    for missing in ("tone", "palette"):
        with pytest.raises(InvalidInput, match=f"the profile lacks '{missing}'; it needs"):
            read_conditions({key: value for key, value in profiles[0].items() if key != missing})
    with pytest.raises(InvalidInput, match="temperature=0"):
        write_content(model, profiles[0], "css", seed=0, temperature=0)
