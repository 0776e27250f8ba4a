"""Llama and Qwen2 against the classes of transformers, independent and read by many: same logits, same tokens."""

from __future__ import annotations

import pytest
import torch

from hybrid_core.models.language import DecoderShape, DenseDecoder
from hybrid_core.models.llama import SHAPES, LlamaEntry
from hybrid_core.models.parts.decoder import generate
from hybrid_core.models.parts.rotary import Llama3Scaling
from hybrid_core.models.qwen import QWEN_SHAPES, QwenEntry, QwqEntry
from tests.hybrid_core.models.published_weights import published_twin

TOLERANCE = 1e-4
COMMON = {"dim": 48, "layers": 3, "heads": 6, "kv_heads": 2, "head_dim": 8, "hidden": 80, "max_length": 256}
TINY_SHAPES = {
    "llama": DecoderShape(**COMMON, vocabulary=300),
    # Original length 32, so that within 100 tokens some pairs are kept, some slowed and some interpolated.
    "llama with its scaling": DecoderShape(
        **COMMON, theta=500_000.0, rope=Llama3Scaling(factor=8.0, low=1.0, high=4.0, original_length=32)
    ),
    "qwen": DecoderShape(**COMMON, theta=1_000_000.0, qkv_bias=True, norm_eps=1e-6),
}


@pytest.fixture(params=TINY_SHAPES, ids=lambda name: name.replace(" ", "-"))
def pair(request):
    torch.manual_seed(3)
    model = DenseDecoder(TINY_SHAPES[request.param]).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.normal_(1.0 if "norm" in name else 0.0, 0.15)  # larger than at the start, so that mistakes show
    return model, published_twin(model)


def tokens_of(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(1))


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert theirs.std() > 0.5, "logits this small would hide a mistake"
    assert (ours - theirs).abs().max() <= TOLERANCE


def test_logits_equal_the_published_class(pair):
    model, twin = pair
    tokens = tokens_of(3, 100)
    assert_close(model(tokens), twin(tokens).logits)


def test_logits_with_a_cache_equal_the_published_class_with_its_cache(pair):
    model, twin = pair
    cache, theirs = model.cache_factory(2, 60), None
    for part in tokens_of(2, 60).split((40, 1, 1, 17, 1), dim=1):
        answer = twin(part, past_key_values=theirs, use_cache=True)
        theirs = answer.past_key_values
        assert_close(model(part, cache=cache), answer.logits)


def test_left_padded_rows_equal_the_published_class_and_the_rows_alone(pair):
    model, twin = pair
    tokens, padding = tokens_of(3, 50), torch.tensor([0, 13, 49])
    mask = (torch.arange(50) >= padding[:, None]).long()
    answer, theirs = model(tokens, padding=padding), twin(tokens, attention_mask=mask).logits
    assert answer.isfinite().all()
    for row, skipped in enumerate(padding.tolist()):
        assert_close(answer[row, skipped:], theirs[row, skipped:])
        assert_close(answer[row : row + 1, skipped:], model(tokens[row : row + 1, skipped:]))


def test_left_padded_rows_with_a_cache_equal_one_pass(pair):
    model, _ = pair
    tokens, padding = tokens_of(3, 50), torch.tensor([0, 13, 40])
    cache = model.cache_factory(3, 50)
    parts = [model(part, cache=cache, padding=padding) for part in tokens.split((45, 1, 4), dim=1)]
    joined, whole = torch.cat(parts, dim=1), model(tokens, padding=padding)
    for row, skipped in enumerate(padding.tolist()):
        assert_close(joined[row, skipped:], whole[row, skipped:])


def test_64_greedy_tokens_equal_those_the_published_class_generates(pair):
    model, twin = pair
    tokens = tokens_of(2, 20)
    theirs = twin.generate(tokens, max_new_tokens=64, do_sample=False, pad_token_id=0, eos_token_id=-1)
    assert torch.equal(generate(model, tokens, 64), theirs[:, 20:])


def test_64_greedy_tokens_of_left_padded_rows_equal_those_the_published_class_generates(pair):
    model, twin = pair
    tokens, padding = tokens_of(2, 20), torch.tensor([0, 9])
    mask = (torch.arange(20) >= padding[:, None]).long()
    theirs = twin.generate(
        tokens, attention_mask=mask, max_new_tokens=64, do_sample=False, pad_token_id=0, eos_token_id=-1
    )
    assert torch.equal(generate(model, tokens, 64, padding), theirs[:, 20:])


@pytest.mark.parametrize("entry", [LlamaEntry(), QwenEntry(), QwqEntry()], ids=lambda entry: entry.name)
def test_shipped_weights_give_the_published_class_the_same_answers(entry):
    model = entry.build("tiny", 0)
    twin = published_twin(model)
    (tokens,) = entry.make_inputs("tiny", entry.workloads("tiny")[0], torch.Generator().manual_seed(0))
    assert (model(tokens) - twin(tokens).logits).abs().max() <= 2e-4  # logits of trained weights are ten times larger
    prompt = tokens[:, :40]
    theirs = twin.generate(prompt, max_new_tokens=64, do_sample=False, pad_token_id=0, eos_token_id=-1)
    assert torch.equal(generate(model, prompt, 64), theirs[:, 40:])


@pytest.mark.parametrize(
    ("entry", "published"),
    [(LlamaEntry(), 405_853_388_800), (QwenEntry(), 32_763_876_352), (QwqEntry(), 32_763_876_352)],
    ids=lambda value: getattr(value, "name", None),
)
def test_full_size_on_the_meta_device_has_exactly_the_published_parameters(entry, published):
    model = entry.skeleton("full")
    assert all(p.is_meta for p in (*model.parameters(), *model.buffers()))
    assert sum(p.numel() for p in model.parameters()) == published == entry.parameters("full")


RELATIVES = {
    "Llama-3.1-8B": (4096, 32, 32, 14336, 128_256, False, 8_030_261_248),
    "Llama-3.1-70B": (8192, 80, 64, 28672, 128_256, False, 70_553_706_496),
    "Qwen2.5-72B": (8192, 80, 64, 29568, 152_064, True, 72_706_203_648),
}


@pytest.mark.parametrize("name", RELATIVES)
def test_closed_form_gives_the_published_counts_of_the_relatives(name):
    dim, layers, heads, hidden, vocabulary, bias, published = RELATIVES[name]
    shape = DecoderShape(dim, layers, heads, 8, 128, hidden, vocabulary=vocabulary, qkv_bias=bias)
    assert shape.parameters == published


def test_full_llama_caches_half_a_mebibyte_per_token_in_bfloat16():
    facts = LlamaEntry().facts("full")
    assert facts["kv_cache_bytes_per_token"] == {"float32": 126 * 8 * 128 * 2 * 4, "bfloat16": 126 * 8 * 128 * 2 * 2}


def test_tiny_sizes_are_of_different_shapes():
    assert SHAPES["tiny"] != QWEN_SHAPES["tiny"]
