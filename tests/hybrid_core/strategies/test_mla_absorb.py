"""Absorbed latent attention gives what the untouched module gives, in every form of call, from the same small cache."""

import copy

import pytest
import torch
from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.models.deepseek import SHAPES, DeepSeek
from hybrid_core.models.parts.decoder import decode
from hybrid_core.models.registry import get_entry
from hybrid_core.records import Workload
from hybrid_core.strategies.attention.absorbed_core import AbsorbedCore, LatentSizes
from hybrid_core.strategies.attention.mla_absorb import latent_attentions
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.registry import get_strategy

STRATEGY = get_strategy("attention_fusion")
SIZES = LatentSizes(heads=4, latent=24, plain=16, rope=8, value=12)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens_of(batch, length, seed=0):
    return torch.randint(256, (batch, length), generator=torch.Generator().manual_seed(seed))


def decode_situation(batch=1, context=40, new=3):
    example = (tokens_of(batch, context), tokens_of(batch, new, seed=1))
    return Situation(example, lambda m, i: decode(m, *i), Workload("decode", "decode", batch, context, new))


@pytest.fixture(scope="module")
def deepseek():
    return get_entry("deepseek").build("tiny", 0)


@pytest.fixture(scope="module")
def absorbed(deepseek):
    return STRATEGY.apply("mla_absorb", copy.deepcopy(deepseek), decode_situation())


def straight_attention(q, latent, rope_key, mask, weight, scale):
    """Keys and values written out per head with einsum: independent of both forms."""
    per_head = torch.einsum("bsl,hol->bhso", latent[:, 0], weight.view(SIZES.heads, -1, SIZES.latent))
    k = torch.cat((per_head[..., : SIZES.plain], rope_key.expand(-1, SIZES.heads, -1, -1)), -1)
    scores = torch.einsum("bhnd,bhsd->bhns", q, k) * scale + mask
    return torch.einsum("bhns,bhsv->bhnv", scores.softmax(-1), per_head[..., SIZES.plain :])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("new", [1, 4])
@pytest.mark.parametrize("mask_of", ["shared", "each row", "each head"])
def test_both_forms_are_the_written_out_attention(batch, new, mask_of):
    held, heads = 11, SIZES.heads
    core = AbsorbedCore(nn.Parameter(noise(heads * (SIZES.plain + SIZES.value), SIZES.latent)), SIZES, 0.2)
    inputs = (noise(batch, heads, new, 24, seed=1), noise(batch, 1, held, 24, seed=2), noise(batch, 1, held, 8, seed=3))
    shape = {"shared": (new, held), "each row": (batch, 1, new, held), "each head": (batch, heads, new, held)}[mask_of]
    mask = torch.where(noise(*shape, seed=4) > 1, float("-inf"), 0.0)
    mask[..., 0] = 0
    expected = straight_attention(*inputs, mask, core.expand.weight, 0.2)
    for form in (core.absorbed, core.expanded):
        torch.testing.assert_close(form(*inputs, mask), expected, rtol=1e-4, atol=1e-4)


def test_a_row_that_may_look_nowhere_mixes_nothing_instead_of_nan():
    core = AbsorbedCore(nn.Parameter(noise(SIZES.heads * 28, SIZES.latent)), SIZES, 0.2)
    inputs = noise(1, 4, 2, 24, seed=1), noise(1, 1, 5, 24, seed=2), noise(1, 1, 5, 8, seed=3)
    mask = torch.tensor([[True] * 4 + [False], [False] * 5])
    additive = torch.zeros(2, 5).masked_fill(~mask, -1e30)
    found = core.absorbed(*inputs, mask)
    assert not found[:, :, 1].any() and found.isfinite().all()
    expected = straight_attention(*inputs, additive, core.expand.weight, 0.2)
    torch.testing.assert_close(found[:, :, 0], expected[:, :, 0], rtol=1e-4, atol=1e-4)


def test_every_kind_of_call_gives_the_logits_of_the_untouched_model(deepseek, absorbed):
    for batch, context, new in ((1, 30, 4), (3, 17, 2)):
        inputs = (tokens_of(batch, context, seed=5), tokens_of(batch, new, seed=6))
        torch.testing.assert_close(decode(absorbed.model, *inputs), decode(deepseek, *inputs), rtol=1e-3, atol=1e-3)
    tokens = tokens_of(2, 50, seed=7)
    torch.testing.assert_close(absorbed.model(tokens), deepseek(tokens), rtol=1e-3, atol=1e-3)


def test_left_padding_and_several_tokens_per_call_are_kept(deepseek, absorbed):
    tokens, padding = tokens_of(2, 24, seed=8), torch.tensor([0, 5])
    results = []
    for model in (deepseek, absorbed.model):
        cache = model.cache_factory(2, 24)
        parts = [model(tokens[:, a:b], cache=cache, padding=padding) for a, b in ((0, 16), (16, 20), (20, 24))]
        results.append(torch.cat(parts, 1))
    for row, first in enumerate(padding.tolist()):
        torch.testing.assert_close(results[1][row, first:], results[0][row, first:], rtol=1e-3, atol=1e-3)


def test_the_cache_holds_one_latent_and_one_rotary_key_per_token(absorbed):
    cache = absorbed.model.cache_factory(2, 20)
    absorbed.model(tokens_of(2, 20), cache=cache)
    held = sum(t.numel() for pair in cache._held for t in pair)
    widths = SHAPES["tiny"].attention
    assert held == 2 * 20 * 4 * (widths.latent + widths.rope)
    expanded = widths.heads * (widths.plain + widths.rope + widths.value)
    assert absorbed.model.layers[0].attention.core.sizes.cached_ratio == expanded / (widths.latent + widths.rope)


def test_a_decode_never_expands_and_a_long_context_does(deepseek):
    model = STRATEGY.apply("mla_absorb", copy.deepcopy(deepseek), decode_situation()).model
    expansions = []
    for module in latent_cores(model):
        module.expand.register_forward_hook(lambda m, a, out: expansions.append(out.shape[1]))
    decode(model, *decode_situation().example_inputs)
    assert expansions == [40] * len(model.layers)


def latent_cores(model):
    return [m for m in model.modules() if isinstance(m, AbsorbedCore)]


def test_the_weights_are_held_once_and_are_the_same(deepseek, absorbed):
    assert sum(p.numel() for p in absorbed.model.parameters()) == sum(p.numel() for p in deepseek.parameters())
    for mine, theirs in zip(latent_cores(absorbed.model), latent_attentions(deepseek).values(), strict=True):
        assert torch.equal(mine.expand.weight, theirs.expand.weight)


def test_the_change_says_how_often_it_absorbs(absorbed):
    assert "4 latent attentions" in absorbed.changes[0] and "64 + 16 numbers" in absorbed.changes[0]
    assert "absorbed in 12 of 16 attention calls" in absorbed.changes[1]


@pytest.mark.parametrize(("strategy", "setting"), [("quantization", "int8_dynamic"), ("quantization", "bfloat16"),
                                                  ("memory_pooling", "static_cache"), ("kernel_fusion", "fold"),
                                                  ("memory_pooling", "in_place")])  # fmt: skip
def test_later_steps_still_work_and_change_no_more_than_without_it(deepseek, strategy, setting):
    situation = decode_situation()
    model = STRATEGY.apply("mla_absorb", copy.deepcopy(deepseek), situation).model
    try:
        alone = get_strategy(strategy).apply(setting, copy.deepcopy(deepseek), situation).model
    except StrategyUnsupported as refusal:
        pytest.skip(f"refused without mla_absorb too: {refusal}")
    both = get_strategy(strategy).apply(setting, model, situation).model
    inputs = (tokens_of(1, 40, seed=11), tokens_of(1, 3, seed=12))
    expected = decode(deepseek, *inputs)
    errors = [float((decode(m, *inputs) - expected).norm() / expected.norm()) for m in (alone, both)]
    assert errors[1] <= 1.5 * errors[0] + 1e-3


def test_a_copy_uses_its_own_weights(deepseek, absorbed):
    inputs = decode_situation().example_inputs
    twin, expected = copy.deepcopy(absorbed.model), decode(deepseek, *inputs)
    with torch.no_grad():
        for core in latent_cores(twin):
            core.expand.weight.zero_()
    torch.testing.assert_close(decode(absorbed.model, *inputs), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(decode(twin, *inputs), expected, atol=1e-3)


def test_other_attention_and_long_contexts_are_refused_with_a_reason(deepseek):
    with pytest.raises(StrategyUnsupported, match="no multi-head latent attention"):
        STRATEGY.apply("mla_absorb", get_entry("llama").build("tiny", 0), decode_situation())
    prefill = Situation((tokens_of(1, 64),), lambda m, i: m(*i), Workload("prefill", "prefill", 1, 64))
    with pytest.raises(StrategyUnsupported, match="expanding them is cheaper"):
        STRATEGY.apply("mla_absorb", copy.deepcopy(deepseek), prefill)
    packed = get_strategy("quantization").apply("int8_dynamic", copy.deepcopy(deepseek), decode_situation()).model
    with pytest.raises(StrategyUnsupported, match="must be nn.Linear"):
        STRATEGY.apply("mla_absorb", packed, decode_situation())


def test_a_module_that_only_looks_like_latent_attention_is_refused(deepseek):
    odd = copy.deepcopy(deepseek)
    odd.layers[0].attention.core.forward = lambda q, k, v, mask: torch.softmax(q @ k.mT * 0.1 + mask, -1) @ v
    with pytest.raises(StrategyUnsupported, match="something else than latent attention"):
        STRATEGY.apply("mla_absorb", odd, decode_situation())


# ---- transformers


def transformers_deepseek(attention="eager", query_rank=20, family="DeepseekV3", **other):
    transformers = pytest.importorskip("transformers", reason="transformers is in requirements-dev.txt")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, n_group=2, topk_group=1,
        num_experts_per_tok=2, q_lora_rank=query_rank, kv_lora_rank=24, qk_rope_head_dim=8, qk_nope_head_dim=16,
        v_head_dim=12, first_k_dense_replace=2, max_position_embeddings=128, **other,
    )  # fmt: skip
    config._attn_implementation = attention
    return getattr(transformers, f"{family}ForCausalLM")(config).eval().requires_grad_(False)


def read_in_parts(model, tokens, cuts):
    past, logits = None, []
    for start, end in cuts:
        out = model(input_ids=tokens[:, start:end], past_key_values=past, use_cache=True)
        past = out.past_key_values
        logits.append(out.logits)
    return torch.cat(logits, 1), past


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("query_rank", [None, 20])
def test_transformers_attention_decodes_from_latents_with_the_same_logits(attention, query_rank):
    model, cuts = transformers_deepseek(attention, query_rank), ((0, 12), (12, 13), (13, 17), (17, 18))
    tokens = torch.randint(64, (2, 18), generator=torch.Generator().manual_seed(0))
    call = lambda m, i: read_in_parts(m, i[0], cuts)[0]  # noqa: E731
    situation = Situation((tokens,), call, Workload("decode", "decode", 2, 12, 6))
    changed = STRATEGY.apply("mla_absorb", copy.deepcopy(model), situation).model
    fresh = torch.randint(64, (2, 18), generator=torch.Generator().manual_seed(1))
    found, past = read_in_parts(changed, fresh, cuts)
    torch.testing.assert_close(found, read_in_parts(model, fresh, cuts)[0], rtol=1e-4, atol=1e-5)
    assert sum(layer.keys.numel() + layer.values.numel() for layer in past.layers) == 2 * 2 * 18 * (24 + 8)


CUTS = ((0, 12), (12, 13), (13, 14))


def transformers_situation():
    tokens = torch.randint(64, (1, 14), generator=torch.Generator().manual_seed(0))
    return Situation((tokens,), lambda m, i: read_in_parts(m, i[0], CUTS)[0], Workload("decode", "decode", 1, 12, 2))


@pytest.mark.parametrize(("family", "other"), [("DeepseekV2", {}), ("Glm4MoeLite", {"mlp_layer_types": ["dense"] * 2})])
def test_relatives_of_the_same_layers_decode_from_latents_too(family, other):
    model, situation = transformers_deepseek(family=family, **other), transformers_situation()
    changed = STRATEGY.apply("mla_absorb", copy.deepcopy(model), situation).model
    fresh = torch.randint(64, (2, 14), generator=torch.Generator().manual_seed(1))
    found, expected = (read_in_parts(m, fresh, CUTS)[0] for m in (changed, model))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_relatives_with_steps_of_their_own_are_refused():
    selecting = transformers_deepseek(family="DeepseekV32")
    with pytest.raises(StrategyUnsupported, match="indexer"):
        STRATEGY.apply("mla_absorb", selecting, transformers_situation())
    scaled = transformers_deepseek()
    for layer in scaled.model.layers:
        own, attention = layer.self_attn.forward, layer.self_attn
        attention.forward = lambda *a, own=own, **k: (own(*a, **k)[0] * 2, None)
    with pytest.raises(StrategyUnsupported, match="something else than latent attention"):
        STRATEGY.apply("mla_absorb", scaled, transformers_situation())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers_rows_padded_at_the_left_keep_their_logits(attention):
    model = transformers_deepseek(attention, None)
    tokens, seen = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(0)), torch.ones(2, 9).long()
    seen[1, :3] = 0

    def call(model, inputs):
        first = model(input_ids=inputs[0][:, :8], attention_mask=inputs[1][:, :8], use_cache=True)
        again = model(input_ids=inputs[0][:, 8:], attention_mask=inputs[1], past_key_values=first.past_key_values)
        return torch.cat((first.logits, again.logits), 1)

    situation = Situation((tokens, seen), call, Workload("decode", "decode", 2, 8, 1))
    found = call(STRATEGY.apply("mla_absorb", copy.deepcopy(model), situation).model, (tokens, seen))
    expected = call(model, (tokens, seen))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1, 3:], expected[1, 3:], rtol=1e-4, atol=1e-5)


def test_a_larger_deepseek_of_random_weights_agrees_too():
    torch.manual_seed(0)
    shape = SHAPES["small"]
    model = DeepSeek(type(shape)(**{**vars(shape), "layers": 1, "vocabulary": 64})).eval().requires_grad_(False)
    situation = Situation(
        (tokens_of(1, 32) % 64, tokens_of(1, 2, seed=1) % 64), lambda m, i: decode(m, *i),
        Workload("decode", "decode", 1, 32, 2),
    )  # fmt: skip
    changed = STRATEGY.apply("mla_absorb", copy.deepcopy(model), situation).model
    inputs = situation.example_inputs
    torch.testing.assert_close(decode(changed, *inputs), decode(model, *inputs), rtol=1e-4, atol=1e-5)
