"""A training of seconds: it sees no held-out image, its mean follows, it goes on where it stopped."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hybrid_core.models.drawing.diffusion import PADDING, START
from hybrid_core.models.drawing.prompts import encode
from hybrid_core.models.ia_generative import SHAPES, TextToImage
from hybrid_core.models.parts.blocks import EagerAttention
from hybrid_core.models.tasks.digits import held_out_digits
from hybrid_core.models.training import ia_generative
from hybrid_core.models.training.ia_generative import (
    AveragedTraining,
    reading_loss,
    replace_attention,
    training_images,
    velocity_loss,
)

pytest.importorskip("sklearn", reason="scikit-learn is in requirements-dev.txt; only training needs it")


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(ia_generative, "BATCH", 8)


def start(seed=0):
    torch.manual_seed(seed)
    mean = TextToImage(SHAPES["tiny"]).requires_grad_(False)
    live = TextToImage(SHAPES["tiny"])
    live.load_state_dict(mean.state_dict())
    parts = nn.ModuleDict({"live": live, "mean": mean, "reader": nn.Linear(SHAPES["tiny"].text.dim, 10)})
    optimizer = torch.optim.AdamW([p for p in parts.parameters() if p.requires_grad], lr=1e-3)
    return AveragedTraining(parts, [optimizer], 1e-3, seed)


def steps(run, count):
    live, reader = run.model.get_submodule("live"), run.model.get_submodule("reader")
    images, labels = training_images()
    for _ in range(count):
        lesson = reading_loss(live.text, reader, run.generator)
        run.step(lesson + velocity_loss(live, images, labels, run.generator), 0.5)


def test_no_held_out_image_is_trained_on():
    images, labels = training_images()
    assert images.min() == -1 and images.max() == 1 and len(images) == len(labels) == 1189
    held_out = {tuple(image.flatten().tolist()) for image in held_out_digits()[0] * 2 - 1}
    assert not held_out & {tuple(image.flatten().tolist()) for image in images}


def test_an_interrupted_training_goes_on_to_the_same_weights_and_mean(tmp_path):
    whole = start()
    steps(whole, 4)
    first = start()
    steps(first, 2)
    first.save(tmp_path / "state.safetensors")
    resumed = start(seed=9)
    resumed.load(tmp_path / "state.safetensors")
    steps(resumed, 2)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_the_mean_lies_between_where_it_was_and_the_live_weights():
    run = start()
    before = run.model.get_submodule("mean").image.stem.weight.clone()
    steps(run, 1)
    live, mean = (run.model.get_submodule(part).image.stem.weight for part in ("live", "mean"))
    keep = 2 / 11
    torch.testing.assert_close(mean, keep * before + (1 - keep) * live.detach())
    assert not torch.equal(mean, before)


def test_reading_lessons_can_be_learned():
    torch.manual_seed(0)
    model, reader = TextToImage(SHAPES["tiny"]), nn.Linear(SHAPES["tiny"].text.dim, 10)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW([*model.text.parameters(), *reader.parameters()], lr=3e-3)
    losses = []
    for _ in range(90):
        loss = reading_loss(model.text, reader, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.75 * sum(losses[:10]) / 10


def test_velocity_loss_is_one_when_nothing_is_predicted_and_zero_for_the_truth():
    """Pixels have a mean square near 1 in [-1, 1] and noise has exactly 1, so predicting zero costs about that."""
    images, labels = training_images()
    generator = torch.Generator().manual_seed(0)
    costs = [velocity_loss(lambda noisy, time, tokens: 0 * noisy, images, labels, generator).item() for _ in range(40)]
    size = (images.pow(2).mean().item() + 1) / 2
    assert sum(costs) / 40 == pytest.approx(size, rel=0.05)


def test_one_prompt_in_eight_is_empty():
    seen = []
    generator = torch.Generator().manual_seed(1)
    images, labels = training_images()
    for _ in range(100):
        velocity_loss(lambda noisy, time, tokens: seen.append(tokens) or noisy, images, labels, generator)
    tokens = torch.cat(seen)
    empty = (tokens[:, 1:] == PADDING).all(1)
    assert (tokens[:, 0] == START).all()
    assert empty.double().mean().item() == pytest.approx(1 / 8, abs=0.05)


def test_fused_attention_of_the_training_equals_the_plain_one():
    torch.manual_seed(0)
    model = TextToImage(SHAPES["tiny"])
    inputs = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.9]), encode(["a six", "please draw the number one"], 48)
    plain = model(*inputs)
    replace_attention(model)
    assert not any(isinstance(m, EagerAttention) for m in model.modules())
    torch.testing.assert_close(model(*inputs), plain, rtol=1e-4, atol=1e-5)
