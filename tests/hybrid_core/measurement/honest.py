"""Candidates, and odd untouched models, that must pass: one class each, with what is unusual about it.

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


# Untouched models with something unusual, and an honest copy of each.


class HalfModel(Honest):
    """Is in bfloat16 itself."""

    def __init__(self):
        super().__init__()
        self.bfloat16()


class HalfBaseline(Control):
    """A baseline in half precision, computed a little more exactly."""

    build = HalfModel
    make_inputs = staticmethod(lambda generator: (torch.randn(BATCH, WIDTH, generator=generator).bfloat16(),))

    def __init__(self, honest):
        super().__init__(honest.float())

    def answer(self, x):
        return self.honest(x.float()).bfloat16()


class DropoutModel(Honest):
    """Functional dropout that is never off: it draws, and differs from itself."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.001, training=True))


class NoisyBaseline(Control):
    """A noisy model and its honest copy."""

    build = DropoutModel


class ScratchModel(Honest):
    """Uses its input as scratch memory."""

    def forward(self, x):
        return super().forward(x.mul_(2.0))


class BaselineThatChangesItsInput(Control):
    """What the untouched model does to its inputs is free to the candidate."""

    build = ScratchModel


class DriftingModel(Honest):
    """Statistics of a batch norm that is never frozen."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, x):
        self.norm(x)
        weight, bias = self.norm.weight, self.norm.bias
        nn.functional.batch_norm(x, self.norm.running_mean, self.norm.running_var, weight, bias, training=True)
        return super().forward(x)


class DriftingBaseline(Control):
    """An untouched model whose buffers change from call to call."""

    build = DriftingModel


class ReusingModel(Honest):
    """Gives every answer in the same buffer."""

    def __init__(self):
        super().__init__()
        self.output = torch.empty(BATCH, WIDTH)

    def forward(self, x):
        return self.output.copy_(super().forward(x))


class FreshWhereTheBaselineReuses(Control):
    """The untouched model overwrites its answers, the candidate does not."""

    build = ReusingModel

    def answer(self, x):
        return self.honest(x).clone()


class TiedModel(nn.Module):
    """One weight used twice."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.out.weight = self.into.weight

    def forward(self, x):
        return self.out(self.into(x).tanh())


class TiedWeights(Control):
    """Shares weights within itself."""

    build = TiedModel


class WholeNumberModel(Honest):
    """The place of the largest value."""

    def forward(self, x):
        return super().forward(x).argmax(-1)


class WholeNumbers(Control):
    """Integer answers."""

    build = WholeNumberModel

    def answer(self, x):
        return Honest.forward(self.honest, x).topk(1).indices[:, 0]


class TrueOrFalseModel(Honest):
    """Which values are positive."""

    def forward(self, x):
        return super().forward(x) > 0


class TrueOrFalse(Control):
    """Boolean answers."""

    build = TrueOrFalseModel


class NestedModel(Honest):
    """A dict with tuples, a list, a number and a text."""

    def forward(self, x):
        out = super().forward(x)
        return {"out": out, "parts": (out[:2], [out[2:], out.sum(-1)]), "count": 3, "name": "nested"}


class Nested(Control):
    """Nested answers of several kinds."""

    build = NestedModel


class SpectrumModel(Honest):
    """Complex numbers."""

    def forward(self, x):
        return torch.fft.fft(super().forward(x))


class Complex(Control):
    """Complex answers, computed in another way."""

    build = SpectrumModel

    def answer(self, x):
        return torch.fft.ifft(Honest.forward(self.honest, x)).conj() * WIDTH


class EmptyModel(Honest):
    """An empty tensor beside the answer."""

    def forward(self, x):
        return super().forward(x), x[:0]


class Empty(Control):
    """Empty answers."""

    build = EmptyModel


class ScalarModel(Honest):
    """One number without dimensions."""

    def forward(self, x):
        return super().forward(x).square().mean()


class Scalar(Control):
    """Zero-dimensional answers."""

    build = ScalarModel


class TinyModel(Honest):
    """Numbers around 1e-30."""

    def forward(self, x):
        return super().forward(x) * 1e-30


class VerySmall(Control):
    """Very small answers."""

    build = TinyModel

    def answer(self, x):
        return torch.cat([self.honest(x[:3]), self.honest(x[3:])])


class HugeModel(Honest):
    """Numbers around 1e30."""

    def forward(self, x):
        return super().forward(x) * 1e30


class VeryLarge(Control):
    """Very large answers."""

    build = HugeModel

    def answer(self, x):
        return torch.cat([self.honest(x[:3]), self.honest(x[3:])])


class ViewModel(Honest):
    """A view of its input beside the answer, and its own weight."""

    def forward(self, x):
        return super().forward(x), x[:, :4], self.layers[0].weight


class ViewsOfInputs(Control):
    """Answers that are views of inputs, and parameters."""

    build = ViewModel


class OneItem(Control):
    """A batch of one."""

    make_inputs = staticmethod(lambda generator: (torch.randn(1, WIDTH, generator=generator),))

    def answer(self, x):
        return self.honest(x.squeeze(0)).unsqueeze(0)


class ZeroDimensionalModel(Honest):
    """Scales by a number that comes as a tensor without dimensions."""

    def forward(self, x, scale):
        return super().forward(x) * scale


class ZeroDimensionalInput(Control):
    """An input without dimensions."""

    build = ZeroDimensionalModel
    make_inputs = staticmethod(
        lambda generator: (*rows(generator), torch.rand((), generator=generator) + 1),
    )
