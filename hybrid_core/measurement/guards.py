"""What a candidate must leave alone: its inputs, the process's settings, the baseline's weights, its earlier answers.

A model that speeds itself up by changing the number of threads, the default dtype or the tensors it was given has not
become faster, it has changed the question. Each rule here is checked around real calls and names what was touched.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from hybrid_core.measurement.nested import clone_tensors, leaves, tensor_leaves

_TRAINING_MATTERS = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def process_state(*, with_random: bool = True) -> dict[str, Any]:
    """The process-wide settings a model call has no business changing, by readable name."""
    state: dict[str, Any] = {
        "number of threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
    }
    if with_random:
        state["random state of torch"] = torch.get_rng_state().numpy().tobytes()
        state["random state of Python"] = random.getstate()
    return state


def state_fault(before: dict[str, Any], after: dict[str, Any], allowed: frozenset[str] = frozenset()) -> str:
    """The first setting that changed and is not `allowed` to, as a sentence; empty when none."""
    for name, value in before.items():
        if name not in allowed and after[name] != value:
            values = "" if "random" in name else f" from {value} to {after[name]}"
            return f"it changed the {name}{values}"
    return ""


def changed_settings(before: dict[str, Any], after: dict[str, Any]) -> frozenset[str]:
    """Names of the settings that differ; what the baseline itself changes cannot be held against a candidate."""
    return frozenset(name for name, value in before.items() if after[name] != value)


@contextlib.contextmanager
def restored_state(threads: int) -> Iterator[None]:
    """Run with `threads` threads and put the process's settings back afterwards, whatever the candidate did."""
    saved = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_rng_state())
    precision, python_random = torch.get_float32_matmul_precision(), random.getstate()
    if threads > 0:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(saved[0])
        torch.set_default_dtype(saved[1])
        torch.set_grad_enabled(saved[2])
        torch.set_rng_state(saved[3])
        torch.set_float32_matmul_precision(precision)
        random.setstate(python_random)


def mutation_fault(before: Any, after: Any) -> str:
    """An input tensor whose values changed during the call, as a sentence."""
    for (path, old), (_, new) in zip(leaves(before, "input"), leaves(after, "input"), strict=True):
        if isinstance(old, torch.Tensor) and (old.shape != new.shape or not _same_bits(old, new)):
            return f"it changed {path}, which belongs to the caller"
    return ""


def aliasing_fault(call: Callable[[Any], Any], first_inputs: Any, second_inputs: Any) -> str:
    """Call twice; an answer that changes when the next question is asked is a stale or shared buffer."""
    kept = call(first_inputs)
    copy = clone_tensors(kept)
    call(second_inputs)
    for (path, old), (_, now) in zip(leaves(copy), leaves(kept), strict=True):
        if isinstance(old, torch.Tensor) and not _same_bits(old, now):
            return f"{path} of an earlier call changed when the model was called again; outputs must not share a buffer"
    return ""


def refill(inputs: Any, values: Any) -> None:
    """Write new values into the same tensor objects: what caches by identity or address cannot notice."""
    with torch.no_grad():
        for target, source in zip(tensor_leaves(inputs), tensor_leaves(values), strict=True):
            target.copy_(source)


def training_fault(model: nn.Module) -> str:
    """A model (or a dropout or batch norm inside it) that is in train mode, as a clause; empty when none is."""
    if model.training:
        return "the model is in train mode"
    for name, module in model.named_modules():
        if module.training and isinstance(module, _TRAINING_MATTERS):
            return f"'{name}' ({type(module).__name__}) is in train mode"
    return ""


def weights_fingerprint(model: nn.Module) -> tuple[tuple[int, float], ...]:
    """Two numbers per parameter and buffer: the XOR of its bits, and its sum, which sees equal changes cancel."""
    tensors = [t.detach() for t in (*model.parameters(), *model.buffers()) if t.numel()]
    tensors = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
    return tuple((int(torch.hash_tensor(t).item()), float(t.double().sum())) for t in tensors)


def _same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal values, NaN equal to NaN."""
    if first.is_floating_point():
        return bool(torch.equal(torch.nan_to_num(first, nan=0.125), torch.nan_to_num(second, nan=0.125)))
    return bool(torch.equal(first, second))
