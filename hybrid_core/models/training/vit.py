"""Trains the tiny vision transformer on handwritten digits.

A transformer knows nothing of images, and 1,189 of them do not teach it that a digit moved, turned or drawn larger
stays the same digit. So every image is seen through a random affine change with a little noise each time: augmentation
is what Touvron et al. 2021, "Training data-efficient image transformers", found to matter most.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from hybrid_core.models.tasks.digits import DIGIT_LEVELS, HELD_OUT_DIGITS_SHA256, DigitsTask
from hybrid_core.models.training.base import Say, Training, TrainingOptions, make_optimizers
from hybrid_core.models.training.convnet import split_digits
from hybrid_core.models.vit import SHAPES, VisionTransformer

DEFAULT_MINUTES = 11.0
BATCH = 64
LEARNING_RATE = 2e-3
LABEL_SMOOTHING = 0.1
MAX_TURN = math.radians(15)
MAX_SHIFT = 0.2  # of half the image: 0.8 of a pixel
MAX_STRETCH = 0.15
MAX_SHEAR = 0.2
NOISE = 0.05


def train(options: TrainingOptions, say: Say = tqdm.write) -> dict[str, Any]:
    """Train, publish a usable checkpoint every few minutes, and return the facts of the last one."""
    torch.manual_seed(options.seed)
    (images, labels), _ = split_digits()
    inputs, targets = images.float().unsqueeze(1) / DIGIT_LEVELS, labels.long()
    model = VisionTransformer(SHAPES["tiny"])
    matrices = [p for p in model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    training = Training(model, make_optimizers(matrices, rest, LEARNING_RATE), LEARNING_RATE, options.seed)

    def loss_of(share: float) -> Tensor:
        del share
        picked = torch.randint(len(targets), (BATCH,), generator=training.generator)
        logits = model(changed(inputs[picked], training.generator))
        return F.cross_entropy(logits, targets[picked], label_smoothing=LABEL_SMOOTHING)

    facts = {
        "images": len(labels),
        "training_data": "scikit-learn digits, held-out images left out",
        "held_out_sha256": HELD_OUT_DIGITS_SHA256,
    }
    return training.run(
        options,
        loss_of,
        lambda: training.publish(options, lambda: VisionTransformer(SHAPES["tiny"]), DigitsTask(), facts, say),
        say,
    )


def changed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned, sheared, stretched and moved a little, with noise; what comes in at the border is paper."""
    count = len(images)

    def up_to(limit: float) -> Tensor:
        return (2 * torch.rand(count, generator=generator) - 1) * limit

    turn, shear, wide, high = up_to(MAX_TURN), up_to(MAX_SHEAR), 1 + up_to(MAX_STRETCH), 1 + up_to(MAX_STRETCH)
    matrix = torch.stack(
        (
            torch.stack((wide * turn.cos(), shear - turn.sin(), up_to(MAX_SHIFT)), dim=1),
            torch.stack((turn.sin(), high * turn.cos(), up_to(MAX_SHIFT)), dim=1),
        ),
        dim=1,
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    return (moved + NOISE * torch.randn(moved.shape, generator=generator)).clamp(0, 1)
