"""Turning noise into an image: the schedule, what a denoiser is trained to say, and the sampler.

An image x is mixed with normal noise e as z_t = alpha_t x + sigma_t e, from t = 0 (the image) to t = 1 (noise alone); a
denoiser that undoes this can be walked backwards from noise to a new image. The walk here is deterministic, so equal
start noise and equal prompts give equal images, and it needs few steps. Two models can thus be compared image by image.

Sources: forward process and image clipping, Ho et al. 2020 (arXiv 2006.11239); cosine schedule, Nichol and Dhariwal
2021 (arXiv 2102.09672) without its offset; deterministic steps (DDIM), Song et al. 2021 (arXiv 2010.02502); prediction
of the velocity v, Salimans and Ho 2022 (arXiv 2202.00512); guidance without a classifier, Ho and Salimans 2022
(arXiv 2207.12598).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hybrid_core.errors import InvalidInput

STEPS, GUIDANCE = 8, 2.0
"""How images are drawn unless somebody says otherwise."""
PADDING, START = 0, 2
"""Tokens of every prompt: it begins with START (the byte "start of text") and is filled up with PADDING."""


def signal_and_noise(time: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t = cos(pi t / 2) and sigma_t = sin(pi t / 2), so that alpha^2 + sigma^2 = 1: the variance is preserved.

    The product of the discrete process, alpha-bar_t, is alpha_t^2 = (1 + cos(pi t)) / 2.
    """
    angle = time * (math.pi / 2)
    return torch.cos(angle), torch.sin(angle)


def add_noise(images: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """z_t = alpha x + sigma e and the velocity v = alpha e - sigma x that a denoiser is trained to predict.

    Images and noise are (batch, channels, height, width), time is (batch,) between 0 and 1.
    """
    alpha, sigma = (part.view(-1, 1, 1, 1) for part in signal_and_noise(time))
    return alpha * images + sigma * noise, alpha * noise - sigma * images


def sample(
    model: Callable[[Tensor, Tensor, Tensor], Tensor], prompts: Tensor, noise: Tensor, steps: int, guidance: float
) -> Tensor:
    """Images (batch, channels, height, width) between -1 and 1 from start noise of that shape; deterministic.

    `model(noisy, time, prompts)` predicts v. It is called `steps` times on both halves of a doubled batch, the
    prompts (batch, length) and as many empty ones, so every call has the same shapes whatever stands in its place.

    Raises:
        InvalidInput: fewer than one step, or more noise than prompts.
    """
    if steps < 1 or len(prompts) != len(noise):
        raise InvalidInput(
            f"steps={steps} for {len(prompts)} prompts and {len(noise)} start images is not allowed; take at least 1 "
            "step and one start image per prompt"
        )
    both = torch.cat((prompts, empty_prompts(prompts)))
    noisy = noise
    image = noise
    for step in range(steps, 0, -1):
        time = torch.full((len(both),), step / steps, dtype=noise.dtype, device=noise.device)
        prompted, unprompted = model(torch.cat((noisy, noisy)), time, both).to(noise.dtype).chunk(2)
        velocity = guide(prompted, unprompted, guidance)
        image, noisy = step_back(noisy, velocity, step / steps, (step - 1) / steps)
    return image


def guide(prompted: Tensor, unprompted: Tensor, guidance: float) -> Tensor:
    """The sum u + g (p - u): g = 1 is the prompted prediction, g = 0 the unprompted one, g > 1 overdoes it.

    The sources write (1 + w) p - w u, which is g = 1 + w.
    """
    return unprompted + guidance * (prompted - unprompted)


def step_back(noisy: Tensor, velocity: Tensor, now: float, then: float) -> tuple[Tensor, Tensor]:
    """The image seen from time `now`, x = alpha z - sigma v clipped to [-1, 1], and z at the earlier time `then`.

    The noise e = (z - alpha x) / sigma that belongs to the clipped image is kept and mixed in again: a step of DDIM
    with eta = 0.
    """
    alpha, sigma = math.cos(now * math.pi / 2), math.sin(now * math.pi / 2)
    image = (alpha * noisy - sigma * velocity).clamp(-1, 1)
    noise = (noisy - alpha * image) / sigma
    return image, math.cos(then * math.pi / 2) * image + math.sin(then * math.pi / 2) * noise


def empty_prompts(prompts: Tensor) -> Tensor:
    """As many prompts that say nothing, START and padding, of the same shape (batch, length)."""
    nothing = torch.full_like(prompts, PADDING)
    nothing[:, 0] = START
    return nothing
