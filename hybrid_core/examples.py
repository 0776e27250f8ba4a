"""Example inputs for a module that somebody brought: inferred where the first layer tells them, asked for where not.

A recipe can only be applied and measured on real calls. The first layer of many modules fixes everything but the
batch; where it does not (a convolution says nothing about image size), guessing would measure a workload nobody has,
so the caller is asked by name. What was inferred is tried once on a private copy before anything is built on it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.registry import ENTRIES

LINEAR_ROWS = 32
TOKEN_COUNT = 64
INPUT_SEED = 0


def private_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode; the given module is never touched.

    Raises:
        InvalidInput: it is no module, or it cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"model is a {type(model).__name__}; give a torch.nn.Module")
    try:
        return copy.deepcopy(model).eval()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InvalidInput(
            f"{type(model).__name__} cannot be deep-copied ({_first_line(error)}); give a module without live graphs, "
            "locks or open files"
        ) from error


def checked_inputs(model: nn.Module, example_inputs: Any = None) -> tuple[Any, ...]:
    """The inputs of one call as a tuple; inferred when none are given, tried once in both cases.

    Raises:
        InvalidInput: they cannot be inferred, have the wrong type, or the module does not accept them.
    """
    inferred = example_inputs is None
    inputs = infer_inputs(model) if inferred else _as_tuple(example_inputs)
    try:
        with torch.no_grad():
            private_copy(model)(*inputs)
    except InvalidInput:
        raise
    except Exception as error:
        source = "inferred from its first layer" if inferred else "given as example_inputs"
        raise InvalidInput(
            f"{type(model).__name__} failed on the inputs {source} ({describe_inputs(inputs)}): {_first_line(error)}; "
            "pass example_inputs=(tensor, ...) for one call that works"
        ) from error
    return inputs


def infer_inputs(model: nn.Module) -> tuple[Tensor, ...]:
    """Inputs from the registry for its own models, else from the first layer: Linear, LayerNorm or Embedding.

    Raises:
        InvalidInput: the first layer does not tell.
    """
    known = _registry_inputs(model)
    if known is not None:
        return known
    first = next((m for m in model.modules() if not list(m.children()) and list(m.parameters(recurse=False))), None)
    generator = torch.Generator().manual_seed(INPUT_SEED)
    if isinstance(first, nn.Linear):
        return (_random_like(first.weight, (LINEAR_ROWS, first.in_features), generator),)
    if isinstance(first, nn.LayerNorm):
        return (_random_like(first.weight, (LINEAR_ROWS, *first.normalized_shape), generator),)
    if isinstance(first, nn.Embedding):
        tokens = torch.randint(first.num_embeddings, (1, TOKEN_COUNT), generator=generator)
        return (tokens.to(first.weight.device),)
    raise InvalidInput(_cannot_infer(model, first))


def describe_inputs(inputs: tuple[Any, ...]) -> str:
    """Shapes and types in one line: 'float32 32x128, int64 1x64'."""
    return ", ".join(
        f"{str(x.dtype).removeprefix('torch.')} {'x'.join(map(str, x.shape)) or 'scalar'}"
        if isinstance(x, Tensor)
        else type(x).__name__
        for x in inputs
    )


def _registry_inputs(model: nn.Module) -> tuple[Tensor, ...] | None:
    """The registry's own inputs for a model that the registry built, found by class and parameter count."""
    if not type(model).__module__.startswith("hybrid_core.models"):
        return None
    parameters = sum(p.numel() for p in model.parameters())
    device = next(model.parameters()).device
    for entry in ENTRIES:
        for size in entry.sizes:
            if entry.facts(size).get("parameters") == parameters:
                # One call has to be model(*inputs), which decoding and sampling are not.
                workload = next(w for w in entry.workloads(size) if w.kind in ("forward", "prefill"))
                inputs = entry.make_inputs(size, workload, torch.Generator().manual_seed(INPUT_SEED))
                return tuple(x.to(device) for x in inputs)
    return None


def _cannot_infer(model: nn.Module, first: nn.Module | None) -> str:
    name = type(model).__name__
    if first is None:
        return (
            f"{name} has no layer with parameters to infer inputs from; pass example_inputs=(tensor, ...) for one call"
        )
    if isinstance(first, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        size = {nn.Conv1d: "length", nn.Conv2d: "height and width", nn.Conv3d: "depth, height and width"}
        missing = next(text for kind, text in size.items() if isinstance(first, kind))
        return (
            f"{name} starts with {type(first).__name__}(in_channels={first.in_channels}), which does not tell the "
            f"{missing}; pass example_inputs=(torch.randn(batch, {first.in_channels}, ...),)"
        )
    return (
        f"{name} starts with {type(first).__name__}, which does not tell its input; pass example_inputs=(tensor, ...)"
    )


def _as_tuple(given: Any) -> tuple[Any, ...]:
    if isinstance(given, Tensor):
        return (given,)
    if not isinstance(given, tuple | list) or not given:
        raise InvalidInput(
            f"example_inputs={given!r:.60} is not allowed; give a tensor or a tuple of one call's arguments"
        )
    return tuple(given)


def _random_like(weight: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    # Drawn in float32 on the CPU: not every dtype and device has a random generator.
    return torch.randn(shape, generator=generator).to(weight.device, weight.dtype)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__
