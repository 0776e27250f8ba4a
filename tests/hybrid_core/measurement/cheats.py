"""Candidates that look fast and are not: one class each, with what it does and the words that refuse it.

A class is called with the honest model, as a transformation would be. `words` must stand in the reason of the refusal;
`case` is the case it needs where the usual one does not fit; `stage` is set where the phase that finds it matters.
"""

import collections
import contextlib
import gc
import sys
import threading
import time
import weakref

import numpy as np
import torch
from torch import nn

from hybrid_core.measurement import contest
from hybrid_core.measurement.correctness import Comparison
from tests.hybrid_core.measurement.trying import BATCH, WIDTH, Honest, Wrapped, case_of

CHEATS: list[type] = []


def timed() -> bool:
    """Whether the clock is running now: the procedure turns the collector off inside a block."""
    return not gc.isenabled()


class Cheat(Wrapped):
    """The kind of candidate that is refused."""

    words = "relative error"
    stage = ""
    exact = True
    case = staticmethod(case_of)

    def __init_subclass__(cls):
        if "Base" not in cls.__name__:
            CHEATS.append(cls)


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
