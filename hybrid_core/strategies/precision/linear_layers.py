"""Finds the linear layers that quantization replaces, in the order they run, and says what it leaves as it was.

A layer that is held in two places is one layer; a weight that another module also holds (a head tied to its embedding)
stays in memory whatever happens to the layer, so replacing it would add bytes. Mixture models keep their experts in
stacked parameters that are no layers at all: the share of weight bytes left untouched is told with every change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from hybrid_core.strategies.base import Situation, list_briefly, replace_submodule, run_example

# Vectors (biases, norms, scales) are left alone by every method and are no news.
FEWEST_DIMENSIONS = 2


def float_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Every distinct float32 nn.Linear by its first name.

    Exact type: subclasses (for example the output projection inside nn.MultiheadAttention) are read by other code.
    """
    return {n: m for n, m in model.named_modules() if type(m) is nn.Linear and m.weight.dtype == torch.float32}


def tied_linears(model: nn.Module) -> list[str]:
    """Names of the linear layers whose weight another module holds too, which therefore keep their float32 bytes."""
    holders: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    return [name for name, layer in float_linears(model).items() if holders[id(layer.weight)] > 1]


def running_order(model: nn.Module, situation: Situation) -> list[str]:
    """Names of the linear layers in the order in which the example call first reaches them; what never runs is absent.

    Reached means that the layer's own forward ran: a weight that other code reads directly does not count.
    """
    reached: dict[str, None] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _layer, _inputs, name=name: reached.setdefault(name))
        for name, layer in float_linears(model).items()
    ]
    try:
        run_example(model, situation)
    finally:
        for hook in hooks:
            hook.remove()
    return list(reached)


def replace_each(model: nn.Module, make: Callable[[nn.Linear], nn.Module], names: Iterable[str]) -> nn.Module:
    """Put `make(layer)` wherever each named layer is held; returns the model, which may itself be that layer."""
    layers = float_linears(model)
    for name in names:
        model = replace_submodule(model, name, make(layers[name]))
    return model


def left_in_float32(model: nn.Module) -> tuple[str, ...]:
    """One sentence with the share of weight bytes still in float32 and where they are; empty when there are none."""
    largest: dict[str, int] = {}
    for name, parameter in model.named_parameters():  # each shared parameter once
        if (
            type(parameter) is nn.Parameter
            and parameter.dtype == torch.float32
            and parameter.dim() >= FEWEST_DIMENSIONS
        ):
            largest[name] = parameter.numel() * parameter.element_size()
    total = sum(largest.values()) + replaced_bytes(model)
    if not largest:
        return ()
    names = sorted(largest, key=lambda name: -largest[name])
    stacks = sum(1 for name in names if model.get_parameter(name).dim() == 3 and is_stack(model, name))
    kind = f", {stacks} of them stacks of experts (3-D parameters)" if stacks else ""
    share = sum(largest.values()) / max(total, 1)
    return (f"left {share:.0%} of the weight bytes in float32: {list_briefly(names)}{kind}",)


def replaced_bytes(model: nn.Module) -> int:
    """What the layers that were replaced took in float32, read from the sizes that they keep."""
    total = 0
    for module in model.modules():
        sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
        weight = module._parameters.get("weight")
        plain = weight is not None and type(weight) is nn.Parameter and weight.dtype == torch.float32
        if not plain and isinstance(sizes[0], int) and isinstance(sizes[1], int):
            total += 4 * sizes[0] * sizes[1]
    subclassed = [p for p in model.parameters() if p.dim() == 3 and type(p) is not nn.Parameter]
    return total + sum(4 * parameter.numel() for parameter in subclassed)


def is_stack(model: nn.Module, name: str) -> bool:
    """Whether a 3-D parameter is a stack of matrices of the model's own code, not the kernel of a 1-D convolution."""
    owner, parameter = model.get_submodule(name.rpartition(".")[0]), model.get_parameter(name)
    return parameter.dim() == 3 and min(parameter.shape) > 1 and not type(owner).__module__.startswith("torch.nn.")
