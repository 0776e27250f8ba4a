"""What another runtime keeps in memory, which no PyTorch tensor shows.

A session copies the weights, packs them for its kernels and keeps an arena for its activations; counted by tensors it
would need nothing at all. All of it comes from the C heap, so the growth of the heap while the session is made is what
it holds, and the growth during its first calls is what it needs to run. glibc counts its own heap to the byte
(`mallinfo2`); where there is none the growth of the resident set stands in, and the sentence says so.
Source: glibc manual, "Statistics for Memory Allocation with malloc".
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import psutil

T = TypeVar("T")

_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _HeapFacts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


@dataclass(frozen=True)
class OutsideMemory:
    """Bytes outside PyTorch: `weights` between calls, `working` on top inside a call; `found` says how, as a clause."""

    weights: int
    working: int
    found: str


def allocated_bytes() -> int:
    """Bytes of the C heap in use now, of all threads; the resident set where the heap keeps no count."""
    gc.collect()
    count = _heap_counter()
    if count is None:
        return int(psutil.Process().memory_info().rss)
    facts = count()
    return int(facts.uordblks) + int(facts.hblkhd)


def growth_during(work: Callable[[], T]) -> tuple[T, int]:
    """What `work` returns, and by how many bytes the heap is larger afterwards (below zero where it gave some back)."""
    before = allocated_bytes()
    result = work()
    return result, allocated_bytes() - before


def how_it_is_found() -> str:
    """The clause of `OutsideMemory.found` on this system."""
    count = "the C library's own count of its heap" if _heap_counter() else "the resident set, to about a megabyte"
    return f"by the growth of {count} while the session was made and first called"


def _heap_counter() -> Callable[[], _HeapFacts] | None:
    library = ctypes.CDLL(None)
    count = getattr(library, "mallinfo2", None)
    if count is None:
        return None
    count.restype = _HeapFacts
    counter: Callable[[], _HeapFacts] = count
    return counter
