"""Text to image by diffusion: a transformer reads the prompt's bytes, a U-Net takes the noise away step by step.

`tiny` draws handwritten digits of 8x8 pixels and is trained on scikit-learn's; its drawings are judged by another
network that has never seen them. `small` has random weights and is for speed and memory; `full` has the widths of the
image generator in the document this project comes from. Everything is behind `forward(noisy, time, prompts)`,
the text encoder too, so that whatever replaces the model answers the same call; `diffusion.sample` makes the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.base import RegistryEntry, Task, check_size
from hybrid_core.models.checkpoints import CHECKPOINTS
from hybrid_core.models.drawing.diffusion import GUIDANCE, PADDING, STEPS, sample
from hybrid_core.models.drawing.prompts import encode, random_prompts
from hybrid_core.models.drawing.unet import FeedForward, MultiHeadAttention, UNet, UNetShape
from hybrid_core.models.tasks.prompted_digits import PromptedDigitsTask
from hybrid_core.records import Workload

BYTES = 256
MASKED = -1e4
"""What is added to the score of padding: zero after softmax, and float16 still holds it."""
MAX_STEPS, MAX_GUIDANCE = 1000, 100.0


@dataclass(frozen=True)
class TextShape:
    """The dimensions of the text encoder; `length` counts START and the bytes of the longest prompt."""

    dim: int
    layers: int
    head_dim: int
    length: int = 48

    @property
    def parameters(self) -> int:
        """The count in closed form: per layer four matrices of attention, eight of the feed-forward, two norms."""
        layer = 12 * self.dim**2 + 5 * self.dim + 4 * self.dim
        return (BYTES + self.length) * self.dim + self.layers * layer + 2 * self.dim


@dataclass(frozen=True)
class GeneratorShape:
    """One size."""

    text: TextShape
    image: UNetShape

    @property
    def parameters(self) -> int:
        """The count in closed form."""
        return self.text.parameters + self.image.parameters


def _shape(text: TextShape, **image: Any) -> GeneratorShape:
    return GeneratorShape(text, UNetShape(text_dim=text.dim, **image))


SHAPES = {
    "tiny": _shape(
        TextShape(dim=64, layers=2, head_dim=16),
        image=8, channels=1, widths=(48, 64), blocks=1, attended=(0, 1), head_dim=16, groups=8,
    ),
    "small": _shape(
        TextShape(dim=384, layers=6, head_dim=64),
        image=32, channels=3, widths=(128, 256, 384), blocks=2, attended=(1, 2), head_dim=64, groups=32,
    ),
    # Widths and blocks of the document's generator; it has no text, so the encoder's size is our choice.
    "full": _shape(
        TextShape(dim=768, layers=12, head_dim=64, length=128),
        image=64, channels=3, widths=(320, 640, 1280, 1280), blocks=2, attended=(1, 2, 3), head_dim=64, groups=32,
    ),
}  # fmt: skip


class TextLayer(nn.Module):
    """Pre-norm attention over the prompt and pre-norm feed-forward, each added to the residual stream."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, dim, head_dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, 4 * dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, length, dim) to the same; the mask is additive, (batch, 1, 1, length)."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed, mask)
        lifted: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return lifted


class TextEncoder(nn.Module):
    """Every byte of the prompt, told about the others; unlike in a decoder each sees both sides."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES, shape.dim)
        self.position = nn.Embedding(shape.length, shape.dim)
        self.layers = nn.ModuleList(TextLayer(shape.dim, shape.head_dim) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.dim)

    def forward(self, prompts: Tensor, mask: Tensor) -> Tensor:
        """Tokens (batch, length) int64 to (batch, length, dim)."""
        x = self.embedding(prompts) + self.position.weight[: prompts.shape[1]]
        for layer in self.layers:
            x = layer(x, mask)
        normed: Tensor = self.norm(x)
        return normed


class TextToImage(nn.Module):
    """Predicts from a noisy image, its time and a prompt the velocity of `diffusion.add_noise`."""

    def __init__(self, shape: GeneratorShape) -> None:
        super().__init__()
        self.shape = shape
        self.text = TextEncoder(shape.text)
        self.image = UNet(shape.image)

    def forward(self, noisy: Tensor, time: Tensor, prompts: Tensor) -> Tensor:
        """(batch, channels, image, image), (batch,) in [0, 1] and tokens (batch, length) int64 to the image's shape."""
        mask = padding_mask(prompts, noisy.dtype)
        predicted: Tensor = self.image(noisy, time, self.text(prompts, mask), mask)
        return predicted


def padding_mask(prompts: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of tokens (batch, length): (batch, 1, 1, length)."""
    return (prompts == PADDING)[:, None, None, :].to(dtype) * MASKED


def draw(
    model: nn.Module, prompt: str, seed: int = 0, steps: int = STEPS, guidance: float = GUIDANCE, size: str = "tiny"
) -> Tensor:
    """One image (height, width), or (channels, height, width) if it has colours, in [0, 1]: 1 is ink.

    `model` is the `TextToImage` of this size, or whatever an optimization made of it.

    Raises:
        InvalidInput: the prompt is no text, empty or too long; steps outside 1 to 1000; guidance outside -100 to 100.
    """
    check_size(GenerativeEntry.name, GenerativeEntry.sizes, size)
    if not 1 <= steps <= MAX_STEPS:
        raise InvalidInput(f"steps={steps} is not allowed; take 1 to {MAX_STEPS}")
    if not -MAX_GUIDANCE <= guidance <= MAX_GUIDANCE:
        raise InvalidInput(
            f"guidance={guidance} is not allowed; take -{MAX_GUIDANCE:g} to {MAX_GUIDANCE:g}, where 1 is the prompt as "
            "it is"
        )
    shape = SHAPES[size]
    tokens, noise = encode([prompt], shape.text.length), start_noise(shape, 1, torch.Generator().manual_seed(seed))
    place = next((p.device for p in model.parameters()), noise.device)
    with torch.no_grad():
        image = sample(model, tokens.to(place), noise.to(place), steps, guidance)[0]
    return ((image + 1) / 2).squeeze(0)


def start_noise(shape: GeneratorShape, batch: int, generator: torch.Generator) -> Tensor:
    """Normal noise (batch, channels, image, image)."""
    side = shape.image.image
    return torch.randn(batch, shape.image.channels, side, side, generator=generator)


class GenerativeEntry(RegistryEntry):
    """The registry's entry."""

    name = "ia_generative"
    family = "diffusion"
    title = "Text to image by diffusion"
    description = (
        "Draws an image from a prompt: a transformer over the prompt's bytes, a U-Net with cross-attention to them, "
        "and deterministic sampling with guidance. The tiny size draws handwritten digits and is trained."
    )
    architecture = (
        "Pre-norm transformer encoder over bytes; U-Net of residual blocks (convolution, group normalisation, SiLU) "
        "with self-attention and cross-attention to the text; velocity prediction, cosine schedule, DDIM, "
        "classifier-free guidance."
    )
    sources = (
        "Ho et al. 2020, arXiv 2006.11239",
        "Song et al. 2021, arXiv 2010.02502",
        "Ho and Salimans 2022, arXiv 2207.12598",
        "Salimans and Ho 2022, arXiv 2202.00512",
        "Rombach et al. 2022, arXiv 2112.10752",
    )
    checkpoint = CHECKPOINTS / "ia_generative-tiny.safetensors"

    def make(self, size: str) -> nn.Module:
        """See `RegistryEntry.make`."""
        return TextToImage(SHAPES[size])

    def parameters(self, size: str) -> int:
        """See `RegistryEntry.parameters`."""
        return SHAPES[size].parameters

    def workloads(self, size: str) -> tuple[Workload, ...]:
        """A few images from start to end, and one call of the denoiser."""
        check_size(self.name, self.sizes, size)
        batch, steps = {"tiny": (4, STEPS), "small": (1, 2), "full": (1, 2)}[size]
        return (
            Workload("sample", "sample", batch=batch, length=steps),
            Workload("forward", "forward", batch=32 if size == "tiny" else batch),
        )

    def make_inputs(self, size: str, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """`sample`: (tokens, start noise). `forward`: (noisy, time, tokens). Prompts are random ones of the grammar."""
        check_size(self.name, self.sizes, size)
        shape, batch = SHAPES[size], workload.batch
        digits = torch.randint(10, (batch,), generator=generator)
        tokens = encode(random_prompts(digits, generator), shape.text.length)
        noise = start_noise(shape, batch, generator)
        return (tokens, noise) if workload.kind == "sample" else (noise, torch.rand(batch, generator=generator), tokens)

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor:
        """Images (batch, channels, image, image) in [-1, 1], or one prediction of that shape."""
        if workload.kind == "sample":
            tokens, noise = inputs
            return sample(model, tokens, noise, workload.length, GUIDANCE)
        predicted: Tensor = model(*inputs)
        return predicted

    def trained_task(self) -> Task:
        """Whether another network sees the digit that the prompt asked for."""
        return PromptedDigitsTask()

    def limits(self, size: str) -> list[str]:
        """See `RegistryEntry.limits`."""
        check_size(self.name, self.sizes, size)
        if size == "tiny":
            return [
                "draws single digits of 8x8 grey pixels and nothing else: a prompt without a digit gives some digit",
                "the judge is a network that reads 99.7 % of real digits; it does not see how natural a drawing looks",
                "the text is encoded again in each step, because a replaced model only promises to answer one call",
            ]
        return ["random weights: for speed and memory only, its images mean nothing"]

    def card(self, size: str) -> dict[str, Any]:
        """The image, the prompt, the sampler, and what the document says about its own generator."""
        check_size(self.name, self.sizes, size)
        shape = SHAPES[size]
        facts: dict[str, Any] = {
            "image": [shape.image.channels, shape.image.image, shape.image.image],
            "prompt_bytes": shape.text.length - 1,
            "steps": self.workloads(size)[0].length,
            "guidance": GUIDANCE,
        }
        return facts if size != "full" else {**facts, "remark": DOCUMENT_REMARK}


DOCUMENT_REMARK = (
    "no such model was published: the document's generator with these widths has 634.8 million parameters, but it took "
    "no text and its sampling raised an error, so this is our own network of the same widths"
)
