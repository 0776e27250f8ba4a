"""Fresh inputs for a module that only tells shapes: drawn by dtype and range, never repeated.

Whole numbers need a range, because an index outside an embedding ends a run; where none can be inferred the person is
asked for an example. Truth values are all true, as a mask that hides everything makes attention divide by zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.strict_json import is_whole

FLOATING = ("float32", "float16", "bfloat16", "float64")
WHOLE = ("int64", "int32", "int16", "int8", "uint8")
MAX_INPUT_ELEMENTS = 2**28


@dataclass(frozen=True)
class InputSpec:
    """One tensor of a call. `low` to `high` - 1 for whole numbers, mean and deviation for floating ones."""

    dtype: str
    shape: tuple[int, ...]
    low: int | None = None
    high: int | None = None
    mean: float = 0.0
    deviation: float = 1.0

    @property
    def needs_range(self) -> bool:
        """Whether whole numbers cannot be drawn yet."""
        return self.dtype in WHOLE and (self.low is None or self.high is None)

    def draw(self, generator: torch.Generator) -> Tensor:
        """A fresh tensor."""
        dtype = getattr(torch, self.dtype)
        if self.dtype == "bool":
            return torch.ones(self.shape, dtype=torch.bool)
        if self.dtype in WHOLE:
            assert self.low is not None and self.high is not None, self
            return torch.randint(self.low, self.high, self.shape, generator=generator).to(dtype)
        return (torch.randn(self.shape, generator=generator) * self.deviation + self.mean).to(dtype)

    def to_json(self) -> dict[str, Any]:
        """For `Registration.details`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> InputSpec:
        """Read what `to_json` wrote."""
        return cls(**{**data, "shape": tuple(data["shape"])})


def checked_shape(shape: Sequence[Any], what: str) -> tuple[int, ...]:
    """A shape that can be allocated."""
    elements = 1
    for size in shape:
        if not is_whole(size) or size < 1:
            raise InvalidInput(f"{what} has the shape {list(shape)!r:.80}; every size must be a whole number from 1 on")
        elements *= size
    if elements > MAX_INPUT_ELEMENTS:
        raise InvalidInput(f"{what} has {elements:,} numbers; at most {MAX_INPUT_ELEMENTS:,} are allowed for one input")
    return tuple(shape)


def spec_like(example: Tensor, what: str) -> InputSpec:
    """Inputs that look like an example: its shape and dtype, its range or its mean and deviation."""
    name = str(example.dtype).removeprefix("torch.")
    shape = checked_shape(list(example.shape), what)
    if name == "bool":
        return InputSpec(name, shape)
    if name in WHOLE:
        return InputSpec(name, shape, low=int(example.min()), high=int(example.max()) + 1)
    if name not in FLOATING:
        raise InvalidInput(f"{what} has dtype {name}; allowed are {', '.join((*FLOATING, *WHOLE, 'bool'))}")
    wide = example.detach().double()
    if not bool(wide.isfinite().all()):
        raise InvalidInput(f"{what} holds NaN or infinity; give finite numbers")
    deviation = float(wide.std(correction=0)) if wide.numel() > 1 else 1.0
    return InputSpec(name, shape, mean=float(wide.mean()), deviation=deviation or 1.0)


def with_ranges(specs: Sequence[InputSpec], known: Sequence[Mapping[str, Any]]) -> tuple[InputSpec, ...]:
    """The specs with the ranges that an inspection stored, where dtype and shape are still the same."""
    stored = [InputSpec.from_json(entry) for entry in known]
    if [(s.dtype, s.shape) for s in stored] != [(s.dtype, s.shape) for s in specs]:
        return tuple(specs)
    return tuple(stored)
