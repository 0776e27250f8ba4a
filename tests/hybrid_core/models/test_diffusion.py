"""The schedule and the sampler against closed forms: no network is needed to know where a perfect one must arrive."""

from __future__ import annotations

import math

import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.models.drawing.diffusion import (
    PADDING,
    START,
    add_noise,
    empty_prompts,
    guide,
    sample,
    signal_and_noise,
    step_back,
)

TOKENS = torch.tensor([[START, 97, PADDING], [START, 98, PADDING]])


def noise(count=2, seed=0, side=4):
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


def test_schedule_keeps_the_variance_and_alpha_bar_has_its_closed_form():
    time = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = signal_and_noise(time)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(time))
    torch.testing.assert_close(alpha**2, (1 + torch.cos(math.pi * time)) / 2)
    assert alpha[0] == 1 and sigma[0] == 0
    assert abs(alpha[-1]) < 1e-12 and sigma[-1] == 1


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_noised_images_have_the_mean_and_variance_of_the_forward_process(time):
    image = torch.full((20_000, 1, 1, 1), 0.6, dtype=torch.float64)
    drawn = torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noisy, _ = add_noise(image, drawn, torch.full((len(image),), time, dtype=torch.float64))
    alpha_bar = (1 + math.cos(math.pi * time)) / 2
    deviation = math.sqrt(1 - alpha_bar)
    assert noisy.mean().item() == pytest.approx(0.6 * math.sqrt(alpha_bar), abs=5 * deviation / math.sqrt(len(image)))
    assert noisy.var().item() == pytest.approx(1 - alpha_bar, rel=0.05)


def test_velocity_is_the_derivative_of_the_noisy_image_by_the_angle():
    image, drawn = noise(3, 1).double(), noise(3, 2).double()
    time, small = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64), 1e-6
    later, earlier = (add_noise(image, drawn, time + s)[0] for s in (small, -small))
    slope = (later - earlier) / (2 * small * math.pi / 2)
    torch.testing.assert_close(add_noise(image, drawn, time)[1], slope, rtol=1e-6, atol=1e-6)


def test_a_step_is_the_published_one_of_ddim():
    """Equation 12 of Song et al. 2021 with sigma = 0, written with alpha-bar and the noise that v stands for."""
    image, drawn = noise(2, 3).double().clamp(-0.9, 0.9), noise(2, 4).double()
    now, then = 0.7, 0.4
    noisy, velocity = add_noise(image, drawn, torch.full((2,), now, dtype=torch.float64))
    bar_now, bar_then = ((1 + math.cos(math.pi * t)) / 2 for t in (now, then))
    predicted_noise = math.sqrt(1 - bar_now) * noisy + math.sqrt(bar_now) * velocity
    clean = (noisy - math.sqrt(1 - bar_now) * predicted_noise) / math.sqrt(bar_now)
    expected = math.sqrt(bar_then) * clean + math.sqrt(1 - bar_then) * predicted_noise
    seen, stepped = step_back(noisy, velocity, now, then)
    torch.testing.assert_close(seen, image)
    torch.testing.assert_close(stepped, expected)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_an_oracle_leads_any_noise_to_its_image(steps):
    image = noise(2, 5).clamp(-1, 1)

    def oracle(noisy, time, prompts):
        alpha, sigma = (part.view(-1, 1, 1, 1) for part in signal_and_noise(time))
        return (alpha * noisy - torch.cat((image, image))) / sigma

    torch.testing.assert_close(sample(oracle, TOKENS, noise(2, 6), steps, 3.0), image, rtol=0, atol=1e-5)


def test_the_best_denoiser_of_normal_data_leads_to_the_known_quantiles_and_more_steps_come_closer():
    """Pixels that are normal(m, s): the optimal prediction is linear, and the path from e ends at m + s e."""
    mean, deviation = 0.1, 0.2

    def best(noisy, time, prompts):
        alpha, sigma = (part.view(-1, 1, 1, 1) for part in signal_and_noise(time))
        share = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
        image = mean + share * (noisy - alpha * mean)
        return (alpha * noisy - image) / sigma

    start = noise(2, 7).double()
    expected = mean + deviation * start
    errors = [(sample(best, TOKENS, start, steps, 1.0) - expected).abs().max().item() for steps in (10, 100, 1000)]
    # DDIM is a method of first order: ten times the steps, a tenth of the error.
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.2)
    assert errors[2] < 0.01 * deviation


def test_images_are_clipped_whatever_the_model_says():
    images = sample(lambda noisy, time, prompts: 100 * noisy, TOKENS, noise(), 4, 2.0)
    assert images.abs().max() == 1
    assert images.isfinite().all()


def test_guidance_one_is_the_prompt_alone_and_zero_is_no_prompt():
    def reads_prompt(noisy, time, prompts):
        return noisy * 0.3 + (prompts[:, 1] - 97).to(noisy.dtype).view(-1, 1, 1, 1) * time.view(-1, 1, 1, 1) / 100

    def plain(tokens):
        noisy = noise()
        for step in (4, 3, 2, 1):
            velocity = reads_prompt(noisy, torch.full((2,), step / 4), tokens)
            image, noisy = step_back(noisy, velocity, step / 4, (step - 1) / 4)
        return image

    torch.testing.assert_close(sample(reads_prompt, TOKENS, noise(), 4, 1.0), plain(TOKENS))
    torch.testing.assert_close(sample(reads_prompt, TOKENS, noise(), 4, 0.0), plain(empty_prompts(TOKENS)))
    assert not torch.allclose(plain(TOKENS), plain(empty_prompts(TOKENS)))


def test_guidance_goes_beyond_the_prompt_by_the_published_sum():
    prompted, unprompted, weight = noise(seed=8), noise(seed=9), 1.5
    torch.testing.assert_close(guide(prompted, unprompted, 1 + weight), (1 + weight) * prompted - weight * unprompted)


def test_every_call_has_the_same_shapes():
    shapes = []

    def record(*inputs):
        shapes.append(tuple(tuple(x.shape) for x in inputs))
        return inputs[0]

    sample(record, TOKENS, noise(), 5, 2.0)
    assert shapes == [((4, 1, 4, 4), (4,), (4, 3))] * 5


def test_sampling_leaves_prompts_and_noise_as_they_were():
    tokens, start = TOKENS.clone(), noise()
    sample(lambda noisy, time, prompts: noisy, tokens, start, 3, 2.0)
    assert torch.equal(tokens, TOKENS) and torch.equal(start, noise())


@pytest.mark.parametrize(("steps", "rows"), [(0, 2), (-3, 2), (4, 1)])
def test_no_steps_or_another_number_of_start_images_is_refused(steps, rows):
    with pytest.raises(InvalidInput, match=f"steps={steps} for 2 prompts and {rows} start images"):
        sample(lambda noisy, time, prompts: noisy, TOKENS, noise(rows), steps, 2.0)
