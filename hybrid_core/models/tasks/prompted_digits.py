"""Draw the digit that a prompt asks for: a network that reads digits judges whether it can be seen.

The prompts are phrasings that no training prompt has, the start noise of every row is fixed, and the judge is the
shipped `convnet`, trained apart for another purpose. A model that draws one perfect seven again and again would please
it, so the spread of the drawings of equal prompts is reported beside the score. Classifier accuracy of generated images
as a measure: Ravuri and Vinyals 2019 (arXiv 1905.10887), turned around.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybrid_core.models.convnet import ConvNetEntry
from hybrid_core.models.drawing.diffusion import GUIDANCE, STEPS, sample
from hybrid_core.models.drawing.prompts import encode, held_out, phrase
from hybrid_core.models.tasks.base import ClassesTask, spread, whole_rows
from hybrid_core.models.tasks.digits import held_out_digits

ROWS = 560
DRAWN_PER_PROMPT = 8
NOISE_SEED = 2006
SIDE, PROMPT_LENGTH = 8, 48


@dataclass(frozen=True)
class PromptedDigitsTask(ClassesTask):
    """Logits of the judge on images drawn from held-out prompts."""

    batch: int = 16
    steps: int = STEPS
    guidance: float = GUIDANCE
    metric: str = "prompted digit drawn"
    unit: str = "image"
    bits_per: str | None = None

    def batches(self, rows: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """(tokens (batch, 48), start noise (batch, 1, 8, 8)) and digits (batch,)."""
        tokens, noise, digits = _rows()
        for start in range(0, whole_rows(rows, self.batch, ROWS), self.batch):
            row = slice(start, start + self.batch)
            yield (tokens[row], noise[row]), digits[row]

    def answer(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Draw a batch and let the judge read it: (batch, 10)."""
        tokens, noise = inputs
        return judge_logits(sample(model, tokens, noise, self.steps, self.guidance))

    def rates(self, model: nn.Module) -> dict[str, float]:
        """How far apart drawings of one prompt are, as a share of the same for real digits: near 0 is mode collapse."""
        noise = _noise(2 * DRAWN_PER_PROMPT, NOISE_SEED + 1)
        place = next((p.device for p in model.parameters()), noise.device)
        distances = []
        for digit in range(0, 10, 2):
            prompts = [f"a {digit}"] * DRAWN_PER_PROMPT + [f"a {digit + 1}"] * DRAWN_PER_PROMPT
            tokens = encode(prompts, PROMPT_LENGTH)
            images = sample(model, tokens.to(place), noise.to(place), self.steps, self.guidance)
            distances += [mean_distance((drawn + 1) / 2) for drawn in images.chunk(2)]
        return {"diversity": sum(distances) / len(distances) / real_distance()}

    def trivial_score(self) -> float:
        """Always drawing the most frequent digit."""
        digits = _rows()[2]
        return float(torch.bincount(digits).max()) / len(digits)


@functools.cache
def _rows() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, start noise and digits of all rows; any ten rows in a row ask for ten different digits."""
    phrasings = held_out()
    order = spread(len(phrasings))
    digits = torch.arange(ROWS) % 10
    prompts = [
        phrase(phrasings[order[row % len(order)]], digit, as_word=row // 10 % 2 == 0)
        for row, digit in enumerate(digits.tolist())
    ]
    return encode(prompts, PROMPT_LENGTH), _noise(ROWS, NOISE_SEED), digits


def _noise(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@functools.cache
def _judge(device: str) -> nn.Module:
    # Made outside inference mode: tensors born inside it stay unusable for anything but inference.
    with torch.inference_mode(False):
        return ConvNetEntry().build("tiny", 0).to(device)


def judge_logits(images: Tensor) -> Tensor:
    """What the shipped digits network sees on images (n, 1, 8, 8) in [-1, 1]: logits (n, 10)."""
    logits: Tensor = _judge(str(images.device))((images.float() + 1) / 2)
    return logits


def mean_distance(images: Tensor) -> float:
    """The mean root mean square difference over all pairs of images (n, ...), n at least 2."""
    flat = images.float().flatten(1)
    return float(torch.pdist(flat).mean()) / math.sqrt(flat.shape[1])


@functools.cache
def real_distance() -> float:
    """`mean_distance` of the held-out images of each digit, averaged over the digits."""
    images, labels = held_out_digits()
    return sum(mean_distance(images[labels == digit]) for digit in range(10)) / 10
