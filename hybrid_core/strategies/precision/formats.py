"""The number formats one linear layer can be stored in on a device, with the bytes each needs: what can be mixed.

Bytes follow from the sizes: a matrix of `out` rows and `in` columns, and what the format keeps beside it (scales and
zeros). The bias stays float32 in all of them. A format that does not fit a layer, or that this processor computes
wrongly, is not offered for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from hybrid_core.strategies.precision.float16 import packed_half, packing_engine
from hybrid_core.strategies.precision.int4_weight_only import Int4Linear, fits_int4
from hybrid_core.strategies.precision.int8_dynamic import correct_engine, packed_by
from hybrid_core.strategies.precision.int8_weight_only import Int8WeightLinear

FLOAT32 = "float32"
GROUP = 32


@dataclass(frozen=True)
class Format:
    """`make(layer)` stores a layer; `weight_bytes(out, in)` is what its weight then takes; `fits` says for which."""

    name: str
    make: Callable[[nn.Linear], nn.Module]
    weight_bytes: Callable[[int, int], int]
    fits: Callable[[nn.Linear], bool] = lambda layer: True


class NarrowLinear(nn.Module):
    """A linear layer that multiplies in bfloat16 and answers in the type it was asked in."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight = nn.Parameter(layer.weight.detach().to(torch.bfloat16), requires_grad=False)
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Only the product is narrow; the bias is added afterwards."""
        sums = nn.functional.linear(inputs.to(self.weight.dtype), self.weight).to(inputs.dtype)
        return sums if self.bias is None else sums + self.bias


def formats_for(device: torch.device) -> dict[str, Format]:
    """What a layer can be stored in beside float32 on this device, by name; each was probed or is plain arithmetic."""
    bfloat16 = Format("bfloat16", NarrowLinear, lambda rows, columns: 2 * rows * columns)
    if device.type != "cpu":
        widened = Format("int8", Int8WeightLinear, lambda rows, columns: rows * columns + 4 * rows)
        return {f.name: f for f in (bfloat16, widened)}
    found = [bfloat16]
    if (half := packing_engine()) is not None:
        found.append(Format("float16", partial(packed_half, engine=half), lambda rows, columns: 2 * rows * columns))
    if (engine := correct_engine()) is not None:
        # A scale and a zero of eight bytes each for every row.
        found.append(Format("int8", partial(packed_by, engine), lambda rows, columns: rows * columns + 16 * rows))
    found.append(Format("int4", partial(Int4Linear, group=GROUP), _int4_bytes, lambda layer: fits_int4(layer, GROUP)))
    return {f.name: f for f in found}


def _int4_bytes(rows: int, columns: int) -> int:
    """Half a byte each, and a scale and a zero in bfloat16 for every group."""
    return rows * columns // 2 + rows * (columns // GROUP) * 4
