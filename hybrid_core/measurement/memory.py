"""How many bytes a model needs: what it holds between calls, plus the most that is alive inside one call.

Held bytes are counted from storages, each once: parameters, buffers, the parts of tensor subclasses, packed quantized
weights (which are no tensors at all), and everything else a candidate keeps alive in Python, found through the garbage
collector, so that frozen constants or buffers hidden in a closure are not free. The peak of a call on the CPU is the
running sum of the profiler's allocator events, which sees kernel scratch that a tensor census misses; on a GPU it is
the allocator's own peak. Inputs exist before the call and count for neither side. What the whole process takes is a
check only, in `process_memory`. A module that runs outside PyTorch keeps bytes that neither count can see; it says them
itself, through `outside_memory`, and the measurement carries how they were found.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from hybrid_core.allocated import allocated_peak
from hybrid_core.measurement.case import Case, synchronize
from hybrid_core.records import Estimate

# storage address (or object identity where there is no storage) -> bytes
Storages = dict[tuple[str, int], int]


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of one model: `weights` held between calls, `live_peak` on top inside a call; reserved only on a GPU."""

    weights: int
    live_peak: int
    reserved_peak: int = 0

    @property
    def peak(self) -> int:
        """Weights and live bytes together: what the model needs."""
        return self.weights + self.live_peak


class OutsideMemory(Protocol):
    """Bytes that no tensor shows: `weights` between calls, `working` on top inside a call."""

    @property
    def weights(self) -> int:
        """Held between calls."""
        ...

    @property
    def working(self) -> int:
        """More inside a call, or kept from one call to the next for that."""
        ...

    @property
    def found(self) -> str:
        """How these were found, as a clause: "by the growth of ..."."""
        ...


@runtime_checkable
class HoldsOutside(Protocol):
    """A module that keeps weights or activations where PyTorch's allocator does not see them."""

    def outside_memory(self) -> OutsideMemory:
        """As of now, after the calls so far."""
        ...


def add_outside(model: nn.Module, use: MemoryUse) -> tuple[MemoryUse, tuple[str, ...]]:
    """`use` with what modules keep outside PyTorch, and a warning for each that says how it was found."""
    warnings = []
    for module in model.modules():
        if isinstance(module, HoldsOutside):
            outside = module.outside_memory()
            use = MemoryUse(use.weights + outside.weights, use.live_peak + outside.working, use.reserved_peak)
            warnings.append(
                f"{outside.weights / 1e6:.1f} MB held and {outside.working / 1e6:.1f} MB of working memory lie outside "
                f"PyTorch and were found {outside.found}"
            )
    return use, tuple(warnings)


def efficiency(baseline: MemoryUse, candidate: MemoryUse) -> Estimate:
    """Baseline bytes over candidate bytes; exact, for bytes are counted.

    >>> efficiency(MemoryUse(60, 40), MemoryUse(30, 20)).value
    2.0
    """
    return Estimate.exact(max(baseline.peak, 1) / max(candidate.peak, 1))


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters, buffers and packed quantized weights, every storage once."""
    return sum(model_storages(model).values()) + packed_bytes(model)


def model_storages(model: nn.Module) -> Storages:
    """Storages of parameters, buffers and tensors that modules hold as plain attributes."""
    found: Storages = {}
    for module in model.modules():
        tensors = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                found.update(storages_of(tensor))
    return found


def packed_bytes(model: nn.Module) -> int:
    """Bytes inside packed quantized weights, which hide from `parameters()`; each packed object once."""
    packed: dict[int, int] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.ScriptObject) and hasattr(value, "unpack"):
                packed[id(value)] = _packed_size(value, getattr(module, "dtype", None))
    return sum(packed.values())


def storages_of(tensor: torch.Tensor) -> Storages:
    """The real memory behind a tensor; a subclass is taken apart, a fake or meta tensor has none."""
    if isinstance(tensor, FakeTensor) or tensor.device.type == "meta":
        return {}
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        parts: Storages = {}
        for name in names:
            parts.update(storages_of(getattr(tensor, name)))
        return parts
    if tensor.layout is not torch.strided:
        return _opaque_storages(tensor)
    storage = tensor.untyped_storage()
    extra = _quantizer_bytes(tensor)
    return {(str(tensor.device), storage.data_ptr()): storage.nbytes() + extra} if storage.nbytes() else {}


def live_storages(ignore: Iterable[Any] = ()) -> Storages:
    """Storages of every tensor that Python keeps alive now; `ignore` lists tensors that do not count."""
    gc.collect()
    found: Storages = {}
    # By type and not by isinstance, which asks proxies for their __class__ and wakes lazy modules.
    for tensor in [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]:
        found.update(storages_of(tensor))
    for tensor in ignore:
        for key in storages_of(tensor):
            found.pop(key, None)
    return found


@contextlib.contextmanager
def existing_storages() -> Iterator[Storages]:
    """The storages alive now; what exists is set apart from the collector meanwhile, so later censuses are quick."""
    before = live_storages()
    gc.freeze()
    try:
        yield before
    finally:
        gc.unfreeze()


def held_bytes(model: nn.Module, before: Storages, after: Storages) -> int:
    """Weights of `model`, plus what appeared between two censuses of live storages and is none of its weights."""
    own = model_storages(model)
    hidden = {key: size for key, size in after.items() if key not in before and key not in own}
    return sum(own.values()) + sum(hidden.values()) + packed_bytes(model)


def live_peak_bytes(case: Case, model: nn.Module, inputs: Any) -> tuple[int, int]:
    """Most bytes allocated at one moment of one call, output included, inputs not; and the reserved peak on a GPU."""
    if case.device.type == "cuda":
        return _cuda_peaks(case, model, inputs)

    def call() -> None:
        with torch.inference_mode():
            case.call(model, inputs)

    return allocated_peak(call), 0


def _cuda_peaks(case: Case, model: nn.Module, inputs: Any) -> tuple[int, int]:
    synchronize(case.device)
    torch.cuda.reset_peak_memory_stats(case.device)
    before = torch.cuda.memory_allocated(case.device)
    with torch.inference_mode():
        case.call(model, inputs)
    synchronize(case.device)
    live = torch.cuda.max_memory_allocated(case.device) - before
    return max(live, 0), torch.cuda.max_memory_reserved(case.device)


def _packed_size(packed: Any, dtype: torch.dtype | None) -> int:
    """int8 weights are one byte each; a float16 pack unpacks as float32 but holds two bytes each."""
    parts = packed.unpack()
    weight, bias = parts[0], parts[1] if len(parts) > 1 else None
    item = weight.element_size() if weight.is_quantized else (2 if dtype == torch.float16 else weight.element_size())
    size: int = weight.numel() * item + _quantizer_bytes(weight)
    return size + (bias.numel() * bias.element_size() if isinstance(bias, torch.Tensor) else 0)


def _quantizer_bytes(tensor: torch.Tensor) -> int:
    """Per-channel scales (float64) and zero points (int64) of a quantized tensor; a per-tensor pair is 16 bytes."""
    if not tensor.is_quantized:
        return 0
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return 16
    scales, points = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return int(scales.numel() * scales.element_size() + points.numel() * points.element_size())


def _opaque_storages(tensor: torch.Tensor) -> Storages:
    """OneDNN tensors have no visible storage, sparse ones have several."""
    if tensor.layout is torch.sparse_coo:
        parts = [tensor._indices(), tensor._values()]
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    else:
        return {("opaque", id(tensor)): tensor.numel() * tensor.element_size()}
    found: Storages = {}
    for part in parts:
        found.update(storages_of(part))
    return found
