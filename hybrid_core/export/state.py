"""Every tensor a model holds, under a name that is the same whenever the model is built the same way.

`state_dict` misses buffers that are not persistent and tensors kept as plain attributes, and wraps packed int8 weights
in objects that only pickle can write. Here each holder is taken apart until plain tensors are left: subclasses by
`__tensor_flatten__` (the protocol of torch for traceable wrapper subclasses), quantized tensors into integers, scales
and zero points, packed weights by their own `unpack`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.strategies.precision.int8_dynamic import correct_engine, engine_set_to


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Name to plain tensor; those of parameters, buffers and subclasses share the model's memory."""
    return {path: leaf for name, module in model.named_modules() for path, leaf in _held_by(name, module)}


def put_in_place(model: nn.Module, values: Mapping[str, Tensor]) -> list[str]:
    """Write the given values into the model's own tensors; returns the names that could not be written."""
    own, left = tensors_of(model), dict(values)
    with torch.no_grad(), _packing_engine(model):
        for name, module in model.named_modules():
            for holder, packed in _packed(module):
                mine = {path: left.pop(path) for path, _ in _packed_parts(f"{name}.{holder}", packed) if path in left}
                if mine and not _repack(module, f"{name}.{holder}", packed, mine):
                    left.update(mine)
        for path in [path for path in left if path in own and not path.endswith(_COPIES)]:
            own[path].copy_(left.pop(path))
    return sorted(left)


# Parts that `_parts` made by copying: writing into them would change nothing.
_COPIES = ("/integers", "/scales", "/zero_points", "/dense")


@contextmanager
def _packing_engine(model: nn.Module) -> Iterator[None]:
    """Packing takes a global engine of torch, and one of them adds wrongly on some processors; see `int8_dynamic`."""
    engine = correct_engine() if any(_packed(module) for module in model.modules()) else None
    with nullcontext() if engine is None else engine_set_to(engine):
        yield


def _held_by(name: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    prefix = f"{name}." if name else ""
    for holder in (module._parameters, module._buffers, vars(module)):
        for key, value in holder.items():
            if isinstance(value, Tensor):
                yield from _parts(f"{prefix}{key}", value)
    for key, packed in _packed(module):
        yield from _packed_parts(f"{name}.{key}", packed)


def _parts(path: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if tensor.device.type == "meta":
        return
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _parts(f"{path}/{name}", getattr(tensor, name))
    elif tensor.is_quantized:
        scales, zero_points = _scales(tensor)
        yield from ((f"{path}/integers", tensor.int_repr()), (f"{path}/scales", scales))
        yield f"{path}/zero_points", zero_points
    elif tensor.layout is not torch.strided:
        yield f"{path}/dense", tensor.to_dense()
    else:
        yield path, tensor.detach()


def _scales(tensor: Tensor) -> tuple[Tensor, Tensor]:
    if tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
        return tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return torch.tensor(tensor.q_scale()), torch.tensor(tensor.q_zero_point())


def _packed(module: nn.Module) -> list[tuple[str, Any]]:
    """Packed quantized weights, which are no tensors at all."""
    return [(k, v) for k, v in vars(module).items() if isinstance(v, torch.ScriptObject) and hasattr(v, "unpack")]


def _packed_parts(path: str, packed: Any) -> Iterator[tuple[str, Tensor]]:
    for part, value in zip(("weight", "bias"), packed.unpack(), strict=False):
        if isinstance(value, Tensor):
            yield from _parts(f"{path}/{part}", value)


def _repack(module: nn.Module, path: str, packed: Any, values: dict[str, Tensor]) -> bool:
    """Pack other values the way these are packed; False where the module offers no way."""
    weight, bias = packed.unpack()[:2]
    pack: Any = getattr(module, "set_weight_bias", None)
    if pack is None:
        return False
    if not weight.is_quantized:  # float16 packs give back plain tensors
        pack(values.get(f"{path}/weight", weight), values.get(f"{path}/bias", bias))
        return True
    old_scales, old_points = _scales(weight)
    integers = values.get(f"{path}/weight/integers", weight.int_repr())
    scales = values.get(f"{path}/weight/scales", old_scales)
    points = values.get(f"{path}/weight/zero_points", old_points)
    if scales.ndim:
        packable = torch._make_per_channel_quantized_tensor(integers, scales, points, weight.q_per_channel_axis())
    else:
        packable = torch._make_per_tensor_quantized_tensor(integers, float(scales), int(points))
    pack(packable, values.get(f"{path}/bias", bias))
    return True
