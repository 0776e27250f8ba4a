"""Cheats that leave work out: items, positions, steps, or digits."""

import contextlib
from types import SimpleNamespace

import torch
from torch import nn

from tests.hybrid_core.measurement.cheating import Cheat, timed
from tests.hybrid_core.measurement.trying import BATCH, WIDTH, Honest, case_of

# Work that is left out.


class SkipsTheLastItem(Cheat):
    """Computes all items of the batch but the last."""

    def answer(self, x):
        return torch.cat([self.honest(x[:-1]), torch.zeros(1, x.shape[1])])


def sequences(generator):
    return (torch.randn(BATCH, 32, WIDTH, generator=generator),)


class SkipsTheEndOfTheSequence(Cheat):
    """Computes all positions but the last two."""

    case = staticmethod(lambda: case_of(make_inputs=sequences))

    def answer(self, x):
        return torch.cat([self.honest(x[:, :-2]), torch.zeros(BATCH, 2, WIDTH)], 1)


class RepeatsThePositionBefore(Cheat):
    """Computes every second position and copies it to the next."""

    case = staticmethod(lambda: case_of(make_inputs=sequences))
    exact = False

    def answer(self, x):
        return self.honest(x[:, ::2]).repeat_interleave(2, 1)


class Masked(Honest):
    """Rows with a length: what lies behind is padding and gives zeros."""

    def forward(self, x, lengths):
        return super().forward(x) * (torch.arange(x.shape[1])[None, :, None] < lengths[:, None, None])


def padded(generator):
    lengths = torch.randint(1, 8, (BATCH,), generator=generator)
    return torch.randn(BATCH, 8, WIDTH, generator=generator), lengths


class GarbageInThePadding(Cheat):
    """Saves the mask, so that padding is not zero but something."""

    case = staticmethod(lambda: case_of(Masked, make_inputs=padded))

    def answer(self, x, lengths):
        return Honest.forward(self.honest, x)


class WithCache(Honest):
    """Gives its cache too, keys and values of four positions."""

    def forward(self, x):
        out = super().forward(x)
        return out, (out.repeat(4, 1, 1), out.repeat(4, 1, 1))


class ShortCache(Cheat):
    """Gives a cache with a position too few."""

    words = "output[1][0] has shape [3, 8, 16], the baseline's is [4, 8, 16]"
    case = staticmethod(lambda: case_of(WithCache))

    def answer(self, x):
        out, (keys, values) = self.honest(x)
        return out, (keys[:3], values[:3])


class StaleCache(Cheat):
    """The right logits with the cache of another call."""

    words = "output[1][1]: relative error"
    case = staticmethod(lambda: case_of(WithCache))

    def answer(self, x):
        out, (keys, values) = self.honest(x)
        self.old = self.old if self.calls > 1 else values
        return out, (keys, self.old)


class CacheInAnObject(Honest):
    """Gives its cache in an object of its own."""

    def forward(self, x):
        out = super().forward(x)
        return out, SimpleNamespace(layers=[SimpleNamespace(keys=out * 2, values=out * 3)], length=4)


class EmptyCacheObject(Cheat):
    """An object of the right kind with nothing in it."""

    words = "output[1]['layers'][0]['values']: relative error 1.0e+00"
    case = staticmethod(lambda: case_of(CacheInAnObject))

    def answer(self, x):
        out, cache = self.honest(x)
        cache.layers[0].values = torch.zeros_like(out)
        return out, cache


class Decoder(Honest):
    """Ten steps, each choosing one of sixteen tokens."""

    steps = 10

    def forward(self, x):
        tokens = []
        for _ in range(self.steps):
            x = super().forward(x) * 4
            tokens.append(x.argmax(-1))
        return torch.stack(tokens, 1)


class FewerSteps(Cheat):
    """Decodes nine tokens instead of ten."""

    words = "output has shape [8, 9], the baseline's is [8, 10]"
    case = staticmethod(lambda: case_of(Decoder))

    def answer(self, x):
        return self.honest(x)[:, :9]


class LastTokensGuessed(Cheat):
    """Decodes half the tokens and fills up with the last."""

    words = "of the whole numbers differ"
    case = staticmethod(lambda: case_of(Decoder))

    def answer(self, x):
        half = self.honest(x)[:, :5]
        return torch.cat([half, (half[:, -1:] + 1).expand(-1, 5)], 1)


class SwallowsTheError(Cheat):
    """Its kernel fails; it catches that and gives the last answer it had."""

    def answer(self, x):
        with contextlib.suppress(ValueError):
            if self.calls > 1:
                raise ValueError("the kernel does not support this shape")
            self.last = self.honest(x)
        return self.last


# Less precision than promised.


class HalfInDisguise(Cheat):
    """Computes in half precision and casts back."""

    words = "every step says that only rounding changes"

    def answer(self, x):
        return self.honest.half()(x.half()).float()


class BFloatInDisguise(Cheat):
    """Computes in bfloat16 and casts back."""

    words = "every step says that only rounding changes"

    def answer(self, x):
        return self.honest.bfloat16()(x.bfloat16()).float()


class AccumulatesInHalf(Cheat):
    """Multiplies in float32 and sums up in half precision."""

    words = "every step says that only rounding changes"

    def answer(self, x):
        first, _, last = self.honest.layers
        inner = torch.tanh((x.unsqueeze(1) * first.weight).half().sum(-1).float() + first.bias)
        return (inner.unsqueeze(1) * last.weight).half().sum(-1).float() + last.bias


class BFloatWhileTimed(Cheat):
    """Full precision when it is checked, bfloat16 when it is timed."""

    words = "every step says that only rounding changes"
    stage = "timing"

    def answer(self, x):
        if not timed():
            return self.honest(x)
        first, act, last = self.honest.layers
        inner = act(nn.functional.linear(x.bfloat16(), first.weight.bfloat16(), first.bias.bfloat16()))
        return nn.functional.linear(inner, last.weight.bfloat16(), last.bias.bfloat16()).float()
