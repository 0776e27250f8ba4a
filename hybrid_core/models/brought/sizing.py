"""How large a call of a brought model should be: real work, about a tenth of a second on one thread.

The work of a call is counted, not timed, so that every machine gets the same workload: PyTorch counts the operations of
a forward pass on the meta device, where nothing is computed. Sizes are then powers of two below a fixed amount of work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hybrid_core.errors import InvalidInput

# A tenth to three tenths of a second on one thread of a machine without matrix units.
FLOPS_PER_CALL = 8e9


def count_flops(run: Callable[[], Any]) -> int:
    """Floating point operations of matrix products and convolutions in one call, which may run on meta tensors."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return max(1, int(counter.get_total_flops()))


def largest_power_of_two(work: Callable[[int], float], budget: float, low: int, high: int) -> int:
    """The largest power of two whose work is within the budget, but at least `low` and at most `high`.

    >>> [largest_power_of_two(lambda n: n * n, budget, 4, 512) for budget in (3, 10_000, 1e9)]
    [4, 64, 512]
    """
    size = 1
    while size < high and work(size * 2) <= budget:
        size *= 2
    return min(high, max(low, size))


def count_parameters(model: nn.Module) -> int:
    """Numbers held as parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def buffer_elements(model: nn.Module) -> int:
    """Numbers held as buffers."""
    return sum(buffer.numel() for buffer in model.buffers())


def describe_failure(error: BaseException, what: str, remedy: str) -> InvalidInput:
    """One sentence for whatever somebody else's code raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__
    return InvalidInput(f"{what} ({told}); {remedy}")
