"""Cheats whose answer is not there yet when it is given, or does not stay what it was."""

import collections
import threading
import time

import torch

from tests.hybrid_core.measurement.cheating import Cheat, timed
from tests.hybrid_core.measurement.trying import BATCH, WIDTH

# Answers that are not finished, or not kept.


class SharedBuffer(Cheat):
    """Writes every answer into the same buffer."""

    words = "an earlier call changed when the model was called again"

    def answer(self, x):
        if self.calls == 1:
            self.buffer = torch.empty_like(x)
        return self.buffer.copy_(self.honest(x))


class RingOfBuffers(Cheat):
    """Takes turns between three buffers, so that two answers in a row look independent."""

    words = "an earlier call changed when the model was called again"

    def answer(self, x):
        if self.calls == 1:
            self.ring = [torch.empty_like(x) for _ in range(3)]
        return self.ring[self.calls % 3].copy_(self.honest(x))


class RingWhileTimed(Cheat):
    """Shares one buffer only while the clock runs: all but the last answer of a sample are gone."""

    stage = "timing"

    def answer(self, x):
        if self.calls == 1:
            self.buffer = torch.empty_like(x)
        right = self.honest(x)
        return self.buffer.copy_(right) if timed() else right


class WritesAfterReturning(Cheat):
    """Spoils the answer before last, once it has been looked at."""

    words = "an earlier call changed when the model was called again"

    def answer(self, x):
        if self.calls == 1:
            self.given = collections.deque(maxlen=2)
        if len(self.given) == 2:
            self.given[0].zero_()
        self.given.append(self.honest(x))
        return self.given[-1]


class ViewMutatedLater(Cheat):
    """Hands out a view of a tensor that it goes on working in."""

    words = "an earlier call changed when the model was called again"

    def answer(self, x):
        if self.calls == 1:
            self.pool = torch.empty(2 * BATCH, WIDTH)
        self.pool[BATCH:] = self.honest(x)
        return self.pool[BATCH:]


class FilledLater(Cheat):
    """Hands out a buffer at once and does the work when the next call comes."""

    words = "relative error 1.0e+00"

    def answer(self, x):
        if self.calls > 1:
            self.given.copy_(self.honest(self.question))
        self.given, self.question = torch.zeros_like(x), x.clone()
        return self.given


class FilledByAThread(Cheat):
    """Hands out a buffer at once and lets a thread do the work."""

    words = "it left the thread 'late' at work when it answered"

    def answer(self, x):
        given, question = torch.zeros_like(x), x.clone()

        def fill():
            time.sleep(0.02)
            with torch.inference_mode():
                given.copy_(self.honest(question))

        threading.Thread(target=fill, name="late").start()
        return given


class ThreadWhileTimed(Cheat):
    """The same, only while the clock runs; the copy of the last answer is taken before the thread is done."""

    words = "relative error 1.0e+00"
    stage = "timing"

    def answer(self, x):
        if not timed():
            return self.honest(x)
        given, question = torch.zeros_like(x), x.clone()

        def fill():
            time.sleep(0.02)
            with torch.inference_mode():
                given.copy_(self.honest(question))

        threading.Thread(target=fill, name="late").start()
        return given


class Lazy(torch.Tensor):
    """Knows how to compute, and does so when somebody reads it."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            plain = [arg.work() if isinstance(arg, Lazy) and hasattr(arg, "work") else arg for arg in args]
            return func(*plain, **(kwargs or {}))


def lazy(work, like):
    value = torch.zeros_like(like).as_subclass(Lazy)
    value.work = work
    return value


class ComputesWhenRead(Cheat):
    """A tensor subclass that computes when it is read."""

    words = "output is a Lazy"

    def answer(self, x):
        return lazy(lambda: self.honest(x), x)


class ComputesWhenReadWhileTimed(Cheat):
    """The same, only while the clock runs."""

    words = "output is a Lazy"
    stage = "timing"

    def answer(self, x):
        return lazy(lambda: self.honest(x), x) if timed() else self.honest(x)
