"""Writes in a brand's voice: a byte decoder that reads the profile by cross-attention.

The profile is a memory of eighteen tokens: tone, layout and typography as probabilities over their classes, and each
of the five colours as three levels, where a level between two of the 256 is the mix of both. The prompt is one byte,
the kind of text, and one byte stands for the brand's name: a name is filled in, not spelled. So a person may change a
colour or the tone and write again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybrid_core.models.parts.blocks import Cache
from hybrid_core.models.parts.brand_layers import (
    START,
    Attention,
    ReadingLayer,
    Turn,
    attention_parameters,
    causal_mask,
    fresh_embedding,
    fresh_positions,
    layer_parameters,
    no_mask,
)
from hybrid_core.models.parts.rotary import rotary_table
from hybrid_core.models.website.labels import ASPECTS, CLASSES, KINDS, MOST_NAME_BYTES, ROLES

BYTES = 256
LEVELS = 256
SHADES = 3
HEX = 16
THETA = 10_000.0
END, NAME, FIRST_KIND = 0, 1, 2
"""Bytes below the printable ones: a text ends, the brand's name stands here, a text of this kind begins."""
NAMELESS = "Brand"
MEMORY = len(ASPECTS) + len(ROLES) * SHADES


@dataclass(frozen=True)
class WriterShape:
    """The dimensions of one size; `length` is the longest text in bytes, prompt included."""

    dim: int
    heads: int
    layers: int
    length: int

    @property
    def parameters(self) -> int:
        """The count in closed form."""
        dim, layer = self.dim, layer_parameters(self.dim) + attention_parameters(self.dim) + 2 * self.dim
        memory = (LEVELS + len(ASPECTS) * CLASSES + MEMORY + 2) * dim
        return memory + (BYTES + self.length) * dim + self.layers * layer + 2 * dim + (dim + 1) * BYTES


class ProfileMemory(nn.Module):
    """A profile as tokens that can be attended to."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.classes = nn.ModuleList(nn.Linear(CLASSES, dim, bias=False) for _ in ASPECTS)
        self.level = nn.Linear(LEVELS, dim, bias=False)
        compose_levels(self.level)
        self.positions = fresh_positions(MEMORY, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, classes: Tensor, palette: Tensor) -> Tensor:
        """Probabilities (batch, 3, 8) and colours (batch, 5, 3) in [0, 1] to (batch, 18, dim)."""
        named = torch.stack([layer(classes[:, index]) for index, layer in enumerate(self.classes)], dim=1)
        levels = torch.arange(LEVELS, device=palette.device, dtype=palette.dtype)
        distance = (palette.flatten(1)[:, :, None].clamp(0, 1) * (LEVELS - 1) - levels).abs()
        shades = self.level((1 - distance).clamp(min=0))
        memory: Tensor = self.norm(torch.cat((named, shades), dim=1) + self.positions)
        return memory


def compose_levels(level: nn.Linear) -> None:
    """Start each of the 256 levels as the sum of its two hexadecimal digits, which is how it will be written."""
    with torch.no_grad():
        digits = START * torch.randn(2, level.out_features, HEX)
        level.weight.copy_((digits[0, :, :, None] + digits[1, :, None, :]).flatten(1))


class WritingLayer(nn.Module):
    """Self-attention over the text, then a reading layer over the profile."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.reading = ReadingLayer(dim, heads)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor, turn: Turn, layer: int, cache: Cache | None) -> Tensor:
        """(batch, new, dim) to the same; the mask is that of the text, the whole memory is always seen."""
        near = self.norm(x)
        x = x + self.attention(near, near, mask, turn, layer, cache)
        read: Tensor = self.reading(x, memory, no_mask(x))
        return read


class BrandWriter(nn.Module):
    """Bytes so far and a profile to logits of the next byte.

    A byte knows its place (which digit of which colour comes next) and, by rotation, how far back the others are.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: WriterShape) -> None:
        super().__init__()
        self.shape = shape
        self.memory = ProfileMemory(shape.dim)
        self.embedding = fresh_embedding(BYTES, shape.dim)
        self.positions = fresh_positions(shape.length, shape.dim)
        self.layers = nn.ModuleList(WritingLayer(shape.dim, shape.heads) for _ in range(shape.layers))
        self.norm, self.head = nn.LayerNorm(shape.dim), nn.Linear(shape.dim, BYTES)
        cos, sin = rotary_table(shape.dim // shape.heads, shape.length, THETA)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, text: Tensor, classes: Tensor, palette: Tensor, cache: Cache | None = None) -> Tensor:
        """Text (batch, new) int64, of which the cache holds what came before, to logits (batch, new, 256)."""
        held, new = 0 if cache is None else cache.length, text.shape[1]
        memory = self.memory(classes, palette)
        x = self.embedding(text) + self.positions[held : held + new]
        mask, turn = causal_mask(new, held, x), (self.cos[held : held + new], self.sin[held : held + new])
        for index, layer in enumerate(self.layers):
            x = layer(x, memory, mask, turn, index, cache)
        logits: Tensor = self.head(self.norm(x))
        return logits


def prompt_of(kind: str) -> int:
    """The byte that a text begins with: its kind."""
    return FIRST_KIND + KINDS.index(kind)


def fill_in_name(text: bytes, name: str) -> str:
    """The text with the brand's name, in ASCII, wherever the writer put the byte that stands for it."""
    readable = "".join(c for c in name if 32 <= ord(c) < 127)[:MOST_NAME_BYTES].strip() or NAMELESS
    return text.decode("ascii", "replace").replace(chr(NAME), readable)
