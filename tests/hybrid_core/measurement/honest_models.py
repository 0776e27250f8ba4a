"""Untouched models with something unusual, and an honest candidate for each: it passes, what is odd is only said."""

from types import SimpleNamespace

import torch
from torch import nn

from tests.hybrid_core.measurement.honest import Control
from tests.hybrid_core.measurement.trying import BATCH, WIDTH, Honest, rows


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
        out = super().forward(x)
        return out + 0.01 * nn.functional.dropout(out, 0.5, training=True)


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
    """A dict with tuples, a list, an object, numbers and a text."""

    def forward(self, x):
        return self.package(super().forward(x))

    def package(self, out):
        parts = (out[:2], [out[2:], out.sum(-1)])
        mean, cache = out.mean().item(), SimpleNamespace(keys=out)
        return {"out": out, "parts": parts, "count": 3, "name": "nested", "mean": mean, "cache": cache}


class Nested(Control):
    """Nested answers of several kinds, computed in pieces."""

    build = NestedModel

    def answer(self, x):
        return self.honest.package(torch.cat([Honest.forward(self.honest, part) for part in x.split(3)]))


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
