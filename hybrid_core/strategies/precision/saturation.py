"""Asks an int8 kernel whether it adds correctly on this processor, because the wrong ones say nothing.

Eight-bit activations times eight-bit weights overflow the 16-bit lanes of AVX2 (`vpmaddubsw`): two products of 255 and
127 are 64,770 where 32,767 is the most a lane holds, and the sum of 512 ones comes out near 256. Processors with VNNI
add in 32 bits. Every int8 kernel is therefore tried on its own before it is used, never concluded from the processor.
Source: Khudia et al. 2021 (arXiv 2101.05615), section on saturation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

WIDTH, ROWS, OUTPUTS = 512, 4, 16
TOLERANCE = 0.01


def adds_correctly(make_int8: Callable[[nn.Linear], nn.Module]) -> bool:
    """True when the int8 copy of a layer of ones sums 512 products to 512, and signs and halves come out as well.

    `make_int8(layer)` returns the quantized copy. All-equal values are the worst case: each quantizes to the end of
    its range, so both products of a pair are the largest there are.
    """
    layer = nn.Linear(WIDTH, OUTPUTS, bias=False, device="meta").to_empty(device="cpu")  # draws no random numbers
    sums = []
    for weight in (1.0, -1.0):
        nn.init.constant_(layer.weight, weight)
        with torch.no_grad():
            quantized = make_int8(layer)
            sums += [(quantized(torch.full((ROWS, WIDTH), x)) / (x * weight), WIDTH) for x in (1.0, 0.5, -1.0)]
    return all(bool((found - expected).abs().max() < TOLERANCE * expected) for found, expected in sums)


def static_range() -> int | None:
    """The largest activation that oneDNN's static int8 kernels add correctly: 255, 127 without VNNI, None for neither.

    These are the kernels that the compiler puts where a graph says quantize, product, dequantize.
    """
    for largest in (255, 127):
        try:
            sums = torch.cat([_static_product(largest), _static_convolution(largest)])
        except (RuntimeError, AttributeError, NotImplementedError):  # built without oneDNN, or not for this processor
            return None
        if bool((sums - WIDTH).abs().max() < TOLERANCE * WIDTH):
            return largest
    return None


def _static_product(largest: int) -> torch.Tensor:
    ones = torch.full((ROWS, WIDTH), largest, dtype=torch.uint8)
    packed = torch.ops.onednn.qlinear_prepack(torch.full((OUTPUTS, WIDTH), 127, dtype=torch.int8), list(ones.shape))
    scales, zeros = torch.full((OUTPUTS,), 1 / 127), torch.zeros(OUTPUTS, dtype=torch.int64)
    sums: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        ones, 1 / largest, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return sums.flatten()


def _static_convolution(largest: int) -> torch.Tensor:
    ones = torch.full((1, WIDTH, ROWS, ROWS), largest, dtype=torch.uint8)
    kernel, scales = torch.full((OUTPUTS, WIDTH, 1, 1), 127, dtype=torch.int8), torch.full((OUTPUTS,), 1 / 127)
    zeros, form = (
        torch.zeros(OUTPUTS, dtype=torch.int64),
        ([1, 1], [0, 0], [1, 1], 1),
    )  # stride, padding, dilation, groups
    packed = torch.ops.onednn.qconv_prepack(kernel, scales, 1 / largest, 0, *form, list(ones.shape))
    sums: torch.Tensor = torch.ops.onednn.qconv_pointwise(
        ones, 1 / largest, 0, packed, scales, zeros, None, *form, 1.0, 0, torch.float32, "none", [], ""
    )
    return sums.flatten()
