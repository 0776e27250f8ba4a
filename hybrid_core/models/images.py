"""Input images of the vision models: held-out digits for what reads digits, clouds for what has random weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hybrid_core.models.tasks.digits import held_out_digits


def picked_digits(count: int, generator: torch.Generator) -> Tensor:
    """Held-out digits from random places, (count, 1, 8, 8) in [0, 1]."""
    images, labels = held_out_digits()
    return images[torch.randint(len(labels), (count,), generator=generator)]


def cloudy_images(count: int, channels: int, side: int, generator: torch.Generator | None = None) -> Tensor:
    """(count, channels, side, side) smooth random images in [0, 1], by default from the global generator.

    Plain noise would look the same on average in every image, and so would the answers to it.
    """
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    return F.interpolate(coarse, size=(side, side), mode="bilinear")
