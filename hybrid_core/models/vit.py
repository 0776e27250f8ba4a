"""The vision transformer: an image is cut into patches, and a transformer encoder reads them as words.

A class token collects what the patches tell it; positions are learned; layers are pre-norm with plain eager attention
and a GELU feed-forward. `tiny` reads handwritten digits and is trained, `small` has random weights and is for speed and
memory only, `full` is ViT-B/16. Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words", arXiv 2010.11929.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.models.base import RegistryEntry, Task, check_size
from hybrid_core.models.checkpoints import CHECKPOINTS
from hybrid_core.models.images import cloudy_images, picked_digits
from hybrid_core.models.parts.blocks import EagerAttention
from hybrid_core.models.tasks.digits import DigitsTask
from hybrid_core.records import Workload

NORM_EPS = 1e-12  # as in the published weights


@dataclass(frozen=True)
class VisionShape:
    """The dimensions of one size; `image` and `patch` are side lengths in pixels."""

    image: int
    patch: int
    channels: int
    dim: int
    layers: int
    heads: int
    hidden: int
    classes: int

    @property
    def tokens(self) -> int:
        """One per patch and the class token."""
        return (self.image // self.patch) ** 2 + 1

    @property
    def parameters(self) -> int:
        """The count in closed form.

        >>> SHAPES["full"].parameters
        86567656
        """
        attention = 4 * (self.dim + 1) * self.dim
        feed_forward = (self.dim + 1) * self.hidden + (self.hidden + 1) * self.dim
        layer = attention + feed_forward + 4 * self.dim
        patches = (self.channels * self.patch**2 + 1) * self.dim
        return (
            patches
            + self.dim
            + self.tokens * self.dim
            + self.layers * layer
            + 2 * self.dim
            + (self.dim + 1) * self.classes
        )


SHAPES = {
    "tiny": VisionShape(image=8, patch=2, channels=1, dim=64, layers=6, heads=4, hidden=192, classes=10),
    "small": VisionShape(image=128, patch=16, channels=3, dim=512, layers=12, heads=8, hidden=2048, classes=1000),
    "full": VisionShape(image=224, patch=16, channels=3, dim=768, layers=12, heads=12, hidden=3072, classes=1000),
}


class PatchAttention(nn.Module):
    """Self-attention in which every token sees every other."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, dim // heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.core = EagerAttention()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, dim) to the same; the mask is zero everywhere."""
        mixed = self.core(self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x)), mask)
        merged: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return merged

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, self.width).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Pre-norm attention and pre-norm feed-forward, each added to the residual stream."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, NORM_EPS)
        self.attention = PatchAttention(dim, heads)
        self.feed_forward_norm = nn.LayerNorm(dim, NORM_EPS)
        self.up = nn.Linear(dim, hidden)
        self.activation = nn.GELU()
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, dim) to the same."""
        x = x + self.attention(self.attention_norm(x), mask)
        lifted: Tensor = x + self.down(self.activation(self.up(self.feed_forward_norm(x))))
        return lifted


class VisionTransformer(nn.Module):
    """Images in, class logits out."""

    mask: Tensor

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.shape = shape
        self.patches = nn.Conv2d(shape.channels, shape.dim, shape.patch, stride=shape.patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, shape.dim))
        self.positions = nn.Parameter(torch.empty(1, shape.tokens, shape.dim))
        self.layers = nn.ModuleList(EncoderLayer(shape.dim, shape.heads, shape.hidden) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.dim, NORM_EPS)
        self.head = nn.Linear(shape.dim, shape.classes)
        # Nothing is hidden, but the attention of all models has the same form, and so one way to be replaced.
        self.register_buffer("mask", torch.zeros(shape.tokens, shape.tokens), persistent=False)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, image, image) with values in [0, 1] to (batch, classes)."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(patches.shape[0], -1, -1), patches), dim=1) + self.positions
        for layer in self.layers:
            x = layer(x, self.mask)
        logits: Tensor = self.head(self.norm(x)[:, 0])
        return logits

    def _initialise(self) -> None:
        for name, weight in self.named_parameters():
            if weight.ndim >= 2:
                nn.init.normal_(weight, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)


class VitEntry(RegistryEntry):
    """The registry's entry."""

    name = "vit"
    family = "vision transformer"
    title = "Vision transformer"
    description = (
        "A transformer encoder over image patches. The tiny size reads handwritten digits and is trained; full has the "
        "dimensions of ViT-B/16."
    )
    architecture = (
        "Patches by a strided convolution, a class token, learned positions; pre-norm layers of full attention and a "
        "GELU feed-forward with layer normalisation; the class token's last state is classified."
    )
    sources = ("Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, arXiv 2010.11929",)
    checkpoint = CHECKPOINTS / "vit-tiny.safetensors"
    published_parameters = 86_567_656

    def make(self, size: str) -> nn.Module:
        """The encoder of this size."""
        return VisionTransformer(SHAPES[size])

    def parameters(self, size: str) -> int:
        """Closed form."""
        check_size(self.name, self.sizes, size)
        return SHAPES[size].parameters

    def workloads(self, size: str) -> tuple[Workload, ...]:
        """A batch of images, and one image alone."""
        check_size(self.name, self.sizes, size)
        batch = {"tiny": 128, "small": 2, "full": 2}[size]
        return (Workload("forward", "forward", batch=batch), Workload("forward_single", "forward", batch=1))

    def make_inputs(self, size: str, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Images (batch, channels, image, image) in [0, 1]: held-out digits for `tiny`, else clouds."""
        check_size(self.name, self.sizes, size)
        if size == "tiny":
            return (picked_digits(workload.batch, generator),)
        return (cloudy_images(workload.batch, SHAPES[size].channels, SHAPES[size].image, generator),)

    def trained_task(self) -> Task | None:
        """Digit accuracy."""
        return DigitsTask()

    def card(self, size: str) -> dict[str, Any]:
        """What goes in: channels, height, width."""
        return {"image": [SHAPES[size].channels, SHAPES[size].image, SHAPES[size].image]}

    def limits(self, size: str) -> list[str]:
        """What the weights of this size know."""
        if size == "tiny":
            return ["reads grey digits of 8x8 pixels and nothing else"]
        if size == "small":
            return ["random weights: for speed and memory only, its outputs mean nothing"]
        return ["the published weights are not shipped: random weights, for speed and memory only"]
