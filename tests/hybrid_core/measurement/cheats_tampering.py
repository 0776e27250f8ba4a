"""Cheats that change the conditions, the clock, the judge, or what belongs to others."""

import gc
import time
import weakref

import numpy as np
import torch
from torch import nn

from hybrid_core.measurement import contest
from hybrid_core.measurement.correctness import Comparison
from tests.hybrid_core.measurement.cheating import Cheat, timed
from tests.hybrid_core.measurement.trying import Honest

# Other conditions, another clock, another judge.


class TakesMoreThreads(Cheat):
    """Computes with two threads where one was ordered."""

    words = "it changed the number of threads from 1 to 2"

    def answer(self, x):
        torch.set_num_threads(2)
        return self.honest(x)


class TakesMoreThreadsWhileTimed(Cheat):
    """The same, only while the clock runs."""

    words = "it changed the number of threads from 1 to 2"
    stage = "timing"

    def answer(self, x):
        torch.set_num_threads(2 if timed() else 1)
        return self.honest(x)


class ChangesTheDefaultDtype(Cheat):
    """Makes every new tensor of the process float64."""

    words = "it changed the default dtype from torch.float32 to torch.float64"

    def __init__(self, honest):
        super().__init__(honest)
        torch.set_default_dtype(torch.float64)

    def answer(self, x):
        return self.honest(x)


class LeavesGradModeOff(Cheat):
    """Turns gradients off for the whole process."""

    words = "it changed the grad mode from True to False"

    def __init__(self, honest):
        super().__init__(honest)
        torch.set_grad_enabled(False)

    def answer(self, x):
        return self.honest(x)


class LeavesAutocastOn(Cheat):
    """Turns autocast on for whoever comes next."""

    words = "it changed the autocast mode of the CPU from False to True"

    def __init__(self, honest):
        super().__init__(honest)
        torch.set_autocast_enabled("cpu", True)

    def answer(self, x):
        return self.honest(x)


class ReseedsEverybody(Cheat):
    """Seeds the global generator."""

    words = "it changed the random state of torch"

    def answer(self, x):
        torch.manual_seed(0)
        return self.honest(x)


class DrawsFromNumpy(Cheat):
    """Draws from the global generator of NumPy."""

    words = "it changed the random state of NumPy"

    def answer(self, x):
        np.random.rand()
        return self.honest(x)


class StaysInTrainMode(Cheat):
    """Is handed back in train mode."""

    words = "the model is in train mode"

    def __init__(self, honest):
        super().__init__(honest)
        self.train()

    def answer(self, x):
        return self.honest(x)


class PatchesTheTimer(Cheat):
    """Replaces the clock by one that stands still."""

    words = "it replaced time.perf_counter_ns, on which the measurement rests"

    def __init__(self, honest):
        super().__init__(honest)
        time.perf_counter_ns = lambda: 0

    def answer(self, x):
        return self.honest(x)


class PatchesAllTimersWhileTimed(Cheat):
    """Replaces other clocks once it is being timed."""

    words = "it replaced time.perf_counter, on which the measurement rests"
    stage = "timing"

    def answer(self, x):
        if timed():
            time.perf_counter = time.monotonic = lambda: 0.0
        return self.honest(x)


class PatchesTheWaiting(Cheat):
    """Makes waiting for a GPU return at once."""

    words = "it replaced torch.cuda.synchronize, on which the measurement rests"

    def __init__(self, honest):
        super().__init__(honest)
        torch.cuda.synchronize = lambda device=None: None

    def answer(self, x):
        return self.honest(x)


class PatchesTheComparison(Cheat):
    """Makes every difference between tensors zero."""

    words = "it replaced torch.linalg.vector_norm, on which the measurement rests"

    def __init__(self, honest):
        super().__init__(honest)
        torch.linalg.vector_norm = lambda tensor, *rest, **names: torch.zeros(())

    def answer(self, x):
        return torch.zeros_like(x)


class PatchesTheJudge(Cheat):
    """Replaces our own comparison."""

    words = "it replaced hybrid_core.measurement.contest.compare_outputs, on which the measurement rests"

    def __init__(self, honest):
        super().__init__(honest)
        contest.compare_outputs = lambda baseline, candidate, tolerance: Comparison()

    def answer(self, x):
        return torch.zeros_like(x)


class SlowsDownEveryModule(Cheat):
    """A hook on all modules of the process delays the untouched model."""

    words = "it changed the number of hooks on all modules from 0 to 1"

    def __init__(self, honest):
        super().__init__(honest)
        handle = nn.modules.module.register_module_forward_pre_hook(lambda module, inputs: None)
        weakref.finalize(self, handle.remove)

    def answer(self, x):
        return self.honest(x)


# What belongs to others.


class ChangesItsInput(Cheat):
    """Uses the caller's tensor as scratch memory."""

    words = "it changed input[0], which belongs to the caller"

    def answer(self, x):
        result = self.honest(x)
        x.zero_()
        return result


class ChangesItsInputWhileTimed(Cheat):
    """The same, only while the clock runs."""

    words = "it changed input[0], which belongs to the caller"
    stage = "timing"

    def answer(self, x):
        result = self.honest(x)
        if timed():
            x.zero_()
        return result


def untouched_model(own):
    """The untouched model, found as the other object of its class."""
    return next(
        item for item in gc.get_objects() if type(item) is Honest and item is not own and item.layers[0].weight.numel()
    )


class CallsTheUntouchedModel(Cheat):
    """Finds the untouched model through the collector, calls it, and needs no weights of its own."""

    words = "it computes with the weights of the untouched model"

    def __init__(self, honest):
        super().__init__(honest)
        other = untouched_model(honest)
        self.found = lambda x: other(x)  # hidden from modules()
        self.honest = None

    def answer(self, x):
        return self.found(x)


class SharesTheWeights(Cheat):
    """Takes over the untouched model's weights, through their memory."""

    words = "it computes with the weights of the untouched model"

    def __init__(self, honest):
        super().__init__(honest)
        for own, other in zip(honest.parameters(), untouched_model(honest).parameters(), strict=True):
            own.data = other.data

    def answer(self, x):
        return self.honest(x)


class ChangesTheUntouchedWeights(Cheat):
    """Makes the untouched model equal to its own wrong one, through shared memory."""

    words = "it changed the weights of the untouched model"

    def __init__(self, honest):
        super().__init__(honest)
        with torch.no_grad():
            untouched_model(honest).layers[0].weight.mul_(0.5)
            honest.layers[0].weight.mul_(0.5)

    def answer(self, x):
        return self.honest(x)


class ReplacesTheUntouchedCode(Cheat):
    """Puts a slower forward into the untouched model."""

    words = "it changed the code of the untouched model"

    def __init__(self, honest):
        super().__init__(honest)
        other = untouched_model(honest)
        other.forward = lambda x: Honest.forward(other, x)

    def answer(self, x):
        return self.honest(x)


class Learns(Cheat):
    """Changes its own weights a little with every call."""

    words = "it changes its own weights from call to call (honest.layers.0.weight)"

    def answer(self, x):
        out = self.honest(x)
        self.honest.layers[0].weight.data.add_(1e-9)
        return out


class WearsOff(Cheat):
    """Keeps a state outside its weights, which makes it worse from call to call."""

    words = "asked the first question again, it gives another answer"

    def answer(self, x):
        return self.honest(x) * (1 + 1e-3 * max(0, self.calls - 7))
