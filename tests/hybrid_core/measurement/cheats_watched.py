"""Cheats that are right only while they are looked at, and answers of another kind."""

import sys
import time

import torch

from tests.hybrid_core.measurement.cheating import Cheat, timed
from tests.hybrid_core.measurement.cheats_left_out import WithCache
from tests.hybrid_core.measurement.trying import BATCH, case_of

# Right only while it is looked at.


class WrongOnlyWhileTimed(Cheat):
    """Finds out whether the clock runs."""

    words = "relative error 1.0e+00"
    stage = "timing"

    def answer(self, x):
        return torch.zeros_like(x) if timed() else self.honest(x)


class RightForTheFirstCalls(Cheat):
    """Counts its calls and stops working when the correctness phase must be over."""

    words = "relative error 1.0e+00"
    stage = "timing"

    def answer(self, x):
        return self.honest(x) if self.calls <= 8 else torch.zeros_like(x)


def calls_in_this_sample() -> int:
    """Read from the frame of the procedure, as a candidate can."""
    frame = sys._getframe()
    while frame and not (frame.f_code.co_name == "_pair" and "repeats" in frame.f_locals):
        frame = frame.f_back
    return frame.f_locals["repeats"] if frame else 1


class RightOnTheLastOfASample(Cheat):
    """Works only on the last of the calls that are repeated in one sample."""

    words = "relative error 1.0e+00"
    stage = "timing"

    def answer(self, x):
        if not timed():
            return self.honest(x)
        self.left = getattr(self, "left", 0) or calls_in_this_sample()
        self.left -= 1
        return torch.zeros_like(x) if self.left else self.honest(x)


class RightForOneShape(Cheat):
    """Has the batch of the workload built in, and gives nonsense for any other."""

    words = "right for 8 items and wrong for 4: output: relative error 1.0e+00"

    def answer(self, x):
        return self.honest(x) if len(x) == BATCH else torch.zeros_like(x)


class WorksLessWhileBytesAreCounted(Cheat):
    """Finds out that the allocator is watched."""

    words = "relative error 1.0e+00"
    stage = "memory"

    def answer(self, x):
        return torch.zeros_like(x) if torch.autograd._profiler_enabled() else self.honest(x)


class NanOnlyWhileTimed(Cheat):
    """NaN while the clock runs."""

    words = "NaN at output"
    stage = "timing"

    def answer(self, x):
        return self.honest(x) * (float("nan") if timed() else 1.0)


class NanForARareInput(Cheat):
    """NaN for three items in a hundred, those whose first value is large."""

    words = "NaN at output"

    def answer(self, x):
        return torch.where(x[:, :1] > 1.9, torch.nan, self.honest(x))


class SleepsLess(Cheat):
    """Where the work is waiting for a device, waits less and gives what has arrived by then."""

    def answer(self, x):
        time.sleep(1e-4)
        out = self.honest(x)
        out[BATCH // 2 :] = 0
        return out


# Another kind of answer.


class OtherDtype(Cheat):
    """Float64 instead of float32."""

    words = "dtype float64, the baseline's is float32"

    def answer(self, x):
        return self.honest(x).double()


class OtherShape(Cheat):
    """A column less."""

    words = "shape [8, 15], the baseline's is [8, 16]"

    def answer(self, x):
        return self.honest(x)[:, :-1]


class Nothing(Cheat):
    """None."""

    words = "output is None where the baseline gives a Tensor"

    def answer(self, x):
        self.honest(x)


class WrongNesting(Cheat):
    """The answer in a tuple."""

    words = "output is a tuple of 1 where the baseline gives a Tensor"

    def answer(self, x):
        return (self.honest(x),)


class ExtraOutput(Cheat):
    """One output more."""

    words = "output is a tuple of 3 where the baseline gives a tuple of 2"
    case = staticmethod(lambda: case_of(WithCache))

    def answer(self, x):
        return (*self.honest(x), x)


class MissingOutput(Cheat):
    """One output less."""

    words = "output is a tuple of 1 where the baseline gives a tuple of 2"
    case = staticmethod(lambda: case_of(WithCache))

    def answer(self, x):
        return self.honest(x)[:1]


class Subclass(torch.Tensor):
    """A subclass that does nothing."""


class TensorSubclass(Cheat):
    """A plain subclass of Tensor, which could do anything when it is read."""

    words = "output is a Subclass float32[8, 16]"

    def answer(self, x):
        return self.honest(x).as_subclass(Subclass)
