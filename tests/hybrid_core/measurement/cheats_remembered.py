"""Cheats whose answer does not come from the question asked: fixed, or remembered from another one."""

import torch

from tests.hybrid_core.measurement.cheating import Cheat
from tests.hybrid_core.measurement.trying import case_of

# Answers that do not depend on the question.


class Constant(Cheat):
    """Computes once and gives that answer for ever."""

    def answer(self, x):
        if self.calls == 1:
            self.first = self.honest(x)
        return self.first


class Zeros(Cheat):
    """Zeros of the right shape."""

    words = "relative error 1.0e+00"

    def answer(self, x):
        return torch.zeros_like(x)


class Identity(Cheat):
    """Hands the question back."""

    def answer(self, x):
        return x


class Uninitialised(Cheat):
    """Whatever was in the memory that it got; the fill stands for leftovers of some other tensor."""

    def answer(self, x):
        return torch.empty_like(x).fill_(0.123)


# Answers that are remembered.


class CachedByIdentity(Cheat):
    """Remembers by the input object."""

    def answer(self, x):
        if self.calls == 1:
            self.seen = {}
        if id(x) not in self.seen:
            self.seen[id(x)] = (x, self.honest(x))  # keeping x alive makes its id unique
        return self.seen[id(x)][1]


class CachedByAddress(Cheat):
    """Remembers by the address of the input's memory."""

    def answer(self, x):
        if self.calls == 1:
            self.seen = {}
        if x.data_ptr() not in self.seen:
            self.seen[x.data_ptr()] = (x, self.honest(x))
        return self.seen[x.data_ptr()][1]


class CachedByShape(Cheat):
    """Remembers by shape and dtype."""

    def answer(self, x):
        if self.calls == 1:
            self.seen = {}
        return self.seen.setdefault((x.shape, x.dtype), self.honest(x))


class CachedByFirstValue(Cheat):
    """Remembers by a hash of the first value, which says nothing about the others."""

    def answer(self, x):
        if self.calls == 1:
            self.seen = {}
        return self.seen.setdefault(float(x[0, 0]), self.honest(x))


class CachedByRoundedSum(Cheat):
    """Remembers by a hash that rounds, so that unequal questions share an answer."""

    def answer(self, x):
        if self.calls == 1:
            self.seen = {}
        return self.seen.setdefault(round(float(x.sum()) / 100), self.honest(x))


class RecognisesTheExample(Cheat):
    """Computed the answer to the example inputs beforehand, and right only for them."""

    def __init__(self, honest):
        super().__init__(honest)
        case = case_of()
        with torch.inference_mode():
            self.known, *_ = case.fresh_inputs(case.generator("example"))
            self.prepared = honest(self.known)

    def answer(self, x):
        return self.prepared if torch.equal(x, self.known) else self.prepared.flip(0)


class WrongWhenAskedAgain(Cheat):
    """Answers a question right only the first time."""

    words = "asked the first question again, it gives another answer: output: relative error 1.0e+00"

    def answer(self, x):
        key = float(x.sum())
        if self.calls == 1:
            self.seen = set()
        if key in self.seen and self.calls > 5:
            return torch.zeros_like(x)
        self.seen.add(key)
        return self.honest(x)
