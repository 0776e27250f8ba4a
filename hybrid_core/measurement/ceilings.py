"""What this device can do at best: products per second by number format, and bytes read per second by working set.

A ceiling is a bound, so the best of many repetitions is taken and never a typical one, and the largest over formats and
sizes is what a time is held against. It is measured before any candidate exists, with the threads that the models have
too, and handed from one process of a run to the next; what was handed over is checked like any input. Idea: the
roofline model, Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures", CACM 52(4), 2009.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hybrid_core.measurement.case import synchronize

clock_ns = time.perf_counter_ns

# Seconds spent on one product or one working set; the first call of each prepares it and is not counted.
PATIENCE_S = 0.05
FEWEST_REPETITIONS = 3
# A product is large enough for all cores once it takes this long; above it only costs more.
LONG_ENOUGH_S = 4e-3
PRODUCT_SIZES = {"cpu": (256, 512, 1024, 2048), "cuda": (2048, 4096, 8192)}
# In the second level cache, in the last one, and (on most machines) in memory.
WORKING_SETS = {"cpu": (256 << 10, 4 << 20, 64 << 20), "cuda": (4 << 20, 32 << 20, 512 << 20)}


@dataclass(frozen=True)
class Ceilings:
    """Best rates of `device` with `threads`: `flops` a second by format, bytes `read` a second by bytes worked on."""

    device: str
    threads: int
    flops: Mapping[str, float]
    read: Mapping[int, float]
    seconds: float = 0.0

    @property
    def best_flops(self) -> float:
        """The highest rate of all formats: a candidate may have chosen any."""
        return max(self.flops.values())

    @property
    def best_read(self) -> float:
        """The highest rate of all working sets: what a candidate reads may fit into a cache."""
        return max(self.read.values())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the sizes of working sets become text."""
        read = {str(size): rate for size, rate in self.read.items()}
        return {
            "device": self.device,
            "threads": self.threads,
            "flops": dict(self.flops),
            "read": read,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ceilings:
        """What `to_json` gave.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is no such thing, or a rate is no positive number.
        """
        flops = {str(name): float(rate) for name, rate in data["flops"].items()}
        read = {int(size): float(rate) for size, rate in data["read"].items()}
        rates = (*flops.values(), *read.values())
        if not flops or not read or not all(math.isfinite(rate) and rate > 0 for rate in rates):
            raise ValueError(f"ceilings {str(data)!r:.80} hold something that is no positive rate")
        return cls(str(data["device"]), int(data["threads"]), flops, read, float(data["seconds"]))


@functools.cache
def ceilings_of(device: torch.device, threads: int) -> Ceilings:
    """Measure a device, once in a process; `threads` are those that PyTorch is set to now."""
    return measure_ceilings(device, threads)


def measure_ceilings(device: torch.device, threads: int, clock: Callable[[], int] = clock_ns) -> Ceilings:
    """About a second on a CPU; formats that this build or device cannot multiply are left out."""
    started = clock()
    with torch.inference_mode():
        flops = {name: _best_product(kind, device, clock) for name, kind in _formats(device).items()}
        read = {size: _best_read(size, device, clock) for size in WORKING_SETS[device.type]}
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the allocator keeps of this would count to a model later
    known = {name: rate for name, rate in flops.items() if rate}
    return Ceilings(str(device), threads, known, read, (clock() - started) / 1e9)


# Makes the product of two n x n matrices of one format as a function without arguments.
Product = Callable[[int, torch.device], Callable[[], Any]]


def _formats(device: torch.device) -> dict[str, Product]:
    formats: dict[str, Product] = {"float32": _floats(torch.float32), "bfloat16": _floats(torch.bfloat16)}
    if device.type == "cuda":
        formats |= {"float16": _floats(torch.float16), "tfloat32": _tensor_floats, "float8": _small_floats}
    return formats | {"int8": _whole_numbers}


def _floats(dtype: torch.dtype) -> Product:
    def make(size: int, device: torch.device) -> Callable[[], Any]:
        left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
        return lambda: torch.mm(left, right)

    return make


def _tensor_floats(size: int, device: torch.device) -> Callable[[], Any]:
    product = _floats(torch.float32)(size, device)

    def run() -> None:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            product()
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return run


def _small_floats(size: int, device: torch.device) -> Callable[[], Any]:
    left = torch.ones(size, size, device=device).to(torch.float8_e4m3fn)
    scale = torch.ones((), device=device)
    return lambda: torch._scaled_mm(left, left.t(), scale, scale, out_dtype=torch.bfloat16)


def _whole_numbers(size: int, device: torch.device) -> Callable[[], Any]:
    left = torch.ones(size, size, dtype=torch.int8, device=device)
    # cuBLAS wants the right side by columns.
    return lambda: torch._int_mm(left, left.t())


def _best_product(make: Product, device: torch.device, clock: Callable[[], int]) -> float:
    """Floating point (or whole number) operations a second, 0 where the format cannot be multiplied."""
    best = 0.0
    for size in PRODUCT_SIZES[device.type]:
        try:
            shortest_s = _shortest_s(make(size, device), device, clock)
        except (RuntimeError, NotImplementedError):  # no kernel of this format here, which only leaves it out
            return best
        best = max(best, 2.0 * size**3 / shortest_s)
        if shortest_s > LONG_ENOUGH_S:
            break
    return best


def _best_read(size: int, device: torch.device, clock: Callable[[], int]) -> float:
    """Bytes a second of a sum, or of a product with a vector, over `size` bytes; whichever is faster here."""
    values = torch.ones(size // 4, device=device)
    matrix = values.view(-1, 1024)
    vector = torch.ones(1024, device=device)
    ways: tuple[Callable[[], Any], ...] = (values.sum, lambda: torch.mv(matrix, vector))
    return max(size / _shortest_s(way, device, clock) for way in ways)


def _shortest_s(work: Callable[[], Any], device: torch.device, clock: Callable[[], int]) -> float:
    work()
    synchronize(device)
    shortest, begun, count = math.inf, clock(), 0
    while count < FEWEST_REPETITIONS or (clock() - begun) / 1e9 < PATIENCE_S:
        started = clock()
        work()
        synchronize(device)
        shortest = min(shortest, (clock() - started) / 1e9)
        count += 1
    return max(shortest, 1e-9)
