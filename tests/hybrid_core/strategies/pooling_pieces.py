"""What the tests of memory pooling share: peak bytes by storage, one application, a small decoder with a cache."""

import copy
import weakref

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation
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
