"""The trained generator, its task and its judge: does the prompt decide what is drawn, and is that counted honestly?"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.checkpoints import read_facts
from hybrid_core.models.drawing.diffusion import GUIDANCE, STEPS, empty_prompts, sample
from hybrid_core.models.drawing.prompts import WORDS, encode
from hybrid_core.models.ia_generative import SHAPES, GenerativeEntry, TextToImage, draw
from hybrid_core.models.quality import task_quality
from hybrid_core.models.tasks.digits import held_out_digits
from hybrid_core.models.tasks.prompted_digits import (
    ROWS,
    PromptedDigitsTask,
    judge_logits,
    mean_distance,
    real_distance,
)

ENTRY = GenerativeEntry()


@pytest.fixture(scope="module")
def model():
    return ENTRY.build("tiny", 0)


def start_noise(count, seed):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


class Painter(nn.Module):
    """A perfect denoiser that paints real held-out digits: another one in each row, or always the same."""

    def __init__(self, digit_of, moves):
        super().__init__()
        images, labels = held_out_digits()
        self.kinds = torch.stack([images[labels == digit][:8] for digit in range(10)]) * 2 - 1
        self.digit_of, self.moves = digit_of, moves

    def forward(self, noisy, time, prompts):
        said = prompts[: len(prompts) // 2]
        digits = [self.digit_of(bytes(row[row > 2].tolist()).decode()) for row in said]
        copies = [row % 8 if self.moves else 0 for row in range(len(said))]
        # The unprompted half paints the same, so guidance has nothing to exaggerate.
        wanted = self.kinds[digits, copies].repeat(2, 1, 1, 1)
        angle = (time * math.pi / 2).view(-1, 1, 1, 1)
        return (angle.cos() * noisy - wanted) / angle.sin()


def named(prompt):
    return next((digit for digit in range(10) if WORDS[digit] in prompt or str(digit) in prompt), 0)


def test_trained_model_draws_what_held_out_prompts_ask_for(model):
    quality = task_quality(model, PromptedDigitsTask(), rows=64)
    assert quality["samples"] == 64
    assert quality["value"] > 0.9
    assert quality["low"] > 0.8
    assert 0.5 < quality["rates"]["diversity"] < 1.5


def test_stored_quality_is_of_all_rows_and_well_above_the_trivial_one():
    quality = read_facts(ENTRY.trained_weights())["quality"]
    assert quality["samples"] == ROWS >= 512
    assert quality["trivial"] == 0.1
    assert quality["low"] >= 0.9


def test_another_prompt_makes_another_digit_of_the_same_noise(model):
    noise = start_noise(1, 3).expand(10, 1, 8, 8)
    tokens = encode([f"please draw the number {word}" for word in WORDS], 48)
    drawn = judge_logits(sample(model, tokens, noise, STEPS, GUIDANCE)).argmax(-1)
    assert (drawn == torch.arange(10)).sum() >= 9


def test_other_noise_makes_another_drawing_of_the_same_digit(model):
    images = sample(model, encode(["a three"] * 6, 48), start_noise(6, 4), STEPS, GUIDANCE)
    assert (judge_logits(images).argmax(-1) == 3).sum() >= 5
    assert torch.pdist(images.flatten(1)).min() > 0.5


def test_without_a_prompt_the_digits_vary(model):
    noise = start_noise(32, 5)
    nothing = empty_prompts(torch.zeros(32, 48, dtype=torch.int64))
    kinds = judge_logits(sample(model, nothing, noise, STEPS, 1.0)).argmax(-1)
    assert len(kinds.unique()) >= 4


def test_judge_is_the_network_that_reads_real_digits():
    images, labels = held_out_digits()
    right = judge_logits(images * 2 - 1).argmax(-1) == labels
    assert right.double().mean() > 0.99


def test_a_perfect_painter_scores_as_the_judge_reads_and_a_deaf_one_is_trivial():
    task = PromptedDigitsTask()
    assert task_quality(Painter(named, moves=True), task, rows=160)["value"] > 0.97
    deaf = task_quality(Painter(lambda prompt: 7, moves=True), task, rows=160)
    assert deaf["value"] == pytest.approx(task.trivial_score())


def test_mode_collapse_is_seen_in_the_diversity():
    task = PromptedDigitsTask()
    assert task.rates(Painter(named, moves=False))["diversity"] < 1e-3
    assert task.rates(Painter(named, moves=True))["diversity"] == pytest.approx(1, abs=0.2)


def test_mean_distance_is_the_mean_over_all_pairs():
    images = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]])
    assert mean_distance(images) == pytest.approx((5 + 4 + 3) / 3 / math.sqrt(2))
    assert 0.1 < real_distance() < 0.5


def test_rows_ask_for_every_digit_alike_and_none_twice_in_the_same_words():
    batches = list(PromptedDigitsTask().batches(10**9))
    prompts = torch.cat([inputs[0] for inputs, _ in batches])
    digits = torch.cat([targets for _, targets in batches])
    assert len(digits) == ROWS
    assert torch.bincount(digits).tolist() == [ROWS // 10] * 10
    for row, digit in zip(prompts.tolist(), digits.tolist(), strict=True):
        assert named(bytes(b for b in row if b > 2).decode()) == digit
    noise = torch.cat([inputs[1] for inputs, _ in batches])
    assert noise.mean().abs() < 0.05 and noise.std() == pytest.approx(1, abs=0.05)


def test_drawing_is_an_image_and_the_seed_decides(model):
    image = draw(model, "a Seven", seed=1)
    assert image.shape == (8, 8) and image.min() >= 0 and image.max() <= 1
    assert torch.equal(image, draw(model, "a seven", seed=1))
    assert not torch.equal(image, draw(model, "a seven", seed=2))
    torch.manual_seed(99)
    before = torch.get_rng_state()
    draw(model, "any text within the limit, même ainsi ✎", steps=2, guidance=-1.0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": 3}, "type int"),
        ({"prompt": "x" * 100}, "100 bytes"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 5000}, "steps=5000"),
        ({"guidance": math.nan}, "guidance=nan"),
        ({"guidance": math.inf}, "guidance=inf"),
        ({"size": "huge"}, "'huge'"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_its_reason(model, given, reason):
    with pytest.raises(InvalidInput, match=reason):
        draw(model, **{"prompt": "a seven", **given})


def test_a_replaced_model_is_asked_by_its_call_alone(model):
    """An optimized model only promises to answer the call, so nothing may reach for its parts."""

    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = [inner]

        def forward(self, noisy, time, prompts):
            return self.inner[0](noisy, time, prompts)

    workload = ENTRY.workloads("tiny")[0]
    inputs = ENTRY.make_inputs("tiny", workload, torch.Generator().manual_seed(0))
    assert torch.equal(ENTRY.call(Wrapped(model), workload, inputs), ENTRY.call(model, workload, inputs))
    assert torch.equal(draw(Wrapped(model), "two"), draw(model, "two"))


def test_sampling_workload_makes_all_its_steps_on_both_halves(model):
    workload = ENTRY.workloads("tiny")[0]
    assert (workload.kind, workload.length) == ("sample", STEPS)
    calls = []
    handle = model.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    try:
        ENTRY.call(model, workload, ENTRY.make_inputs("tiny", workload, torch.Generator().manual_seed(0)))
    finally:
        handle.remove()
    assert calls == [2 * workload.batch] * STEPS


def test_colour_sizes_draw_images_of_their_size():
    torch.manual_seed(0)
    small = TextToImage(SHAPES["small"]).eval()
    assert draw(small, "a seven", steps=1, size="small").shape == (3, 32, 32)
