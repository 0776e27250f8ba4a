"""A model whose true speed-up is known: a chain of equal blocks of which the candidate has some less.

Every block does its whole work and adds exactly nothing (its last matrix is zero), so leaving one out changes no bit
of the answer and saves exactly one block's time. A chain of 105 blocks against one of 100 is 1.05 times as fast, but
for the reading head, which is 0.03 % of it; `calibrate` confirms that by timing chains of many lengths made of the
same memory. Runs in a measure process of its own: `chain_process.py`.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.evaluation import Case, Toolbox
from hybrid_core.records import MeasureRequest, Recipe, Step, Subject, Workload

CANDIDATE_BLOCKS = 100
ROWS, WIDTH, HEAD = 64, 64, 4
STEP = "leave_out_blocks"


class Block(nn.Module):
    """x + 0: two matrices and an activation, the second matrix zero."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, width) to the same values."""
        added: Tensor = self.outer(torch.nn.functional.gelu(self.inner(x)))
        return x + added


class Chain(nn.Module):
    """`count` blocks and a small head that reads the result."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block() for _ in range(count)])
        self.head = nn.Linear(WIDTH, HEAD)

    def forward(self, x: Tensor, count: int | None = None) -> Tensor:
        """(rows, width) to (rows, head), through the first `count` blocks."""
        for block in itertools.islice(self.blocks, count):
            x = block(x)
        answer: Tensor = self.head(x)
        return answer


@dataclass(frozen=True)
class Shortened:
    """What applying a recipe returns."""

    model: nn.Module
    changes: tuple[str, ...]


def recipe_of(percent: int) -> Recipe:
    """The recipe that makes the chain `percent` percent faster; 0 changes nothing."""
    return Recipe((Step(STEP, str(percent)),))


def subject_of(percent: int, seed: int) -> Subject:
    """The chain that is `percent` percent longer than the candidate."""
    workload = Workload("chain", "forward", batch=ROWS, length=CANDIDATE_BLOCKS + percent)
    return Subject("chain", "tiny", workload, seed=seed)


def case_of(request: MeasureRequest) -> Case:
    """The untouched chain of the request."""
    subject = request.subject
    return Case(
        build=lambda: Chain(subject.workload.length).eval().requires_grad_(False),
        make_inputs=lambda generator: (torch.randn(ROWS, WIDTH, generator=generator),),
        call=lambda model, inputs: model(*inputs),
        task=None,
        workload=subject.workload,
        device=torch.device("cpu"),
        threads=subject.threads,
        seed=subject.seed,
    )


def toolbox() -> Toolbox:
    """Applies the one step there is."""
    return Toolbox(lambda model, recipe, situation: shorten(model, recipe), is_exact=lambda step: True)


def shorten(model: nn.Module, recipe: Recipe) -> Shortened:
    """Drop the blocks that the recipe leaves out."""
    left_out = int(recipe.to_dict()[STEP])
    assert isinstance(model, Chain) and len(model.blocks) == CANDIDATE_BLOCKS + left_out
    model.blocks = model.blocks[:CANDIDATE_BLOCKS]
    return Shortened(model, (f"{left_out} of {CANDIDATE_BLOCKS + left_out} blocks left out",))


def time_as_peers_do(percent: int, seed: int, calls: int, warm_up: int = 10) -> dict[str, Any]:
    """Raw times of both chains, one stretch after the other, each on one input: what most scripts do."""
    torch.manual_seed(seed)
    inputs = torch.randn(ROWS, WIDTH)
    found = {}
    with torch.inference_mode():
        for name, count in (("baseline_ms", CANDIDATE_BLOCKS + percent), ("candidate_ms", CANDIDATE_BLOCKS)):
            torch.manual_seed(seed)
            model = Chain(count).eval()
            for _ in range(warm_up):
                model(inputs)
            found[name] = [timed_ms(model, inputs) for _ in range(calls)]
    return found


def calibrate(seed: int, rounds: int, lengths: tuple[int, ...]) -> dict[str, Any]:
    """Milliseconds of each length over rounds in random order, all through the memory of one chain.

    By the thread's own processor time, not by the clock that is on trial here, and of that the first decile: every
    disturbance makes a call slower, so the low end is what the work itself takes.
    """
    torch.manual_seed(seed)
    model, inputs = Chain(max(lengths)).eval(), torch.randn(ROWS, WIDTH)
    order, times = random.Random(seed), {length: list[float]() for length in lengths}
    with torch.inference_mode():
        for turn in range(rounds + 3):
            for length in order.sample(lengths, len(lengths)):
                milliseconds = timed_ms(model, inputs, length, time.thread_time_ns)
                if turn >= 3:
                    times[length].append(milliseconds)
    low_ms = [round(statistics.quantiles(times[length], n=10)[0], 5) for length in lengths]
    return {"lengths": list(lengths), "low_ms": low_ms}


def timed_ms(
    model: nn.Module, inputs: Tensor, count: int | None = None, clock: Callable[[], int] = time.perf_counter_ns
) -> float:
    """One call, rounded to what a row keeps."""
    started = clock()
    model(inputs, count)
    return float(f"{(clock() - started) / 1e6:.5g}")
