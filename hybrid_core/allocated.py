"""The most bytes that a piece of work has allocated at one moment, by the allocator's own events.

Both the measurement and a setting that lowers this peak need the same figure, and neither may import the other. The
running sum of the profiler's events sees kernel scratch that a count of tensors misses.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

# The profiler's library announces its own start and stop on standard error; read at its first use.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def allocated_peak(work: Callable[[], object]) -> int:
    """Peak of the running sum of the CPU allocator's events while `work` runs, on top of what there was before."""
    # Not torch.profiler.profile, which imports all of inductor, nor its events(), a tree that takes seconds to build.
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        work()
    results = profile.kineto_results
    assert results is not None, "a finished profile has results"
    events = [event for event in results.events() if event.name() == "[memory]"]
    on_cpu = sorted((e.start_ns(), i, e.nbytes()) for i, e in enumerate(events) if "CPU" in str(e.device_type()))
    peak = running = 0
    for _, _, nbytes in on_cpu:
        running += nbytes
        peak = max(peak, running)
    return peak
