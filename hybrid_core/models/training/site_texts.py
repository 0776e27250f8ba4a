"""What the writer learns from: taglines, paragraphs, buttons and style sheets of generated brands, as bytes.

Every slot of a text holds a word of the brand's tone, and every style sheet the brand's exact colours, so both can be
checked in what the writer makes of a profile it has not seen.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor
from torch.nn import functional as F

from hybrid_core.models.parts.brand_writer import END, NAME, prompt_of
from hybrid_core.models.training import site_words
from hybrid_core.models.training.site_styles import FONTS, Palette
from hybrid_core.models.website.colours import hex_of
from hybrid_core.models.website.labels import ASPECTS, CLASSES, KINDS, LAYOUTS, ROLES, TONES, TYPOGRAPHIES

IGNORED = -100


def make_texts(count: int, kind: str, source: random.Random) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Texts (count, bytes), the bytes that follow, `IGNORED` behind the end, classes (count, 3, 8), palettes."""
    made = [_make_text(kind, source) for _ in range(count)]
    longest = max(len(text) for text, _, _ in made)
    tokens, targets = torch.zeros(count, longest, dtype=torch.int64), torch.full((count, longest), IGNORED)
    for row, (text, _, _) in enumerate(made):
        whole = torch.tensor([prompt_of(kind), *text])
        tokens[row, : len(text)], targets[row, : len(text)] = whole[:-1], whole[1:]
    classes = F.one_hot(torch.tensor([labels for _, labels, _ in made]), CLASSES).float()
    palettes = torch.tensor([[palette[role] for role in ROLES] for _, _, palette in made]) / 255
    return tokens, targets, classes, palettes


def style_text(palette: Palette, typography: str) -> str:
    """The style sheet a brand kit hands over: the colours by role and the font of the headings."""
    colours = ";".join(f"--{role}:{hex_of(palette[role])}" for role in ROLES)
    return f":root{{{colours}}}h1{{font-family:{FONTS[typography][0][0]}}}"


def _make_text(kind: str, source: random.Random) -> tuple[bytes, list[int], Palette]:
    tone, layout, typography = (source.choice(list(names)) for names in (TONES, LAYOUTS, TYPOGRAPHIES))
    palette, trade = _any_palette(source), source.choice(list(site_words.TRADES))
    patterns = {
        "tagline": source.choice(site_words.HEADLINES),
        "about": " ".join(source.sample(site_words.SENTENCES, 2)),
        "button": "{action}",
    }
    if kind == "css":
        text = style_text(palette, typography)
    else:
        text = site_words.fill(patterns[kind], chr(NAME), trade, tone, 1.0, source)
    chosen = (tone, layout, typography)
    labels = [names.index(label) for names, label in zip(ASPECTS.values(), chosen, strict=True)]
    return text.encode() + bytes([END]), labels, palette


def _any_palette(source: random.Random) -> Palette:
    """Any colours at all, so that digits are copied and not guessed from what colours usually are."""
    return {role: (source.randrange(256), source.randrange(256), source.randrange(256)) for role in ROLES}


assert KINDS == ("tagline", "about", "button", "css")
