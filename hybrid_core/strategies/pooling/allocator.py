"""Allocators that keep what was freed: glibc's thresholds on the CPU, expandable segments on a GPU.

glibc maps every block of 32 MiB and more anew and trims its heap's end, so a model with such activations pays a page
fault for every 4 KiB in every call. Two variables raise both limits; like PyTorch's own they are read once, when
the process starts. So the model itself is only marked: what is applied here is the check that this process has
them, and that they work. Source: the mallopt manual; PyTorch's notes on CUDA memory management.
"""

from __future__ import annotations

import mmap
import os
import platform
import resource

import torch
from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Method, Setting, Situation, refuse_unless_started_with

MARK = "needs_start_variables"
# Above every block a model asks for; glibc before 2.35 accepts at most 32 MiB and ignores it, which is found below.
_NEVER = str(4 << 30)
GLIBC_VARIABLES = (("MALLOC_MMAP_THRESHOLD_", _NEVER), ("MALLOC_TRIM_THRESHOLD_", _NEVER))
SEGMENT_VARIABLES = (("PYTORCH_ALLOC_CONF", "expandable_segments:True"),)
_PROBE_BYTES = 48 << 20
_MOST_ATTEMPTS = 24


def keep_freed_memory(model: nn.Module, situation: Situation) -> Applied:
    """Mark the model as one for a process with glibc's thresholds raised; refuses in any other process."""
    refuse_unless_started_with(dict(GLIBC_VARIABLES))
    faults = faults_of_a_repeated_block()
    if faults * mmap.PAGESIZE > _PROBE_BYTES // 4:
        raise StrategyUnsupported(
            f"a block of {_PROBE_BYTES >> 20} MiB still costs {faults:,} page faults when it is asked for again, so "
            f"this C library ({' '.join(platform.libc_ver())}) or a preloaded allocator passes the variables by"
        )
    setattr(model, MARK, dict(GLIBC_VARIABLES))
    kept = "freed memory stays with the process instead of going back to the system, so large activations cost no page"
    cost = "the process's resident memory stays at its peak, and other programs cannot have it"
    return Applied(model, (f"{kept} faults from the second call on (glibc's mmap and trim thresholds: 4 GiB)", cost))


def faults_of_a_repeated_block() -> int:
    """Page faults of a block that is as large as one that was freed just before; the fewest of some attempts.

    Few attempts prove nothing: an aligned block needs a little more than the hole that its predecessor left, and a heap
    of many holes hands out another one each time (two of six processes that had compiled still faulted at the fifth).
    """
    counts: list[int] = []
    while len(counts) < _MOST_ATTEMPTS and min(counts[1:], default=1) > 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(_PROBE_BYTES, dtype=torch.uint8).fill_(1)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(counts[1:])


def expand_segments(model: nn.Module, situation: Situation) -> Applied:
    """Mark the model as one for a process with growing segments; refuses in any other process."""
    variables = dict(SEGMENT_VARIABLES)
    refuse_unless_started_with(variables)
    setattr(model, MARK, variables)
    said = "the GPU allocator grows few segments instead of reserving blocks of fixed sizes, which wastes less between"
    return Applied(model, (f"{said} them (PYTORCH_ALLOC_CONF={variables['PYTORCH_ALLOC_CONF']})",))


def _no_glibc(device: str) -> str | None:
    if not device.startswith("cpu"):
        return f"glibc's thresholds are for processor memory, and this device is '{device}'; use expandable_segments"
    found = c_library()
    if not found.startswith("glibc"):
        return f"the thresholds are glibc's, and this process runs on {found or 'another C library'}"
    return None


def c_library() -> str:
    """'glibc 2.36', or '' where the C library does not name itself (musl, macOS, Windows)."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "") if hasattr(os, "confstr") else ""
    except (ValueError, OSError):
        return ""


def _no_segments(device: str) -> str | None:
    if not device.startswith("cuda"):
        return f"expandable segments belong to the GPU allocator, and this device is '{device}'"
    return None if torch.cuda.is_available() else "expandable segments need an NVIDIA GPU, and PyTorch sees none"


KEEP_FREED_MEMORY = Method(
    Setting(
        name="keep_freed_memory",
        sentence="The C library keeps freed memory for the next call instead of giving it back to the system.",
        stage=96,
        exact=True,
        expected_cost_s=6.0,
        references=("https://man7.org/linux/man-pages/man3/mallopt.3.html",),
        start_variables=GLIBC_VARIABLES,
    ),
    apply=keep_freed_memory,
    unavailable=_no_glibc,
)

EXPANDABLE_SEGMENTS = Method(
    Setting(
        name="expandable_segments",
        sentence="The GPU allocator grows its segments instead of reserving new ones, which wastes less memory.",
        stage=96,
        exact=True,
        expected_cost_s=8.0,
        references=("https://docs.pytorch.org/docs/stable/notes/cuda.html#memory-management",),
        start_variables=SEGMENT_VARIABLES,
        on_request="what it saves shows in a long-lived process with changing shapes, which a trial does not have",
    ),
    apply=expand_segments,
    unavailable=_no_segments,
)
