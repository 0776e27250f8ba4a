import copy

import pytest
import torch
from torch import nn

from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.pooling.static_cache import StaticCache
from tests.hybrid_core.strategies.pooling_pieces import (
    STRATEGY,
    CatCache,
    TinyDecoder,
    apply,
    decode,
    decode_situation,
    noise,
)


def test_static_cache_gives_the_same_tokens_and_allocates_once():
    model, situation = TinyDecoder().eval(), decode_situation()
    applied = STRATEGY.apply("static_cache", copy.deepcopy(model), situation)
    with torch.no_grad():
        assert torch.equal(decode(applied.model, situation.example_inputs), decode(model, situation.example_inputs))
    cache = applied.model.cache_factory(2, 9)
    first = cache.append(0, noise(2, 2, 5, 4), noise(2, 2, 5, 4))[0]
    second = cache.append(0, noise(2, 2, 1, 4), noise(2, 2, 1, 4))[0]
    assert first.data_ptr() == second.data_ptr() and second.shape[2] == 6
    assert "2 layers" in applied.changes[0]


def test_static_cache_holds_what_a_growing_cache_holds():
    static, growing = StaticCache(2, 12, layers=1), CatCache()
    for i, new in enumerate((4, 1, 3, 1)):
        k, v = noise(2, 2, new, 4, seed=i), noise(2, 2, new, 4, seed=i + 9)
        for one, other in zip(static.append(0, k, v), growing.append(0, k, v), strict=True):
            assert torch.equal(one, other)
        assert static.length == growing.length


def test_a_full_static_cache_says_so():
    cache = StaticCache(1, 4, layers=1)
    with pytest.raises(InvalidInput, match="exceed the 4"):
        cache.append(0, noise(1, 1, 5, 2), noise(1, 1, 5, 2))


def test_static_cache_is_refused_without_a_decode_or_a_cache():
    with pytest.raises(StrategyUnsupported, match="not a decode"):
        apply("static_cache", nn.Linear(4, 4).eval(), noise(2, 4))
    situation = Situation((noise(2, 4),), lambda m, i: m(*i), Workload("decode", "decode", 2, 4, 2))
    with pytest.raises(StrategyUnsupported, match="no cache_factory"):
        STRATEGY.apply("static_cache", nn.Linear(4, 4).eval(), situation)
    unused = Situation(
        (torch.zeros(2, 3, dtype=torch.int64),), lambda m, i: m(*i), Workload("decode", "decode", 2, 3, 1)
    )
    with pytest.raises(StrategyUnsupported, match="never fills a cache"):
        STRATEGY.apply("static_cache", TinyDecoder().eval(), unused)
