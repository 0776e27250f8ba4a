"""DeepSeek against DeepseekV3ForCausalLM of transformers, which is independent: same logits, same tokens."""

from __future__ import annotations

import pytest
import torch

from hybrid_core.models.deepseek import SHAPES, DeepSeek, DeepSeekEntry, DeepSeekShape
from hybrid_core.models.parts.decoder import generate
from hybrid_core.models.parts.experts import Routing
from hybrid_core.models.parts.latent_attention import LatentWidths
from hybrid_core.models.parts.rotary_yarn import YarnScaling
from tests.hybrid_core.models.published_deepseek import published_twin

TOLERANCE = 1e-4
COMMON = {"dim": 48, "layers": 3, "dense_layers": 1, "hidden": 80, "vocabulary": 300, "max_length": 256}
ROUTING = Routing(experts=12, groups=4, groups_per_token=2, experts_per_token=3, hidden=20)
# Original length 32, so that within 100 tokens some pairs are kept, some slowed and some interpolated.
YARN = YarnScaling(factor=8.0, original_length=32, fast=4.0, slow=0.5)
TINY_SHAPES = {
    "queries of low rank": DeepSeekShape(
        **COMMON, routing=ROUTING, attention=LatentWidths(heads=4, latent=24, plain=10, rope=8, value=6, query_rank=20)
    ),
    "full queries, two shared experts": DeepSeekShape(
        **COMMON,
        routing=Routing(experts=6, groups=2, groups_per_token=1, experts_per_token=2, hidden=20, shared=2, scaling=1.5),
        attention=LatentWidths(heads=4, latent=24, plain=10, rope=8, value=12),
    ),
    "yarn": DeepSeekShape(
        **COMMON,
        routing=ROUTING,
        attention=LatentWidths(heads=4, latent=24, plain=10, rope=16, value=10, query_rank=20),
        yarn=YARN,
    ),
    "yarn with two mscales": DeepSeekShape(
        **COMMON,
        routing=ROUTING,
        attention=LatentWidths(heads=4, latent=24, plain=10, rope=16, value=10),
        yarn=YarnScaling(factor=8.0, original_length=32, fast=4.0, slow=0.5, mscale=0.7, mscale_all_dim=0.4),
    ),
}


@pytest.fixture(params=TINY_SHAPES, ids=lambda name: name.replace(" ", "-"))
def pair(request):
    torch.manual_seed(3)
    model = DeepSeek(TINY_SHAPES[request.param]).eval().requires_grad_(False)
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
    tokens, padding = tokens_of(2, 20), torch.tensor([0, 9])
    mask = (torch.arange(20) >= padding[:, None]).long()
    for given, left in ((torch.ones_like(mask), None), (mask, padding)):
        theirs = twin.generate(tokens, attention_mask=given, max_new_tokens=64, do_sample=False, pad_token_id=0)
        assert theirs.shape == (2, 84)
        assert torch.equal(generate(model, tokens, 64, left), theirs[:, 20:])


def test_shipped_weights_give_the_published_class_the_same_answers():
    entry = DeepSeekEntry()
    model = entry.build("tiny", 0)
    twin = published_twin(model)
    (tokens,) = entry.make_inputs("tiny", entry.workloads("tiny")[0], torch.Generator().manual_seed(0))
    assert (model(tokens) - twin(tokens).logits).abs().max() <= 2e-4  # logits of trained weights are ten times larger
    prompt = tokens[:, :40]
    theirs = twin.generate(prompt, max_new_tokens=64, do_sample=False, pad_token_id=0)
    assert torch.equal(generate(model, prompt, 64), theirs[:, 40:])


def test_every_tensor_of_the_published_class_has_the_size_of_ours_at_full_dimensions():
    # One layer of each kind: what follows repeats them.
    full = SHAPES["full"]
    short = DeepSeekShape(**{**vars(full), "layers": 2, "dense_layers": 1, "max_length": 64})
    with torch.device("meta"):
        model = DeepSeek(short)
        twin_count = sum(p.numel() for p in published_twin_on_meta(short).parameters())
    biases = full.routing.experts  # buffers there, parameters here
    assert sum(p.numel() for p in model.parameters()) == twin_count + biases


def published_twin_on_meta(shape: DeepSeekShape):
    from transformers import DeepseekV3ForCausalLM

    from tests.hybrid_core.models.published_deepseek import published_config

    return DeepseekV3ForCausalLM(published_config(shape))
