"""What a candidate must leave alone: its inputs, its earlier answers, the untouched model's weights and its own.

A model that writes into the tensors it was given, or that computes with the weights of the model it is compared with,
has not become faster or smaller, it has changed the question. Each rule here is checked around real calls and names
what was touched; the settings of the process are in `process_state`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from hybrid_core.measurement.case import synchronize
from hybrid_core.measurement.nested import clone_tensors, leaves, tensor_leaves

_TRAINING_MATTERS = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def mutation_fault(before: Any, after: Any) -> str:
    """An input tensor whose values changed during the call, as a sentence."""
    for (path, old), (_, new) in zip(leaves(before, "input"), leaves(after, "input"), strict=True):
        if isinstance(old, torch.Tensor) and (old.shape != new.shape or not _same_bits(old, new)):
            return f"it changed {path}, which belongs to the caller"
    return ""


def rewritten_fault(copy: Any, kept: Any) -> str:
    """An answer that is no longer what it was when it was given, as a sentence: a stale or shared buffer."""
    for (path, old), (_, now) in zip(leaves(copy), leaves(kept), strict=True):
        if isinstance(old, torch.Tensor) and not _same_bits(old, now):
            return f"{path} of an earlier call changed when the model was called again; outputs must not share a buffer"
    return ""


def refill(inputs: Any, values: Any) -> None:
    """Write new values into the same tensor objects: what caches by identity or address cannot notice."""
    with torch.no_grad():
        for target, source in zip(tensor_leaves(inputs), tensor_leaves(values), strict=True):
            target.copy_(source)


def mixed_question(inputs: Any, values: Any, batch: int) -> Any | None:
    """`inputs` with the last item of the batch from `values`; None where the tensors are not all one row per item.

    Whoever recognises a question by its beginning, its shape or a sum that rounds gives the answer to the first.
    """
    firsts, seconds = tensor_leaves(inputs), tensor_leaves(values)
    if batch < 2 or any(
        a.dim() == 0 or a.shape != b.shape or len(a) != batch for a, b in zip(firsts, seconds, strict=True)
    ):
        return None
    mixed = clone_tensors(inputs)
    with torch.no_grad():
        for target, source in zip(tensor_leaves(mixed), seconds, strict=True):
            target[-1:].copy_(source[-1:])
    return mixed


def training_fault(model: nn.Module) -> str:
    """A model (or a dropout or batch norm inside it) that is in train mode, as a clause; empty when none is."""
    if model.training:
        return "the model is in train mode"
    for name, module in model.named_modules():
        if module.training and isinstance(module, _TRAINING_MATTERS):
            return f"'{name}' ({type(module).__name__}) is in train mode"
    return ""


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """What a model is, by the name of each part: its weights and buffers, and the code that its modules run.

    A tensor counts with the XOR of its bits, and with its sum, which sees equal changes that cancel.
    """
    parts: dict[str, Any] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        plain = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
        if plain.numel():
            parts[name] = _bits_and_sum(plain)
    for name, module in model.named_modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        parts[f"code of {name or 'the model'}"] = (
            type(module),
            type(module).forward,
            vars(module).get("forward"),
            hooks,
        )
    return parts


def own_weights(model: nn.Module) -> dict[str, Any]:
    """Fingerprint of the parameters alone, of those that are plain tensors: buffers may be a cache or a counter."""
    weights = {}
    for name, tensor in model.named_parameters():
        if type(tensor) is nn.Parameter and tensor.is_floating_point() and tensor.numel():
            weights[name] = _bits_and_sum(tensor.detach())
    return weights


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of the parts that differ, or are there only once."""
    return [name for name in (before | after) if before.get(name) != after.get(name)]


@contextlib.contextmanager
def scrambled(storages: Iterable[torch.UntypedStorage], device: torch.device) -> Iterator[None]:
    """Invert every bit of some memory for a while; whoever computes with it meanwhile gives nonsense.

    Inverting needs no copy and undoes itself exactly.
    """
    views = [torch.empty(0, dtype=torch.uint8, device=s.device).set_(s) for s in storages]  # type: ignore[call-overload]
    synchronize(device)
    for view in views:
        view.bitwise_not_()
    try:
        yield
    finally:
        synchronize(device)
        for view in views:
            view.bitwise_not_()
        synchronize(device)


def own_storages(model: nn.Module, shared_with: nn.Module | None = None) -> dict[int, torch.UntypedStorage]:
    """Memory of floating-point weights and buffers that PyTorch allocated, by address, less what another model has too.

    Whole numbers stay out: inverted indices would end the process. So does memory of others, such as a mapped file.
    """
    taken = own_storages(shared_with) if shared_with is not None else {}
    found: dict[int, torch.UntypedStorage] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        plain = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.layout is torch.strided
        if plain and tensor.device.type != "meta" and (tensor.is_floating_point() or tensor.is_complex()):
            storage = tensor.untyped_storage()
            if storage.nbytes() and storage.resizable() and storage.data_ptr() not in taken:
                found[storage.data_ptr()] = storage
    return found


def _bits_and_sum(tensor: torch.Tensor) -> tuple[int, float]:
    return int(torch.hash_tensor(tensor).item()), float(tensor.double().sum())


def _same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal values, NaN equal to NaN."""
    if first.is_complex():
        first, second = torch.view_as_real(first), torch.view_as_real(second)
    if first.is_floating_point():
        return bool(torch.equal(torch.nan_to_num(first, nan=0.125), torch.nan_to_num(second, nan=0.125)))
    return bool(torch.equal(first, second))
