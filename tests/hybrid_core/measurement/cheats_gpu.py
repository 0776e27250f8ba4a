"""Cheats that need a GPU: work on a stream that nobody waits for."""

from dataclasses import replace

import torch

from tests.hybrid_core.measurement.cheating import Cheat, timed
from tests.hybrid_core.measurement.trying import case_of

LONG_WAIT = 50_000_000  # clock cycles, some 30 ms: longer than any comparison takes to begin


def on_gpu():
    return replace(case_of(), device=torch.device("cuda", 0))


class GpuBaseCheat(Cheat):
    """Runs on the first GPU."""

    case = staticmethod(on_gpu)

    def later(self, x):
        """The answer from a side stream, given before that stream has come to it."""
        if not hasattr(self, "side"):
            self.side = torch.cuda.Stream()
        given = torch.zeros_like(x)
        self.side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.side):
            torch.cuda._sleep(LONG_WAIT)
            given.copy_(self.honest(x))
        return given


class SideStream(GpuBaseCheat):
    """Hands its work to a side stream, which the caller's stream does not wait for."""

    words = "relative error 1.0e+00"

    def answer(self, x):
        return self.later(x)


class StaysOnASideStream(GpuBaseCheat):
    """Makes a side stream the current one for the whole process."""

    words = "it changed the current stream of the GPU"

    def __init__(self, honest):
        super().__init__(honest)
        torch.cuda.set_stream(torch.cuda.Stream())

    def answer(self, x):
        return self.honest(x)


class SideStreamWithoutWaiting(GpuBaseCheat):
    """Works on a side stream while timed, and makes waiting for the device return at once."""

    words = "it replaced torch.cuda.synchronize, on which the measurement rests"

    def answer(self, x):
        if not timed():
            return self.honest(x)
        torch.cuda.synchronize = lambda device=None: None
        return self.later(x)
