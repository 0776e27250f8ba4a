"""Reads a website from its HTML and its screenshot: classes, colours, consistency and an embedding of either.

The HTML goes through a transformer, the picture through residual convolutions; a few learned profile tokens then read
both by cross-attention, and the heads read the profile. The five colours are not guessed but pointed at: attention
whose values are the picture's own pixels, plus a correction for what no pixel shows purely, such as thin text. The
embeddings of HTML and picture are made apart from each other, so that one can be looked up by the other (CLIP, Radford
et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybrid_core.models.convnet import ResidualBlock
from hybrid_core.models.parts.blocks import EagerAttention
from hybrid_core.models.parts.brand_layers import (
    ReadingLayer,
    SelfLayer,
    fresh_embedding,
    fresh_positions,
    layer_parameters,
    no_mask,
)
from hybrid_core.models.website.labels import ASPECTS, CLASSES, ROLES
from hybrid_core.models.website.reading import FIRST_LEVEL, LEVELS, PADDING, VOCABULARY

PRIMARY = ROLES.index("primary")
STEM_STRIDE = 2
SHADES = 3
JUDGE = 64


@dataclass(frozen=True)
class AnalyserShape:
    """The dimensions of one size; the picture is halved by the stem and by each of the residual blocks."""

    dim: int
    heads: int
    html_layers: int
    fusion_layers: int
    readers: int
    widths: tuple[int, int, int]
    html_length: int
    height: int
    width: int
    embedding: int

    @property
    def profile(self) -> int:
        """The width of the flattened profile."""
        return self.readers * self.dim

    @property
    def parameters(self) -> int:
        """The count in closed form, part by part."""
        stem, middle, last = self.widths
        dim, spots = self.dim, self.height * self.width // 64
        html = (VOCABULARY + self.html_length) * dim + self.html_layers * layer_parameters(dim) + 2 * dim
        blocks = sum(9 * a * b + 9 * b * b + 4 * b + a * b + 2 * b for a, b in ((stem, middle), (middle, last)))
        picture = 27 * stem + 2 * stem + blocks + (last + 1) * dim + spots * dim
        fusion = self.readers * dim + self.fusion_layers * layer_parameters(dim) + 2 * dim
        classes = (self.profile + 1) * len(ASPECTS) * CLASSES
        palette = len(ROLES) * ((self.profile + 1) * (middle + SHADES))
        declared, embeddings = (self.profile + 1) * SHADES, 2 * (dim + 1) * self.embedding
        judge = (self.profile + SHADES + 1) * JUDGE + JUDGE + 1
        return html + picture + fusion + classes + palette + declared + embeddings + judge


class HtmlEncoder(nn.Module):
    """Tokens of a page to hidden states."""

    def __init__(self, shape: AnalyserShape) -> None:
        super().__init__()
        self.embedding = fresh_embedding(VOCABULARY, shape.dim)
        order_levels(self.embedding)
        self.positions = fresh_positions(shape.html_length, shape.dim)
        self.layers = nn.ModuleList(SelfLayer(shape.dim, shape.heads) for _ in range(shape.html_layers))
        self.norm = nn.LayerNorm(shape.dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens) int64, at most `html_length` of them, to (batch, tokens, dim); the mask hides the padding."""
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, mask)
        states: Tensor = self.norm(x)
        return states


def order_levels(embedding: nn.Embedding) -> None:
    """Start the 32 levels of each colour channel on a line between two vectors: near levels are nearly the same."""
    with torch.no_grad():
        share = torch.linspace(0, 1, LEVELS)[:, None]
        for channel in range(SHADES):
            first = FIRST_LEVEL + channel * LEVELS
            levels = embedding.weight[first : first + LEVELS]
            levels.copy_(torch.lerp(levels[:1].clone(), levels[-1:].clone(), share))


class PictureEncoder(nn.Module):
    """Pixels to two grids: fine features that a colour can be pointed at with, and coarse tokens."""

    def __init__(self, shape: AnalyserShape) -> None:
        super().__init__()
        stem, middle, last = shape.widths
        self.stem = nn.Conv2d(3, stem, 3, STEM_STRIDE, padding=1, bias=False)
        self.stem_norm, self.stem_relu = nn.BatchNorm2d(stem), nn.ReLU()
        self.fine, self.coarse = ResidualBlock(stem, middle, 2), ResidualBlock(middle, last, 2)
        self.tokens = nn.Linear(last, shape.dim)
        self.positions = fresh_positions(shape.height * shape.width // 64, shape.dim)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 3, height, width) to (batch, spots of 4x4, middle) and (batch, spots of 8x8, dim)."""
        fine = self.fine(self.stem_relu(self.stem_norm(self.stem(2 * pixels - 1))))
        coarse = self.coarse(fine)
        return fine.flatten(2).transpose(1, 2), self.tokens(coarse.flatten(2).transpose(1, 2)) + self.positions


class PalettePointer(nn.Module):
    """One colour per role: pixels weighted by attention, plus a correction read off the profile."""

    def __init__(self, shape: AnalyserShape) -> None:
        super().__init__()
        self.width = shape.widths[1]
        self.query = nn.Linear(shape.profile, len(ROLES) * self.width)
        self.correction = nn.Linear(shape.profile, len(ROLES) * SHADES)
        self.core = EagerAttention()

    def forward(self, profile: Tensor, fine: Tensor, pixels: Tensor) -> Tensor:
        """Profile (batch, profile), features (batch, spots, middle), pixels to colours (batch, roles, 3)."""
        # One pixel of each 4x4 spot, not their mean: a mean of text and paper is a colour that is nowhere.
        shown = pixels[:, :, 1::4, 1::4].flatten(2).transpose(1, 2)
        query = self.query(profile).view(-1, len(ROLES), self.width)
        pointed = self.core(query[:, None], fine[:, None], shown[:, None], no_mask(fine))[:, 0]
        colours: Tensor = pointed + self.correction(profile).view(-1, len(ROLES), SHADES)
        return colours


class BrandAnalyser(nn.Module):
    """HTML tokens and pixels to everything that is known of a site."""

    def __init__(self, shape: AnalyserShape) -> None:
        super().__init__()
        self.shape = shape
        self.html, self.picture = HtmlEncoder(shape), PictureEncoder(shape)
        self.readers = fresh_positions(shape.readers, shape.dim)
        self.fusion = nn.ModuleList(ReadingLayer(shape.dim, shape.heads) for _ in range(shape.fusion_layers))
        self.fusion_norm = nn.LayerNorm(shape.dim)
        self.classes = nn.Linear(shape.profile, len(ASPECTS) * CLASSES)
        self.palette = PalettePointer(shape)
        self.declared = nn.Linear(shape.profile, SHADES)
        self.judge = nn.Sequential(nn.Linear(shape.profile + SHADES, JUDGE), nn.ReLU(), nn.Linear(JUDGE, 1))
        self.html_embedding = nn.Linear(shape.dim, shape.embedding)
        self.picture_embedding = nn.Linear(shape.dim, shape.embedding)

    def forward(self, tokens: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(batch, html_length) int64 and (batch, 3, height, width) in [0, 1] to six tensors.

        Class logits (batch, 3, 8), palette (batch, 5, 3), declared colour (batch, 3), consistency logit (batch, 1),
        embeddings of the HTML and of the picture (batch, embedding), of length 1.
        """
        present = (tokens != PADDING).to(pixels.dtype)
        mask = (1 - present)[:, None, None, :] * torch.finfo(pixels.dtype).min
        html = self.html(tokens, mask)
        fine, seen = self.picture(pixels)
        page = html[:, 0] + (html * present[:, :, None]).sum(1) / present.sum(1, keepdim=True).clamp(min=1)
        profile = self._read(html, seen, mask)
        logits = self.classes(profile).view(-1, len(ASPECTS), CLASSES)
        palette, declared = self.palette(profile, fine, pixels), self.declared(profile)
        drift = (declared - palette[:, PRIMARY]).abs()
        consistency = self.judge(torch.cat((profile, drift), dim=1))
        html_embedding = F.normalize(self.html_embedding(page), dim=1)
        picture_embedding = F.normalize(self.picture_embedding(seen.mean(1)), dim=1)
        return logits, palette, declared, consistency, html_embedding, picture_embedding

    def _read(self, html: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        """The profile (batch, readers * dim): what the readers took from both."""
        nothing_hidden = torch.zeros(seen.shape[0], 1, 1, seen.shape[1], device=seen.device, dtype=seen.dtype)
        memory, both = torch.cat((html, seen), dim=1), torch.cat((mask, nothing_hidden), dim=3)
        x = self.readers.expand(html.shape[0], -1, -1)
        for layer in self.fusion:
            x = layer(x, memory, both)
        profile: Tensor = self.fusion_norm(x).flatten(1)
        return profile
