"""One timed sample of calls, and which of its answers are kept to be compared.

A short call is repeated inside a sample, and comparing every answer would need every answer kept, which changes what
the allocator does while the clock runs. So two are kept: the last, which nobody can have finished behind our back, and
one whose number comes from the system's random source, so that being right on certain calls only does not pay. Inside
the clock the choice is where one loop ends and the next begins, for both models alike.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hybrid_core.measurement.case import Case, synchronize
from hybrid_core.measurement.nested import snapshot


def choose_call(repeats: int, *, only_last: bool = False) -> int:
    """The call of a sample whose answer is kept beside the last one; no seed of ours says which."""
    return repeats - 1 if only_last else secrets.randbelow(repeats)


def checked_calls(repeats: int, chosen: int) -> tuple[int, ...]:
    """Numbers of the calls whose answers are compared, in order.

    >>> checked_calls(8, 3), checked_calls(8, 7)
    ((3, 7), (7,))
    """
    return (chosen, repeats - 1) if chosen < repeats - 1 else (chosen,)


def take_sample(
    case: Case, model: nn.Module, inputs: list[Any], clock: Callable[[], int], chosen: int
) -> tuple[float, list[Any]]:
    """Milliseconds per call, and the answers of `checked_calls`, copied at once: a late writer cannot improve them."""
    call, device = case.call, case.device
    until, after = inputs[: chosen + 1], inputs[chosen + 1 :]
    with torch.inference_mode():
        synchronize(device)
        started = clock()
        for values in until:
            output = call(model, values)
        kept = output
        for values in after:
            output = call(model, values)
        synchronize(device)
        ended = clock()
        answers = [kept, output] if after else [output]
        return (ended - started) / 1e6 / len(inputs), [snapshot(answer) for answer in answers]
