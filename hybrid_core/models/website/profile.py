"""From a website to a profile a person can read and change, and from a profile to text.

`analyse_website` gives plain Python values: names, hexadecimal colours, shares between 0 and 1. `write_content` reads
only names and colours back, so whoever changes the tone or a colour in the profile gets another text.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brandkit import BrandKit
from hybrid_core.models.parts.blocks import GrowingCache
from hybrid_core.models.parts.brand_writer import END, NAMELESS, fill_in_name, prompt_of
from hybrid_core.models.website.colours import colour_name, hex_of, rgb_of
from hybrid_core.models.website.labels import ASPECTS, CLASSES, KINDS, ROLES
from hybrid_core.models.website.reading import html_title, html_tokens, screenshot_pixels


@torch.no_grad()
def analyse_website(model: BrandKit, html: str | bytes, screenshot: bytes | Image.Image) -> dict[str, Any]:
    """The brand profile of one page.

    Returns name, tone, layout and typography (each with name, probability and all scores), palette (role to hex and
    colour name), the colour that the page declares as its own, consistency (0 to 1) and how alike the embeddings of
    HTML and picture are (-1 to 1).

    Raises:
        InvalidInput: no HTML, no picture, or a picture of a size that cannot be read.
    """
    shape = model.shape.analyser
    tokens = html_tokens(html, shape.html_length)
    pixels = screenshot_pixels(screenshot, shape.width, shape.height)
    logits, palette, declared, consistency, html_embedding, picture_embedding = model(tokens[None], pixels[None])
    probabilities = torch.softmax(logits[0].double(), dim=-1)
    return {
        "name": html_title(html) or NAMELESS,
        **{aspect: _named(aspect, probabilities[index]) for index, aspect in enumerate(ASPECTS)},
        "palette": {role: _colour(palette[0, index]) for index, role in enumerate(ROLES)},
        "declared": _colour(declared[0]),
        "consistency": float(torch.sigmoid(consistency[0, 0])),
        "likeness": float(html_embedding[0] @ picture_embedding[0]),
    }


def write_content(model: BrandKit, profile: dict[str, Any], kind: str, seed: int, temperature: float = 0.7) -> str:
    """A text of this kind in the profile's voice and colours; the same seed writes the same text.

    Raises:
        InvalidInput: an unknown kind, or a profile without a name, class or colour that the writer reads.
    """
    return write_batch(model.writer, [profile], kind, seed, temperature)[0]


@torch.no_grad()
def write_batch(
    writer: Any, profiles: list[dict[str, Any]], kind: str, seed: int, temperature: float = 0.7
) -> list[str]:
    """One text per profile, written side by side."""
    if kind not in KINDS:
        raise InvalidInput(f"kind {kind!r:.40} is unknown; choose one of {', '.join(KINDS)}")
    if not temperature > 0:
        raise InvalidInput(f"temperature={temperature} is not allowed; give a number above 0, 1 samples as trained")
    generator = torch.Generator().manual_seed(seed)
    conditions = [read_conditions(profile) for profile in profiles]
    classes, palette = (torch.stack(parts) for parts in zip(*conditions, strict=True))
    given, cache = torch.full((len(profiles), 1), prompt_of(kind)), GrowingCache(len(writer.layers))
    written, ended = [], torch.zeros(len(profiles), 1, dtype=torch.bool)
    for _ in range(writer.shape.length):
        shares = torch.softmax(writer(given, classes, palette, cache)[:, 0] / temperature, dim=-1)
        given = torch.multinomial(shares, 1, generator=generator).masked_fill(ended, END)
        ended |= given == END
        if bool(ended.all()):
            break
        written.append(given)
    rows = torch.cat(written, dim=1).tolist() if written else [[] for _ in profiles]
    names = [str(profile.get("name", "")) for profile in profiles]
    return [fill_in_name(bytes(row).replace(bytes([END]), b""), name) for row, name in zip(rows, names, strict=True)]


def read_conditions(profile: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The classes (3, 8) as one-hot rows and the palette (5, 3) in [0, 1] of a profile.

    Raises:
        InvalidInput: something is missing or not a known name; the sentence says what.
    """
    try:
        names = [profile[aspect]["name"] for aspect in ASPECTS]
        colours = [profile["palette"][role]["hex"] for role in ROLES]
    except (KeyError, TypeError) as error:
        raise InvalidInput(
            f"the profile lacks {error}; it needs a name for {', '.join(ASPECTS)} and a hex for {', '.join(ROLES)}"
        ) from error
    for (aspect, known), name in zip(ASPECTS.items(), names, strict=True):
        if name not in known:
            raise InvalidInput(f"{aspect} {name!r:.40} is unknown; choose one of {', '.join(known)}")
    chosen = [known.index(name) for known, name in zip(ASPECTS.values(), names, strict=True)]
    return F.one_hot(torch.tensor(chosen), CLASSES).float(), torch.tensor([rgb_of(c) for c in colours]) / 255


def _named(aspect: str, probabilities: Tensor) -> dict[str, Any]:
    scores = {name: float(share) for name, share in zip(ASPECTS[aspect], probabilities, strict=True)}
    best = max(scores, key=scores.__getitem__)
    return {"name": best, "probability": scores[best], "scores": scores}


def _colour(colour: Tensor) -> dict[str, str]:
    red, green, blue = (round(level * 255) for level in colour.clamp(0, 1).tolist())
    return {"hex": hex_of((red, green, blue)), "name": colour_name((red, green, blue))}
