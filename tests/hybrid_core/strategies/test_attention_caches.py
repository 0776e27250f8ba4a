"""Layers that are called with a cache object are fused whole, and the cache is called exactly once per call."""

import copy

import pytest
import torch
from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.attention.search import count_fused_calls
from hybrid_core.strategies.attention_fusion import ATTENTION_FUSION
from hybrid_core.strategies.base import Situation

DIM = 8


class Cache:
    """Grows by concatenation; counts how often it was asked."""

    frozen = False

    def __init__(self):
        self.keys = self.values = None
        self.asked = 0

    @property
    def length(self):
        return 0 if self.keys is None else self.keys.shape[1]

    def update(self, k, v, name):
        assert name == "layer"
        self.asked += 1
        self.keys = k if self.keys is None else torch.cat((self.keys, k), dim=1)
        self.values = v if self.values is None else torch.cat((self.values, v), dim=1)
        return self.keys, {"values": self.values}


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(DIM, DIM) for _ in range(3))

    def cached(self, x, cache):
        k, held = cache.update(self.k(x), self.v(x), "layer")
        return k, held["values"]

    def forward(self, x, *, cache=None, **options):
        k, v = (self.k(x), self.v(x)) if cache is None else self.cached(x, cache)
        return (self.q(x) @ k.mT * 0.3).softmax(-1) @ v


class Twice(Layer):
    reason = "calls its Cache 2 times"

    def cached(self, x, cache):
        cache.update(self.k(x), self.v(x), "layer")
        return super().cached(x, cache)


class ReadsLength(Layer):
    reason = "reads 'length' of its Cache"

    def cached(self, x, cache):
        k, v = super().cached(x, cache)
        return k / (cache.length + 1), v


class ReadsFlag(Layer):
    def cached(self, x, cache):
        return (self.k(x), self.v(x)) if cache.frozen else super().cached(x, cache)


class TwoCaches(Layer):
    reason = "takes 2 objects that no exporter knows"

    def forward(self, x, *, cache=None, **options):
        return super().forward(x, cache=cache[0])


def feed(model, rows, make=Cache):
    """Read `rows` rows in steps of the given sizes into a fresh cache; everything that came out."""
    cache, generator = make(), torch.Generator().manual_seed(3)
    steps = [torch.randn(2, n, DIM, generator=generator) for n in rows]
    with torch.no_grad():
        return torch.cat([model(x, cache=cache, ignored=True) for x in steps], dim=1), cache


def fused(kind, rows, make=Cache):
    situation = Situation((rows,), lambda m, i: feed(m, i[0], make)[0], Workload("decode", "decode", 2))
    model = nn.ModuleDict({"layer": kind()})
    model.forward = lambda *a, **k: model["layer"](*a, **k)
    return ATTENTION_FUSION.apply("sdpa", model.eval(), situation).model["layer"]


@pytest.mark.parametrize("kind", [Layer, ReadsFlag])
@pytest.mark.parametrize("rows", [(5, 1, 1), (1, 1, 1, 1)], ids=["a context first", "token by token"])
def test_a_layer_with_a_cache_is_fused_in_every_step_with_equal_outputs(kind, rows):
    layer, plain = fused(kind, rows), kind().eval()
    for fresh in (rows, (3, 2, 1, 4), (1, 1, 2)):
        expected, old = feed(plain, fresh)
        found, new = feed(layer, fresh)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert new.asked == old.asked == len(fresh)
        torch.testing.assert_close(new.keys, old.keys, rtol=1e-5, atol=1e-5)
        assert count_fused_calls(lambda: feed(layer, fresh)) == len(fresh)  # noqa: B023


def test_a_flag_that_was_read_belongs_to_the_form():
    layer = fused(ReadsFlag, (4, 1))
    x, cache = torch.randn(2, 4, DIM), Cache()
    cache.frozen = True
    with torch.no_grad():
        torch.testing.assert_close(layer(x, cache=cache), ReadsFlag().eval()(x, cache=cache), rtol=1e-5, atol=1e-5)
    assert cache.asked == 0


class WritesList(Layer):
    reason = "changes a list or dict that it is given"

    def forward(self, x, *, cache=None, **options):
        cache.append(self.k(x))
        k = torch.cat(cache, dim=1)
        return (self.q(x) @ k.mT * 0.3).softmax(-1) @ k


class SetsAttribute(Layer):
    reason = "sets 'keys' of its Cache"

    def cached(self, x, cache):
        cache.keys = self.k(x)
        return cache.keys, self.v(x)


MAKERS = {TwoCaches: lambda: [Cache(), Cache()], WritesList: list}


@pytest.mark.parametrize("kind", [Twice, ReadsLength, TwoCaches, WritesList, SetsAttribute], ids=lambda k: k.__name__)
def test_what_cannot_be_cut_out_is_refused_with_its_reason(kind):
    with pytest.raises(StrategyUnsupported, match=kind.reason):
        fused(kind, (4, 1), MAKERS.get(kind, Cache))


def test_a_copy_of_the_fused_layer_is_independent_of_the_cache_it_was_learned_with():
    layer = fused(Layer, (4, 1))
    twin = copy.deepcopy(layer)
    assert torch.equal(feed(twin, (3, 1, 1))[0], feed(layer, (3, 1, 1))[0])
