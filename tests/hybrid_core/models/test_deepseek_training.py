"""What the training of DeepSeek adds: an even load, a faster attention of the same numbers, and going on."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from hybrid_core.models.checkpoints import read_facts
from hybrid_core.models.deepseek import SHAPES, DeepSeek
from hybrid_core.models.parts.blocks import EagerAttention
from hybrid_core.models.parts.experts import MixtureOfExperts, Routing
from hybrid_core.models.training import deepseek as training
from hybrid_core.models.training.base import TrainingOptions
from hybrid_core.models.training.language import replace_attention


def tokens_of(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DeepSeek(SHAPES["tiny"])


def attention_inputs() -> tuple[torch.Tensor, ...]:
    source = torch.Generator().manual_seed(2)
    q, k = (torch.randn(2, 3, 20, 12, generator=source, requires_grad=True) for _ in range(2))
    v = torch.randn(2, 3, 20, 8, generator=source, requires_grad=True)
    return q, k, v, torch.full((20, 20), float("-inf")).triu(1)


def test_attention_of_the_training_is_the_eager_one_without_autocast():
    inputs = attention_inputs()
    assert torch.equal(training.NarrowAttention()(*inputs), EagerAttention()(*inputs))


def test_attention_of_the_training_is_narrow_under_autocast_and_close_to_the_eager_one_with_its_gradients():
    q, k, v, mask = attention_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = training.NarrowAttention()(q, k, v, mask)
        assert torch.is_autocast_enabled("cpu")
    assert narrow.dtype is torch.bfloat16
    wide = EagerAttention()(q, k, v, mask)
    pairs = [(narrow.float(), wide)]
    pairs += zip(*(torch.autograd.grad(x.float().square().sum(), (q, k, v)) for x in (narrow, wide)), strict=True)
    for one, other in pairs:
        assert (one - other).norm() / other.norm() < 0.03


def test_counting_and_the_attention_of_the_training_leave_the_logits_as_they_are(model):
    tokens = tokens_of(2, 60)
    before = model(tokens)
    replace_attention(model, training.NarrowAttention)
    assert sum(isinstance(m, training.NarrowAttention) for m in model.modules()) == 4
    training.ExpertLoad(model)
    torch.testing.assert_close(model(tokens), before, atol=1e-5, rtol=1e-5)


def test_bias_rises_for_experts_below_the_mean_and_falls_above(model):
    load = training.ExpertLoad(model)
    tokens = tokens_of(2, 50)
    model(tokens)
    assert [int(count.sum()) for count in load.counts] == [2 * 50 * 2] * 3
    counted = [count.clone() for count in load.counts]
    load.balance(0.01)
    for mixture, count in zip(load.mixtures, counted, strict=True):
        expected = torch.where(count < 25, 0.01, torch.where(count > 25, -0.01, 0.0))
        torch.testing.assert_close(mixture.router.selection_bias.detach(), expected)
    assert all(int(count.sum()) == 0 for count in load.counts)


def test_balancing_evens_out_a_load_that_was_not():
    torch.manual_seed(0)
    routing = Routing(experts=8, groups=4, groups_per_token=2, experts_per_token=2, hidden=4)
    mixture = MixtureOfExperts(16, routing).requires_grad_(False)
    mixture.router.weight.normal_(std=0.3)
    mixture.router.selection_bias[0] = 2.0
    load, x = training.ExpertLoad(mixture), torch.randn(1, 400, 16)
    mixture(x)
    assert load.counts[0][0] == 400, "the first expert gets every token, four times its part"
    for _ in range(600):
        load.balance(0.005)
        mixture(x)
    assert load.counts[0].max() < 1.3 * 100 and load.counts[0].min() > 0.7 * 100


def test_a_short_training_writes_facts_of_the_stored_weights_and_can_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "training_text", lambda: b"def f(x):\n    return x + 1\n" * 400)
    monkeypatch.setattr("hybrid_core.models.training.language.TOKENS_PER_STEP", 512)
    monkeypatch.setattr(training, "LOAD_ROWS", 4)
    monkeypatch.setattr(training, "SHAPES", {"tiny": replace(SHAPES["tiny"], dim=32, hidden=32)})
    monkeypatch.setattr("hybrid_core.models.tasks.next_byte.held_out_bytes", lambda: tokens_of(256 * 8 + 1))
    ticks = itertools.count(step=0.5)  # a clock by which every step takes half a second
    monkeypatch.setattr("hybrid_core.models.training.base.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    files = {"output": tmp_path / "a.safetensors", "state": tmp_path / "b.safetensors", "compiled": False}
    said: list[str] = []
    facts = training.train(TrainingOptions(0.05, seed=4, **files), say=said.append)
    assert read_facts(files["output"]) == facts and facts["steps"] == 6 and facts["seed"] == 4
    assert len(facts["expert_load"]) == 3
    assert all(sum(shares) == pytest.approx(1, abs=0.01) for shares in facts["expert_load"])
    more = training.train(TrainingOptions(0.07, seed=4, resume=True, **files), say=said.append)
    assert more["steps"] == 9 and "resumed after 3 s and 6 steps" in said
