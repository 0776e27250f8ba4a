"""The decoder as a whole: cache against full pass, causality, export, and the shipped checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.models.language import DecoderShape, DenseDecoder
from hybrid_core.models.llama import SHAPES, LlamaEntry
from hybrid_core.models.parts.decoder import decode
from hybrid_core.models.quality import task_quality
from hybrid_core.models.tasks.next_byte import NextByteTask

SMALLEST = DecoderShape(dim=24, layers=2, heads=4, kv_heads=2, head_dim=6, hidden=40, max_length=64)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = DenseDecoder(SMALLEST).eval().requires_grad_(False)
    for parameter in model.parameters():  # larger weights than at the start of a training, so that mistakes show
        if parameter.ndim == 2:
            parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def trained():
    return LlamaEntry().build("tiny", 0)


def tokens_of(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cuts", [(40,), (1,) * 40, (17, 1, 1, 21), (1, 39)])
def test_reading_in_pieces_with_a_cache_equals_one_pass(model, cuts):
    tokens = tokens_of(3, 40)
    cache = model.cache_factory(3, 40)
    pieces = [model(part, cache=cache) for part in tokens.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), atol=2e-5, rtol=1e-5)
    assert cache.length == 40


def test_teacher_forced_decode_equals_the_end_of_one_pass(trained):
    entry = LlamaEntry()
    workload = entry.workloads("tiny")[1]
    context, following = entry.make_inputs("tiny", workload, torch.Generator().manual_seed(3))
    full = trained(torch.cat((context, following), dim=1))[:, workload.length :]
    torch.testing.assert_close(entry.call(trained, workload, (context, following)), full, atol=2e-4, rtol=1e-4)


def test_decode_asks_the_model_for_its_cache(model):
    asked = []
    original = model.cache_factory
    model.cache_factory = lambda batch, max_length: asked.append((batch, max_length)) or original(batch, max_length)
    decode(model, tokens_of(2, 10), tokens_of(2, 5))
    assert asked == [(2, 15)]


def test_a_later_token_changes_no_earlier_logit(model):
    tokens = tokens_of(1, 20)
    changed = tokens.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 256
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.equal(before[:, 12:], after[:, 12:])


@pytest.mark.parametrize("shape", [SMALLEST, *SHAPES.values()], ids=["smallest", *SHAPES])
def test_parameter_count_equals_the_closed_form(shape):
    with torch.device("meta"):
        assert sum(p.numel() for p in DenseDecoder(shape).parameters()) == shape.parameters


def test_too_many_tokens_are_refused_with_the_numbers(model):
    with pytest.raises(InvalidInput, match="0 cached \\+ 65 new tokens = 65 exceed max_length=64"):
        model(tokens_of(1, 65))
    cache = model.cache_factory(1, 64)
    model(tokens_of(1, 60), cache=cache)
    with pytest.raises(InvalidInput, match="60 cached \\+ 5 new .* at most 4 tokens"):
        model(tokens_of(1, 5), cache=cache)


def test_a_copy_is_independent(model):
    twin = copy.deepcopy(model)
    twin.embedding.weight.zero_()
    assert model.embedding.weight.abs().sum() > 0
    assert torch.equal(twin.cos, model.cos)


def test_model_can_be_exported_and_traced(model):
    tokens = tokens_of(1, 16)
    exported = torch.export.export(model, (tokens,), strict=False).module()
    torch.testing.assert_close(exported(tokens), model(tokens), atol=1e-6, rtol=1e-6)
    tracer = torch.fx.Tracer()
    traced = torch.fx.GraphModule(model, tracer.trace(model, concrete_args={"cache": None, "padding": None}))
    other = tokens_of(2, 30)
    torch.testing.assert_close(traced(other), model(other), atol=1e-6, rtol=1e-6)


def test_bfloat16_model_answers_in_bfloat16_and_close(model):
    narrow = copy.deepcopy(model).to(torch.bfloat16)
    tokens = tokens_of(1, 30)
    answer, wide = narrow(tokens), model(tokens)
    assert answer.dtype is torch.bfloat16
    assert (answer.float() - wide).norm() / wide.norm() < 0.1


def test_checkpoint_predicts_far_more_than_the_most_frequent_byte(trained):
    task = NextByteTask()
    quality = task_quality(trained, task, rows=64)
    assert quality["trivial"] < 0.27
    assert quality["low"] > 0.66
    facts = LlamaEntry().facts("tiny")["quality"]
    assert facts["low"] - 0.05 < quality["value"] < facts["high"] + 0.05


def test_checkpoint_does_worse_on_shuffled_bytes(trained):
    (tokens,), targets = next(NextByteTask().batches(4))
    order = torch.randperm(tokens.shape[1], generator=torch.Generator().manual_seed(0))
    in_order = (trained(tokens).argmax(-1) == targets).float().mean()
    shuffled = (trained(tokens[:, order]).argmax(-1) == targets[:, order]).float().mean()
    assert shuffled < in_order / 2
