import copy
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.pooling.static_cache import StaticCache
from hybrid_core.strategies.registry import get_strategy

STRATEGY = get_strategy("memory_pooling")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class PeakBytes(TorchDispatchMode):
    """Live bytes of tensors made inside, by storage; the largest value ever reached."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.seen = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in known:
                storage = tensor.untyped_storage()
                self.live += storage.nbytes()
                weakref.finalize(storage, self._gone, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out

    def _gone(self, size):
        self.live -= size


def peak_bytes(model, *inputs):
    with torch.no_grad(), PeakBytes() as counter:
        model(*inputs)
    return counter.peak


def apply(setting, model, *example):
    situation = Situation(example, lambda m, i: m(*i), Workload("forward", "forward", example[0].shape[0]))
    return STRATEGY.apply(setting, copy.deepcopy(model).eval(), situation)


class Scores(nn.Module):
    """Written-out attention: scale, mask and softmax each make a square matrix."""

    def forward(self, q, k, v, mask):
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        return torch.softmax(scores + mask, dim=-1) @ v


def test_in_place_lowers_the_peak_and_changes_no_bit():
    model, t = Scores().eval(), 64
    inputs = (noise(1, 2, t, 8), noise(1, 2, t, 8, seed=1), noise(1, 2, t, 8, seed=2), torch.zeros(t, t))
    changed = apply("in_place", model, *inputs).model
    assert torch.equal(changed(*inputs), model(*inputs))
    square = 2 * t * t * 4
    assert peak_bytes(model, *inputs) >= 3 * square  # scores, their sum with the mask, probabilities
    assert 2 * square <= peak_bytes(changed, *inputs) < 2.5 * square


def test_activation_modules_share_the_buffer_of_the_layer_before():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU()).eval(), noise(4, 3, 32, 32)
    changed = apply("in_place", model, x).model
    assert torch.equal(changed(x), model(x))
    assert 2 * peak_bytes(changed, x) == peak_bytes(model, x)


class ReadTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        y = self.layer(x)
        return torch.relu(y) + y


class OfAnInput(nn.Module):
    def forward(self, x):
        return torch.relu(x)


class OfAView(nn.Module):
    def forward(self, x):
        return torch.relu(x.view(-1))


class OfAMaybeView(nn.Module):
    def forward(self, x):
        return torch.relu(x.float().contiguous().reshape(-1, 2))


class OfAParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(noise(4))

    def forward(self, x):
        return torch.relu(self.weight)[: x.shape[0]]


class Growing(nn.Module):
    """The result is larger than its first operand."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x):
        return self.layer(x) + x


class WritesItself(nn.Module):
    """torch.fx would lose the write that the caller sees."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        y = self.layer(x)
        y += 1
        return torch.relu(y)


@pytest.mark.parametrize(
    "kind", [OfAnInput, OfAView, OfAMaybeView, OfAParameter, Growing, WritesItself], ids=lambda k: k.__name__
)
def test_what_somebody_else_may_see_is_not_overwritten(kind):
    torch.manual_seed(0)
    with pytest.raises(StrategyUnsupported, match="provably private"):
        apply("in_place", kind().eval(), noise(4, 4))


def test_a_result_with_two_readers_is_left_alone_but_the_sum_of_them_is_not():
    torch.manual_seed(0)
    model, x = ReadTwice().eval(), noise(4, 4)
    applied = apply("in_place", model, x)
    assert "1 elementwise" in applied.changes[0]
    assert torch.equal(applied.model(x), model(x))


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, bias=None, double=False):
        y = torch.relu(self.layer(x))
        if bias is not None:
            y = y + bias
        return y * 2 if double else y


def test_calls_of_another_form_run_the_original_forward():
    torch.manual_seed(0)
    model, x = Optional().eval(), noise(4, 4)
    changed = apply("in_place", model, x).model
    for call in (
        lambda m: m(x), lambda m: m(x, noise(4)), lambda m: m(x, double=True), lambda m: m(x=x, bias=noise(4)),
        lambda m: copy.deepcopy(m)(x),
    ):  # fmt: skip
        assert torch.equal(call(changed), call(model))


def test_a_copy_of_the_rewritten_model_uses_its_own_weights():
    torch.manual_seed(0)
    model, x = Optional().eval(), noise(4, 4)
    changed = apply("in_place", model, x).model
    twin = copy.deepcopy(changed)
    with torch.no_grad():
        changed.layer.weight.zero_()
    assert torch.equal(twin(x), model(x))


# ---- static cache


class TinyDecoder(nn.Module):
    """One layer of attention over cached keys and values; a cache that grows by torch.cat is its default."""

    def __init__(self, layers=2):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)
        self.mix = nn.ModuleList(nn.Linear(8, 24) for _ in range(layers))

    def forward(self, tokens, cache=None):
        x = self.table(tokens)
        for index, mix in enumerate(self.mix):
            q, k, v = (z.view(*tokens.shape, 2, 4).transpose(1, 2) for z in mix(x).chunk(3, -1))
            if cache is not None:
                k, v = cache.append(index, k, v)
            new, held = q.shape[2], k.shape[2]
            mask = torch.full((new, held), float("-inf")).triu(held - new + 1)
            x = x + ((q @ k.transpose(-2, -1) * 0.5 + mask).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.head(x)

    def cache_factory(self, batch, max_length):
        return CatCache()


class CatCache:
    def __init__(self):
        self.held = {}

    @property
    def length(self):
        return 0 if not self.held else self.held[0][0].shape[2]

    def append(self, layer, k, v):
        if layer in self.held:
            k, v = torch.cat((self.held[layer][0], k), 2), torch.cat((self.held[layer][1], v), 2)
        self.held[layer] = (k, v)
        return k, v


def decode(model, inputs):
    tokens, new = inputs
    cache = model.cache_factory(tokens.shape[0], tokens.shape[1] + new.shape[1])
    model(tokens, cache=cache)
    return torch.stack([model(new[:, i : i + 1], cache=cache)[:, 0] for i in range(new.shape[1])], 1)


def decode_situation(batch=2, length=5, new=4):
    generator = torch.Generator().manual_seed(0)
    example = tuple(torch.randint(11, (batch, n), generator=generator) for n in (length, new))
    return Situation(example, decode, Workload("decode", "decode", batch, length, new))


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


# ---- micro batch


def wide_mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 512), nn.GELU(), nn.Linear(512, 4)).eval()


def test_micro_batch_lowers_the_peak_to_about_a_quarter():
    model, x = wide_mlp(), noise(64, 16)
    changed = apply("micro_batch", model, x).model
    torch.testing.assert_close(changed(x), model(x), rtol=1e-5, atol=1e-6)
    assert peak_bytes(changed, x) < 0.3 * peak_bytes(model, x)


def test_micro_batch_runs_as_many_slices_as_it_says_and_keeps_order_for_odd_sizes():
    calls = []
    model = nn.Sequential(wide_mlp())
    model[0].register_forward_pre_hook(lambda m, a: calls.append(a[0].shape[0]))
    x = noise(10, 16)
    changed = apply("micro_batch", model, x).model
    calls.clear()
    out = changed(x)
    assert calls == [3, 3, 3, 1]
    torch.testing.assert_close(out, model(x), rtol=1e-5, atol=1e-6)
    for batch in (1, 2, 5, 33):
        x = noise(batch, 16, seed=batch)
        torch.testing.assert_close(changed(x), model(x), rtol=1e-5, atol=1e-6)


def test_the_sliced_model_is_still_the_same_object_of_its_class():
    model, x = wide_mlp(), noise(8, 16)
    situation = Situation((x,), lambda m, i: m(*i), Workload("forward", "forward", 8))
    changed = STRATEGY.apply("micro_batch", model, situation).model
    assert changed is model and isinstance(changed, nn.Sequential) and len(changed) == 3
    twin = copy.deepcopy(changed)
    with torch.no_grad():
        model[0].weight.zero_()
    assert not torch.equal(twin(x), model(x))


class AcrossRows(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class LosesBatch(nn.Module):
    def forward(self, x):
        return x.sum()


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y.sum()


def test_micro_batch_is_refused_where_slices_are_not_the_whole():
    with pytest.raises(StrategyUnsupported, match="depend on each other"):
        apply("micro_batch", AcrossRows().eval(), noise(8, 4))
    with pytest.raises(StrategyUnsupported, match="first dimension"):
        apply("micro_batch", LosesBatch().eval(), noise(8, 4))
    with pytest.raises(StrategyUnsupported, match="share a first dimension"):
        apply("micro_batch", TwoInputs().eval(), noise(8, 4), noise(3, 4))
    with pytest.raises(StrategyUnsupported, match="batch is 1"):
        apply("micro_batch", wide_mlp(), noise(1, 16))
    with pytest.raises(StrategyUnsupported, match="one cache for the whole batch"):
        STRATEGY.apply("micro_batch", TinyDecoder().eval(), decode_situation())


def test_several_outputs_keep_their_structure():
    class Two(nn.Module):
        def forward(self, x):
            return {"a": x * 2, "b": (x.sum(1), x.argmax(1))}

    x = noise(9, 4)
    out = apply("micro_batch", Two().eval(), x).model(x)
    assert torch.equal(out["a"], x * 2) and torch.equal(out["b"][1], x.argmax(1)) and isinstance(out["b"], tuple)


def test_functions_with_an_in_place_flag_and_products_share_one_buffer():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return F.silu(self.layer(x)) * x

    torch.manual_seed(0)
    model, x = Chain().eval(), noise(256, 4)
    changed = apply("in_place", model, x).model
    assert torch.equal(changed(x), model(x))
    assert peak_bytes(changed, x) == 256 * 4 * 4 < peak_bytes(model, x)
