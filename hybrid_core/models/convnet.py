"""Residual networks for images, written so that folding and in-place reuse have something to do.

Convolution, batch normalisation and ReLU are separate modules (ReLU not in place), as people write them. `tiny` reads
handwritten digits and is trained; `small` is wider, has random weights and is for speed and memory only; `full` is
ResNet-18. Source: He et al. 2015, "Deep residual learning", with identity or 1x1 shortcuts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.models.base import RegistryEntry, Task, check_size
from hybrid_core.models.checkpoints import CHECKPOINTS
from hybrid_core.models.images import cloudy_images, picked_digits
from hybrid_core.models.tasks.digits import DigitsTask
from hybrid_core.records import Workload

SETTLING_IMAGES = 8


@dataclass(frozen=True)
class ConvNetShape:
    """The dimensions of one size: one residual block per entry of `widths`; a stride of 2 halves the image.

    The stem is a 3x3 convolution or, for large images, one of 7x7 and a max pool that quarter the image together.
    """

    image: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    classes: int = 10
    channels: int = 1
    large_stem: bool = False

    @property
    def parameters(self) -> int:
        """The count in closed form: 9ab per 3x3 convolution, ab per shortcut, 2b per normalisation.

        >>> SHAPES["full"].parameters
        11689512
        """
        before = self.widths[0]
        total = self.channels * (49 if self.large_stem else 9) * before + 2 * before
        for width, stride in zip(self.widths, self.strides, strict=True):
            total += 9 * before * width + 9 * width * width + 4 * width
            total += before * width + 2 * width if (before != width or stride != 1) else 0
            before = width
        return total + before * self.classes + self.classes


SHAPES = {
    "tiny": ConvNetShape(image=8, widths=(32, 32, 64, 64), strides=(1, 1, 2, 1)),
    # ResNet-18 twice as wide, with the stem that He et al. use for 32x32 images.
    "small": ConvNetShape(
        image=32,
        widths=(128, 128, 256, 256, 512, 512, 1024, 1024),
        strides=(1, 1, 2, 1, 2, 1, 2, 1),
        classes=1000,
        channels=3,
    ),
    "full": ConvNetShape(
        image=224,
        widths=(64, 64, 128, 128, 256, 256, 512, 512),
        strides=(1, 1, 2, 1, 2, 1, 2, 1),
        classes=1000,
        channels=3,
        large_stem=True,
    ),
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
    """Images in, class logits out."""

    def __init__(self, shape: ConvNetShape) -> None:
        super().__init__()
        self.shape = shape
        first, side = shape.widths[0], 7 if shape.large_stem else 3
        stride = 2 if shape.large_stem else 1
        self.stem = nn.Conv2d(shape.channels, first, side, stride, padding=side // 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(first)
        self.stem_relu = nn.ReLU()
        self.stem_pool: nn.Module = nn.MaxPool2d(3, 2, padding=1) if shape.large_stem else nn.Identity()
        inputs = (first, *shape.widths[:-1])
        self.blocks = nn.Sequential(
            *(ResidualBlock(*dims) for dims in zip(inputs, shape.widths, shape.strides, strict=True))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(shape.widths[-1], shape.classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, image, image) with values in [0, 1] to (batch, classes)."""
        x = self.stem_pool(self.stem_relu(self.stem_norm(self.stem(images))))
        logits: Tensor = self.head(torch.flatten(self.pool(self.blocks(x)), 1))
        return logits


class ConvNetEntry(RegistryEntry):
    """The registry's entry."""

    name = "convnet"
    family = "convolutional"
    title = "Residual network"
    description = (
        "Residual blocks of convolution, batch normalisation and ReLU. The tiny size reads handwritten digits and is "
        "trained; full is ResNet-18."
    )
    architecture = (
        "A convolutional stem, residual blocks of two 3x3 convolutions with batch normalisation and ReLU, identity or "
        "1x1 shortcuts, global average pooling, a linear classifier."
    )
    sources = ("He et al. 2015, Deep Residual Learning for Image Recognition, arXiv 1512.03385",)
    checkpoint = CHECKPOINTS / "convnet-tiny.safetensors"
    published_parameters = 11_689_512

    def make(self, size: str) -> nn.Module:
        """The network of this size; an untrained one knows how large its activations are."""
        model = ConvNet(SHAPES[size])
        if not self.is_trained(size) and not model.stem.weight.is_meta:
            settle_statistics(model)
        return model

    def parameters(self, size: str) -> int:
        """Closed form."""
        check_size(self.name, self.sizes, size)
        return SHAPES[size].parameters

    def workloads(self, size: str) -> tuple[Workload, ...]:
        """A batch of images, and one image alone."""
        check_size(self.name, self.sizes, size)
        batch = {"tiny": 128, "small": 2, "full": 4}[size]
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
            return ["digits are easy: int8 changes no or one image of 608, so watch the agreement as well"]
        if size == "small":
            return ["random weights: for speed and memory only, its outputs mean nothing"]
        return ["the published weights are not shipped: random weights, for speed and memory only"]


def settle_statistics(model: ConvNet) -> None:
    """Give the batch normalisations of an untrained model the statistics of images from the global generator.

    Fresh ones hold mean 0 and variance 1, so activations that grow from block to block would not be normalised at all.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(cloudy_images(SETTLING_IMAGES, model.shape.channels, model.shape.image))
    model.eval()
    for norm in norms:
        norm.momentum = 0.1
