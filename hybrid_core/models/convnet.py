"""A small residual network for images, written so that folding and in-place reuse have something to do.

Convolution, batch normalisation and ReLU are separate modules (ReLU not in place), as people write them. `tiny` reads
handwritten digits and is trained; `small` is wider, reads 64x64 images, has random weights and is for speed and memory
only. Architecture: residual blocks of He et al. 2015 with identity or 1x1 shortcuts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybrid_core.models.base import Task, check_size, freeze
from hybrid_core.models.checkpoints import CHECKPOINTS, load_weights, read_facts
from hybrid_core.models.tasks.digits import DigitsTask, held_out_digits
from hybrid_core.records import Workload

CHECKPOINT = CHECKPOINTS / "convnet-tiny.safetensors"


@dataclass(frozen=True)
class ConvNetShape:
    """The dimensions of one size: one residual block per entry of `widths`; a stride of 2 halves the image."""

    image: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    classes: int = 10

    @property
    def parameters(self) -> int:
        """The count in closed form: 9ab per 3x3 convolution, ab per shortcut, 2b per normalisation."""
        total, before = 9 * self.widths[0] + 2 * self.widths[0], self.widths[0]
        for width, stride in zip(self.widths, self.strides, strict=True):
            total += 9 * before * width + 9 * width * width + 4 * width
            total += before * width + 2 * width if (before != width or stride != 1) else 0
            before = width
        return total + before * self.classes + self.classes


SHAPES = {
    "tiny": ConvNetShape(image=8, widths=(32, 32, 64, 64), strides=(1, 1, 2, 1)),
    "small": ConvNetShape(image=64, widths=(48, 48, 96, 96, 192, 192), strides=(1, 1, 2, 1, 2, 1)),
}


class ResidualBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if before != width or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, before, h, w) to (batch, width, h / stride, w / stride)."""
        branch = self.relu1(self.norm1(self.conv1(x)))
        branch = self.norm2(self.conv2(branch))
        merged: Tensor = self.relu2(branch + self.shortcut(x))
        return merged


class ConvNet(nn.Module):
    """Grey images in, class logits out."""

    def __init__(self, shape: ConvNetShape) -> None:
        super().__init__()
        self.shape = shape
        first = shape.widths[0]
        self.stem = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(first)
        self.stem_relu = nn.ReLU()
        inputs = (first, *shape.widths[:-1])
        self.blocks = nn.Sequential(
            *(ResidualBlock(*dims) for dims in zip(inputs, shape.widths, shape.strides, strict=True))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(shape.widths[-1], shape.classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 1, image, image) with values in [0, 1] to (batch, classes)."""
        x = self.stem_relu(self.stem_norm(self.stem(images)))
        logits: Tensor = self.head(torch.flatten(self.pool(self.blocks(x)), 1))
        return logits


class ConvNetEntry:
    """The registry's entry."""

    name = "convnet"
    family = "convolutional"
    title = "Residual digits network"
    description = (
        "Residual blocks of convolution, batch normalisation and ReLU. The tiny size reads handwritten digits and is "
        "trained; the small one reads 64x64 images and has random weights."
    )
    sizes: tuple[str, ...] = ("tiny", "small")

    def workloads(self, size: str) -> tuple[Workload, ...]:
        """A batch of images, and one image alone."""
        check_size(self.name, self.sizes, size)
        batch = 32 if size == "tiny" else 8
        return (Workload("forward", "forward", batch=batch), Workload("forward_single", "forward", batch=1))

    def build(self, size: str, seed: int) -> nn.Module:
        """`tiny`: the checkpoint, whatever the seed. `small`: random weights from the seed."""
        check_size(self.name, self.sizes, size)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            model = ConvNet(SHAPES[size])
        if size == "tiny":
            load_weights(model, CHECKPOINT)
        else:
            settle_statistics(model, seed)
        return freeze(model)

    def make_inputs(self, size: str, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Images (batch, 1, image, image) in [0, 1]: held-out digits for `tiny`, clouds for `small`."""
        check_size(self.name, self.sizes, size)
        if size == "small":
            return (cloudy_images(workload.batch, SHAPES[size].image, generator),)
        images, labels = held_out_digits()
        return (images[torch.randint(len(labels), (workload.batch,), generator=generator)],)

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor:
        """Class logits (batch, 10)."""
        logits: Tensor = model(*inputs)
        return logits

    def task(self, size: str) -> Task | None:
        """Digit accuracy for the trained size."""
        check_size(self.name, self.sizes, size)
        return DigitsTask() if size == "tiny" else None

    def facts(self, size: str) -> dict[str, Any]:
        """See `ModelEntry.facts`."""
        check_size(self.name, self.sizes, size)
        common = {"parameters": SHAPES[size].parameters, "image": [1, SHAPES[size].image, SHAPES[size].image]}
        if size == "small":
            limits = ["random weights: for speed and memory only, its outputs mean nothing"]
            return {**common, "trained": False, "quality": None, "limits": limits}
        facts = read_facts(CHECKPOINT)
        limits = ["digits are easy: int8 changes no or one image of 608, so watch the agreement as well"]
        return {**common, "trained": True, "quality": facts["quality"], "training": facts, "limits": limits}


def cloudy_images(count: int, side: int, generator: torch.Generator) -> Tensor:
    """(count, 1, side, side) smooth random images; the mean of plain noise would be the same for every image."""
    coarse = torch.rand(count, 1, 4, 4, generator=generator)
    return F.interpolate(coarse, size=(side, side), mode="bilinear")


def settle_statistics(model: ConvNet, seed: int) -> None:
    """Give the batch normalisations of an untrained model the statistics of eight random images.

    Fresh ones hold mean 0 and variance 1, so activations that grow from block to block would not be normalised at all.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(cloudy_images(8, model.shape.image, torch.Generator().manual_seed(seed)))
    model.eval()
    for norm in norms:
        norm.momentum = 0.1
