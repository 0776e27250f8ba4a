"""The caches of memory_pooling: what they hold, what they cost in bytes, and that the decode stays what it was."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.measurement.compiling import read_counts
from hybrid_core.models.deepseek import SHAPES, DeepSeek
from hybrid_core.models.parts.blocks import GrowingCache
from hybrid_core.models.parts.decoder import decode, generate
from hybrid_core.models.parts.latent_attention import LatentWidths
from hybrid_core.models.registry import get_entry
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation, tensors_in
from hybrid_core.strategies.kernels.compilation import no_compiler_reason
from hybrid_core.strategies.pooling.quantized_cache import QuantizedCache, QuantizedRows
from hybrid_core.strategies.pooling.static_step import StepCache
from hybrid_core.strategies.registry import get_strategy

STRATEGY = get_strategy("memory_pooling")
CPU = torch.device("cpu")
DECODERS = ("llama", "qwen", "qwq", "claude", "deepseek")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens_of(batch, length, seed=0):
    return torch.randint(256, (batch, length), generator=torch.Generator().manual_seed(seed))


def situation_of(name, batch=2, context=20, new=3):
    entry = get_entry(name)
    usual = next(w for w in entry.workloads("tiny") if w.kind == "decode")
    workload = dataclasses.replace(usual, batch=batch, length=context, new_tokens=new)
    example = (tokens_of(batch, context), tokens_of(batch, new, seed=1))
    return Situation(example, lambda m, i: entry.call(m, workload, i), workload)


def model_of(name):
    return get_entry(name).build("tiny", 0)


def changed(setting, name, **sizes):
    return STRATEGY.apply(setting, model_of(name), situation_of(name, **sizes))


# ---- static_step


@pytest.mark.parametrize("name", DECODERS)
def test_a_step_of_fixed_shape_gives_the_outputs_of_the_untouched_decoder(name):
    applied, fresh = changed("static_step", name), situation_of(name, batch=3, context=11, new=4)
    found, expected = (fresh.call(m, fresh.example_inputs) for m in (applied.model, model_of(name)))
    for one, other in zip(tensors_in(expected), tensors_in(found), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)


def test_left_padding_and_several_tokens_per_call_are_kept():
    tokens, padding, results = tokens_of(2, 24, seed=3), torch.tensor([0, 5]), []
    for model in (model_of("llama"), changed("static_step", "llama").model):
        cache = model.cache_factory(2, 30)
        parts = [model(tokens[:, a:b], cache=cache, padding=padding) for a, b in ((0, 16), (16, 20), (20, 24))]
        results.append(torch.cat(parts, 1))
    for row, first in enumerate(padding.tolist()):
        torch.testing.assert_close(results[1][row, first:], results[0][row, first:], rtol=1e-3, atol=1e-3)


def test_generation_without_and_with_a_cache_of_another_kind_still_works():
    plain, model = model_of("llama"), changed("static_step", "llama").model
    tokens = tokens_of(2, 12, seed=4)
    assert torch.equal(generate(model, tokens, 6), generate(plain, tokens, 6))
    torch.testing.assert_close(model(tokens), plain(tokens), rtol=1e-4, atol=1e-4)
    caches = [GrowingCache(len(plain.layers)) for _ in range(2)]
    torch.testing.assert_close(model(tokens, cache=caches[0]), plain(tokens, cache=caches[1]), rtol=1e-4, atol=1e-4)


def test_every_operation_of_a_step_has_the_same_shapes_at_every_step():
    model, shapes = changed("static_step", "llama").model, []
    for layer in model.layers:
        layer.attention.core.register_forward_pre_hook(lambda m, args: shapes.append([tuple(a.shape) for a in args]))
    decode(model, tokens_of(1, 8), tokens_of(1, 5, seed=1))
    steps = shapes[len(model.layers) :]
    assert len(steps) == 5 * len(model.layers) and all(step == steps[0] for step in steps)
    assert steps[0][1][2] == 13


def test_the_step_cache_holds_what_a_growing_cache_holds_and_zeros_beyond():
    step, growing = StepCache(2, 12, layers=1, device=CPU), GrowingCache(1)
    for i, new in enumerate((4, 1, 3, 1)):
        k, v = noise(2, 2, new, 4, seed=i), noise(2, 2, new, 5, seed=i + 9)
        seen = step.take_rows(new)[1]
        for one, other in zip(step.append(0, k, v), growing.append(0, k, v), strict=True):
            assert one.shape[2] == seen == (12 if i else 4) and torch.equal(one[:, :, : growing.length], other)
            assert not one[:, :, growing.length :].any()
        assert step.length == growing.length
    with pytest.raises(InvalidInput, match="exceed the 12"):
        step.take_rows(4)


def test_the_bytes_of_the_buffers_are_those_of_the_final_length():
    applied = changed("static_step", "llama", batch=2, context=20, new=3)
    cache = applied.model.cache_factory(2, 23)
    applied.model(tokens_of(2, 20), cache=cache)
    shape = model_of("llama").shape
    assert cache.allocated_bytes == 2 * 23 * shape.cache_values_per_token * 4
    assert f"{cache.allocated_bytes / 1e6:.2f} MB" in applied.changes[0] and "23 rows" in applied.changes[0]


def test_a_decoder_that_makes_its_mask_in_another_way_is_refused():
    class Own(nn.Module):
        def cache_factory(self, batch, max_length):
            return GrowingCache(1)

    with pytest.raises(StrategyUnsupported, match="in its own way"):
        STRATEGY.apply("static_step", Own().eval(), situation_of("llama"))
    model = model_of("llama")
    model.layers[0].forward = lambda x, cos, sin, mask, layer, cache: x * mask.shape[-1]
    with pytest.raises(StrategyUnsupported, match="other outputs"):
        STRATEGY.apply("static_step", model, situation_of("llama"))


def test_a_copy_of_the_changed_decoder_uses_its_own_weights():
    model = changed("static_step", "llama").model
    twin, inputs = copy.deepcopy(model), (tokens_of(1, 8), tokens_of(1, 3))
    expected = decode(model, *inputs)
    with torch.no_grad():
        twin.head.weight.zero_()
    assert torch.equal(decode(model, *inputs), expected) and not decode(twin, *inputs).any()


@pytest.mark.parametrize(("strategy", "setting"), [("quantization", "int8_dynamic"), ("quantization", "bfloat16"),
                                                  ("attention_fusion", "sdpa")])  # fmt: skip
def test_earlier_steps_may_have_changed_the_decoder(strategy, setting):
    situation = situation_of("llama")
    before = get_strategy(strategy).apply(setting, model_of("llama"), situation).model
    expected = situation.call(before, situation.example_inputs)
    after = STRATEGY.apply("static_step", copy.deepcopy(before), situation).model
    found = situation.call(after, situation.example_inputs)
    assert float((found - expected).norm() / expected.norm()) < (1e-4 if setting == "sdpa" else 0.05)


@pytest.mark.parametrize("setting", ["static_cache", "static_step", "quantized_cache"])
def test_absorbed_latents_live_in_every_cache(setting):
    situation, plain = situation_of("deepseek"), model_of("deepseek")
    model = get_strategy("attention_fusion").apply("mla_absorb", copy.deepcopy(plain), situation).model
    model = STRATEGY.apply(setting, model, situation).model
    found, expected = (decode(m, *situation.example_inputs) for m in (model, plain))
    assert float((found - expected).norm() / expected.norm()) < (0.05 if setting == "quantized_cache" else 1e-4)


@pytest.mark.filterwarnings("ignore")
def test_one_compiled_graph_serves_every_step():
    """Counted with a compiler back end that only counts: what dynamo captures is the same for all of them."""
    graphs, model = [], changed("static_step", "llama").model

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model._compiled_call_impl = torch.compile(model._call_impl, backend=count, fullgraph=True)
    inputs = (tokens_of(1, 8), tokens_of(1, 6, seed=1))
    found = decode(model, *inputs)
    assert len(graphs) == 2  # the context and the step
    torch.testing.assert_close(found, decode(model_of("llama"), *inputs), rtol=1e-3, atol=1e-3)


def test_absorbed_attention_in_a_fixed_step_compiles_into_two_graphs():
    """With the real compiler, on the smallest DeepSeek that has no experts (their dispatch depends on the data)."""
    if (reason := no_compiler_reason("cpu")) is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    widths = LatentWidths(heads=2, latent=16, plain=8, rope=4, value=8)
    shape = dataclasses.replace(
        SHAPES["tiny"], dim=16, layers=1, dense_layers=1, hidden=16, vocabulary=16, attention=widths, max_length=32
    )
    plain = DeepSeek(shape).eval().requires_grad_(False)
    inputs = (tokens_of(1, 7) % 16, tokens_of(1, 4, seed=1) % 16)
    situation = Situation(inputs, lambda m, i: decode(m, *i), Workload("decode", "decode", 1, 7, 4))
    model, before = copy.deepcopy(plain), read_counts()
    for strategy, setting in (("attention_fusion", "mla_absorb"), ("memory_pooling", "static_step"),
                              ("kernel_fusion", "compile")):  # fmt: skip
        model = get_strategy(strategy).apply(setting, model, situation).model
    torch.testing.assert_close(decode(model, *inputs), decode(plain, *inputs), rtol=1e-3, atol=1e-5)
    assert (read_counts().since(before).graphs, read_counts().since(before).breaks) == (2, 0)
    with pytest.raises(Exception, match="index"):  # a compiled write beyond the buffers is an error, not an overwrite
        cache = model.cache_factory(1, 9)
        for start in range(0, 12, 1):
            model(torch.full((1, 1), start), cache=cache)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("setting", ["static_cache", "static_step", "quantized_cache"])
def test_caches_live_where_the_decoder_lives(setting):
    inputs = tuple(t.cuda() for t in situation_of("deepseek").example_inputs)
    situation = dataclasses.replace(situation_of("deepseek"), example_inputs=inputs, device=torch.device("cuda"))
    plain = model_of("deepseek").cuda()
    model = get_strategy("attention_fusion").apply("mla_absorb", copy.deepcopy(plain), situation).model
    model = STRATEGY.apply(setting, model, situation).model
    found, expected = (decode(m, *inputs) for m in (model, plain))
    assert float((found - expected).norm() / expected.norm()) < (0.05 if setting == "quantized_cache" else 1e-3)


# ---- quantized_cache


def test_a_row_is_rounded_to_half_a_step_of_its_largest_number():
    rows, x = QuantizedRows(noise(2, 3, 5, 16), 8), noise(2, 3, 5, 16, seed=1)
    rows.write(0, 5, x)
    step = x.abs().amax(-1, keepdim=True) / 127
    assert ((rows.read(5, torch.float32) - x).abs() <= step * 0.5001).all()
    rows.write(5, 6, torch.zeros(2, 3, 1, 16))
    assert not rows.read(6, torch.float32)[:, :, 5].any()


def test_the_quantized_cache_takes_a_byte_per_number_and_four_per_token_and_head():
    cache = QuantizedCache(2, 20, layers=1)
    k, v = noise(2, 3, 20, 16), noise(2, 3, 20, 8)
    assert cache.append(0, k, v)[0] is k  # the first call computes with what it made
    assert cache.allocated_bytes == 2 * 3 * 20 * (16 + 8 + 2 * 4) and cache.length == 20
    with pytest.raises(InvalidInput, match="exceed the 20"):
        cache.append(0, k[:, :, :1], v[:, :, :1])


@pytest.mark.parametrize("name", DECODERS)
def test_a_quantized_cache_changes_the_outputs_by_little(name):
    applied, fresh = changed("quantized_cache", name), situation_of(name, batch=2, context=15, new=4)
    found, expected = (fresh.call(m, fresh.example_inputs) for m in (applied.model, model_of(name)))
    for one, other in zip(tensors_in(expected), tensors_in(found), strict=True):
        assert float((one - other).norm() / one.norm()) < 0.05
    small, large = (float(part.split()[0]) for part in applied.changes[0].replace(": ", "instead of ").split(
        "instead of ")[1:])  # fmt: skip
    assert small < large


def test_rows_too_narrow_for_a_scale_of_their_own_are_refused():
    class Narrow(nn.Module):
        def forward(self, x, cache):
            return cache.append(0, x, x)[0].sum(2)

        def cache_factory(self, batch, max_length):
            return GrowingCache(1)

    def call(model, inputs):
        return model(inputs[0], model.cache_factory(1, 4))

    situation = Situation((noise(1, 1, 4, 1),), call, Workload("decode", "decode", 1, 4, 1))
    with pytest.raises(StrategyUnsupported, match="too narrow to gain"):
        STRATEGY.apply("quantized_cache", Narrow().eval(), situation)


@pytest.mark.parametrize("setting", ["static_step", "quantized_cache"])
def test_without_a_decode_there_is_no_cache_to_replace(setting):
    prefill = Situation((tokens_of(1, 8),), lambda m, i: m(*i), Workload("prefill", "prefill", 1, 8))
    with pytest.raises(StrategyUnsupported, match="not a decode"):
        STRATEGY.apply(setting, model_of("llama"), prefill)
    with pytest.raises(StrategyUnsupported, match="no cache_factory"):
        STRATEGY.apply(setting, nn.Linear(2, 2).eval(), situation_of("llama"))
