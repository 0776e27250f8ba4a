"""The process-wide settings a model call has no business changing, and the functions a verdict rests on.

A candidate that takes more threads, leaves autocast on or replaces `time.perf_counter` has not become faster; it has
changed the conditions, the clock or the judge. Settings are read before and after whatever runs a candidate's code, the
first one that differs is named, and all are put back in the end, so that the next trial finds what this one found.
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as module_hooks

# Owner and attribute of every function that times, waits or compares, by the name a sentence gives it.
_FUNCTIONS: dict[str, tuple[Any, str]] = {
    "time.time": (time, "time"),
    "time.perf_counter": (time, "perf_counter"),
    "time.perf_counter_ns": (time, "perf_counter_ns"),
    "time.monotonic": (time, "monotonic"),
    "time.monotonic_ns": (time, "monotonic_ns"),
    "torch.cuda.synchronize": (torch.cuda, "synchronize"),
    "torch.cuda.Event": (torch.cuda, "Event"),
    "torch.equal": (torch, "equal"),
    "torch.isfinite": (torch, "isfinite"),
    "torch.isnan": (torch, "isnan"),
    "torch.hash_tensor": (torch, "hash_tensor"),
    "torch.linalg.vector_norm": (torch.linalg, "vector_norm"),
    "torch.Tensor.clone": (torch.Tensor, "clone"),
    "torch.Tensor.double": (torch.Tensor, "double"),
    "nn.Module.__call__": (nn.Module, "__call__"),
    "nn.Linear.forward": (nn.Linear, "forward"),
    "nn.functional.linear": (nn.functional, "linear"),
}
# Those of other files, where they are loaded: importing them here would cost time or go round in a circle.
_LOADED_FUNCTIONS = (
    ("hybrid_core.measurement.contest", "compare_outputs"),
    ("hybrid_core.measurement.latency", "clock_ns"),
    ("hybrid_core.measurement.latency", "take_sample"),
    ("hybrid_core.measurement.procedure", "measure"),
    ("torch.utils.benchmark.utils.timer", "timer"),
    ("timeit", "default_timer"),
)
_FUNCTION = "function "


def process_state(*, with_random: bool = True) -> dict[str, Any]:
    """All of it by readable name; `with_random` adds the random generators of torch, Python and NumPy."""
    state: dict[str, Any] = {
        "number of threads": torch.get_num_threads(),
        "number of interop threads": torch.get_num_interop_threads(),
        "default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast mode of the CPU": torch.is_autocast_enabled("cpu"),
        "autocast mode of the GPU": torch.is_autocast_enabled("cuda"),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "use of oneDNN": torch.backends.mkldnn.enabled,
        "number of torch function modes": torch._C._len_torch_function_stack(),
        "number of hooks on all modules": len(module_hooks._global_forward_hooks)
        + len(module_hooks._global_forward_pre_hooks),
    }
    if _gpu_in_use():
        state["current stream of the GPU"] = torch.cuda.current_stream().cuda_stream
    state |= {_FUNCTION + name: getattr(owner, attribute) for name, (owner, attribute) in _functions().items()}
    return state | _random_state() if with_random else state


def state_fault(before: dict[str, Any], after: dict[str, Any], allowed: frozenset[str] = frozenset()) -> str:
    """The first setting that changed and is not `allowed` to, as a sentence; empty when none."""
    for name, value in before.items():
        if name in allowed or name not in after or after[name] == value:
            continue
        if name.startswith(_FUNCTION):
            return f"it replaced {name.removeprefix(_FUNCTION)}, on which the measurement rests"
        values = "" if "random" in name else f" from {value} to {after[name]}"
        return f"it changed the {name}{values}"
    return ""


def changed_settings(before: dict[str, Any], after: dict[str, Any]) -> frozenset[str]:
    """Names of the settings that differ; what the baseline itself changes cannot be held against a candidate."""
    return frozenset(name for name, value in before.items() if after[name] != value)


def left_thread(before: set[threading.Thread]) -> str:
    """A thread that was not there before and goes on after the call, as a sentence; empty when there is none."""
    for thread in threading.enumerate():
        if thread not in before:
            return f"it left the thread '{thread.name}' at work when it answered; an answer must be finished"
    return ""


def seed_everything(seed: int) -> None:
    """A known state of every global generator."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


@contextlib.contextmanager
def restored_state(threads: int) -> Iterator[None]:
    """Run with `threads` threads and put the process back afterwards, whatever the candidate did."""
    saved = process_state(with_random=False)
    torch_random, python_random, numpy_random = torch.get_rng_state(), random.getstate(), np.random.get_state()
    functions = _functions()
    stream = torch.cuda.current_stream() if _gpu_in_use() else None
    if threads > 0:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        for name, (owner, attribute) in functions.items():
            if getattr(owner, attribute) is not saved[_FUNCTION + name]:
                setattr(owner, attribute, saved[_FUNCTION + name])
        torch.set_num_threads(saved["number of threads"])
        torch.set_default_dtype(saved["default dtype"])
        torch.set_grad_enabled(saved["grad mode"])
        torch.set_autocast_enabled("cpu", saved["autocast mode of the CPU"])
        torch.set_autocast_enabled("cuda", saved["autocast mode of the GPU"])
        torch.set_float32_matmul_precision(saved["float32 matmul precision"])
        torch.use_deterministic_algorithms(saved["deterministic algorithms"])
        if stream is not None:
            torch.cuda.set_stream(stream)
        torch.set_rng_state(torch_random)
        random.setstate(python_random)
        np.random.set_state(numpy_random)


def _gpu_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _functions() -> dict[str, tuple[Any, str]]:
    loaded = {
        f"{module}.{attribute}": (sys.modules[module], attribute)
        for module, attribute in _LOADED_FUNCTIONS
        if hasattr(sys.modules.get(module), attribute)
    }
    return _FUNCTIONS | loaded


def _random_state() -> dict[str, Any]:
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)  # type: ignore[assignment]
    gpu = torch.cuda.get_rng_state().numpy().tobytes() if _gpu_in_use() else b""
    return {
        "random state of the GPU": gpu,
        "random state of torch": torch.get_rng_state().numpy().tobytes(),
        "random state of Python": random.getstate(),
        "random state of NumPy": (numpy_state["state"]["key"].tobytes(), numpy_state["state"]["pos"]),
    }
