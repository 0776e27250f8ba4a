"""Trains the `tiny` digits network and writes the held-out images that judge it.

scikit-learn's digits are 1,797 images of 8x8 from NIST forms (Alpaydin and Kaynak 1998). scikit-learn is needed here
only: the 608 held-out images are stored in the package. The split is a permutation with a fixed seed of its own, so
another training seed is judged on the same images.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from hybrid_core.models.checkpoints import load_weights, save_weights, write_tensors
from hybrid_core.models.convnet import SHAPES, ConvNet
from hybrid_core.models.quality import task_quality
from hybrid_core.models.tasks.digits import DIGIT_LEVELS, HELD_OUT_DIGITS, HELD_OUT_DIGITS_SHA256, DigitsTask
from hybrid_core.models.training.base import Say, TrainingOptions, describe, learning_rate_share, set_learning_rate

DEFAULT_MINUTES = 2.0
EPOCHS = 60
BATCH = 64
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.05
HELD_OUT_IMAGES = 608  # 19 batches of 32
SPLIT_SEED = 1998


def split_digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(training images, labels), (held-out images, labels); images uint8 (n, 8, 8), labels uint8."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = torch.from_numpy(data.images).to(torch.uint8), torch.from_numpy(data.target).to(torch.uint8)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out, training = order[:HELD_OUT_IMAGES], order[HELD_OUT_IMAGES:]
    return (images[training], labels[training]), (images[held_out], labels[held_out])


def write_held_out_digits(path: Path = HELD_OUT_DIGITS) -> None:
    """Store the held-out images; done once, the file's hash is part of the released task."""
    _, (images, labels) = split_digits()
    write_tensors(
        {"images": images, "labels": labels}, path, {"source": "scikit-learn load_digits", "split": SPLIT_SEED}
    )


def train(options: TrainingOptions, say: Say = tqdm.write) -> dict[str, Any]:
    """Train, save and return the facts of the checkpoint; two minutes long, so it starts anew instead of resuming."""
    torch.manual_seed(options.seed)
    (images, labels), _ = split_digits()
    inputs, targets = images.float().unsqueeze(1) / DIGIT_LEVELS, labels.long()
    model = ConvNet(SHAPES["tiny"])
    epochs, seconds = _fit(model, inputs, targets, options)
    unjudged = options.output.with_suffix(".unjudged")
    save_weights(model, unjudged, {})
    stored = ConvNet(SHAPES["tiny"])
    load_weights(stored, unjudged)
    unjudged.unlink()
    quality = task_quality(stored.eval(), DigitsTask())
    facts = {
        "quality": quality,
        "epochs": epochs,
        "images": len(labels),
        "seed": options.seed,
        "training_data": "scikit-learn digits, held-out images left out",
        "held_out_sha256": HELD_OUT_DIGITS_SHA256,
    }
    save_weights(model, options.output, facts)
    say(describe(quality, f"after {seconds:.0f} s, {epochs} epochs"))
    return facts


def _fit(model: nn.Module, inputs: Tensor, targets: Tensor, options: TrainingOptions) -> tuple[int, float]:
    """Ends after `EPOCHS`, or earlier when the minutes are spent."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(options.seed)
    started = time.monotonic()
    with tqdm(range(EPOCHS), unit="epoch") as bar:
        for epoch in bar:
            if time.monotonic() - started > options.minutes * 60:
                return epoch, time.monotonic() - started
            set_learning_rate([optimizer], LEARNING_RATE * learning_rate_share(epoch / EPOCHS))
            for picked in torch.randperm(len(targets), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
                loss = F.cross_entropy(
                    model(_shifted(inputs[picked], generator)), targets[picked], label_smoothing=0.05
                )
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
            bar.set_postfix_str(f"loss {loss.item():.3f}")
    return EPOCHS, time.monotonic() - started


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each batch moved by up to one pixel, the border filled with paper: a digit stays the same digit."""
    down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
    padded = F.pad(images, (1, 1, 1, 1))
    return padded[:, :, 1 + down : 9 + down, 1 + right : 9 + right]
