"""Candidates that must pass: one class each, with what is unusual about it; odd models are in `honest_models`.

A class is called with the untouched model's copy, as a transformation would be; `build` is the untouched model and
`make_inputs` its inputs, where they are not the usual ones.
"""

import torch
from torch import nn

from tests.hybrid_core.measurement.trying import BATCH, WIDTH, Honest, Wrapped, rows

CONTROLS: list[type] = []


class Control(Wrapped):
    """The kind of candidate that passes; as it stands it calls the model."""

    exact = True
    build: type = Honest
    make_inputs = staticmethod(rows)

    def __init_subclass__(cls):
        CONTROLS.append(cls)

    def answer(self, *inputs):
        return self.honest(*inputs)


# Honest ways to compute the same.


class InPieces(Control):
    """The batch in two pieces."""

    def answer(self, x):
        return torch.cat([self.honest(x[:3]), self.honest(x[3:])])


class OtherOrderOfSums(Control):
    """Sums up from the other end."""

    def answer(self, x):
        first, act, last = self.honest.layers
        inner = act(x.flip(1) @ first.weight.flip(1).T + first.bias)
        return inner.flip(1) @ last.weight.flip(1).T + last.bias


class TwoLayers(nn.Module):
    """Two linear layers without anything between them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x):
        return self.second(self.first(x))


class FusedLayers(Control):
    """Two linear layers multiplied into one."""

    build = TwoLayers

    def __init__(self, honest):
        super().__init__(honest)
        with torch.no_grad():
            self.weight = honest.second.weight @ honest.first.weight
            self.bias = honest.second.weight @ honest.first.bias + honest.second.bias

    def answer(self, x):
        return nn.functional.linear(x, self.weight, self.bias)


class Picture(nn.Module):
    """A small convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.conv(x)


class ChannelsLast(Control):
    """Another memory format inside, and in the answer."""

    build = Picture
    make_inputs = staticmethod(lambda generator: (torch.randn(BATCH, 3, 8, 8, generator=generator),))

    def __init__(self, honest):
        super().__init__(honest.to(memory_format=torch.channels_last))

    def answer(self, x):
        return self.honest(x.contiguous(memory_format=torch.channels_last))


class NonContiguous(Control):
    """A transposed answer."""

    def answer(self, x):
        return self.honest(x).T.contiguous().T


class ContiguousCopies(Control):
    """Copies of its weights in another layout."""

    def __init__(self, honest):
        super().__init__(honest)
        for layer in (honest.layers[0], honest.layers[2]):
            layer.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)


class OwnScratch(Control):
    """Works in place in a buffer of its own, and gives a fresh answer."""

    def __init__(self, honest):
        super().__init__(honest)
        self.register_buffer("scratch", torch.empty(BATCH, 64))

    def answer(self, x):
        first, _, last = self.honest.layers
        torch.addmm(first.bias, x, first.weight.T, out=self.scratch)
        return last(self.scratch.tanh_())


class CopiesOutOfABuffer(Control):
    """Has its output preallocated, and hands out a copy."""

    def __init__(self, honest):
        super().__init__(honest)
        self.output = torch.empty(BATCH, WIDTH)

    def answer(self, x):
        return self.output.copy_(self.honest(x)).clone()


class CompiledLike(Control):
    """Specialises itself in its first call, as a compiler does."""

    def answer(self, x):
        if self.calls == 1:
            self.graph = torch.jit.trace(self.honest, x, check_trace=False)
        return self.graph(x)


class MadeForOneShape(Control):
    """Takes no other batch than the workload's, and says so."""

    def answer(self, x):
        if len(x) != BATCH:
            raise ValueError(f"made for a batch of {BATCH}")
        return self.honest(x)


class CacheResetPerCall(Control):
    """Fills a cache position by position, and empties it before each call."""

    def answer(self, x):
        self.cache = []
        for row in x.split(2):
            self.cache.append(self.honest(row))
        return torch.cat(self.cache)


class CountsItsCalls(Control):
    """A buffer that counts: it changes from call to call, the answers do not."""

    def __init__(self, honest):
        super().__init__(honest)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def answer(self, x):
        self.count += 1
        return self.honest(x)


# Honest ways to lose precision, said so.


class Int8(Control):
    """Weights in eight bits."""

    exact = False

    def __init__(self, honest):
        super().__init__(torch.ao.quantization.quantize_dynamic(honest, {nn.Linear}, dtype=torch.qint8))


class BFloat(Control):
    """Computes in bfloat16."""

    exact = False

    def __init__(self, honest):
        super().__init__(honest.bfloat16())

    def answer(self, x):
        return self.honest(x.bfloat16()).float()
