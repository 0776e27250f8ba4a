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
    layer = nn.Linear(WIDTH, OUTPUTS, bias=False)
    sums = []
    for weight in (1.0, -1.0):
        nn.init.constant_(layer.weight, weight)
        with torch.no_grad():
            quantized = make_int8(layer)
            sums += [(quantized(torch.full((ROWS, WIDTH), x)) / (x * weight), WIDTH) for x in (1.0, 0.5, -1.0)]
    return all(bool((found - expected).abs().max() < TOLERANCE * expected) for found, expected in sums)
