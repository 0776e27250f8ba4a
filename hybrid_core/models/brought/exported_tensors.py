"""The weights and constants of an exported program: raw bytes with a description of how a tensor lies in them.

A description with symbols, on another device, of an unknown dtype or beyond its bytes is refused. Tensors that share
bytes stay shared, so tied weights are counted once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.exported_archive import MAX_JSON_BYTES, Archive
from hybrid_core.models.brought.safetensors_header import MAX_TENSORS
from hybrid_core.models.brought.strict_json import is_whole, read_object

# Numbers of torch._export.serde.schema.ScalarType.
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    10: torch.complex64,
    12: torch.bool,
    13: torch.bfloat16,
}
STRIDED = 7


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies: its record and how to view it."""

    record: str
    dtype: torch.dtype
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    is_parameter: bool

    @property
    def elements(self) -> int:
        """Numbers that the view reaches, from the record's beginning."""
        if 0 in self.sizes:
            return 0
        return self.offset + 1 + sum((n - 1) * s for n, s in zip(self.sizes, self.strides, strict=True))


def read_places(archive: Archive, folder: str, config: str) -> dict[str, TensorPlace]:
    """Name to place of every tensor that a payload configuration lists.

    Raises:
        InvalidInput: one is pickled, symbolic, elsewhere than on the CPU, or larger than its record.
    """
    listed = read_object(archive.read(config, MAX_JSON_BYTES), config).get("config")
    if not isinstance(listed, dict) or len(listed) > MAX_TENSORS:
        raise InvalidInput(f"{config} must list at most {MAX_TENSORS:,} tensors; export the program again")
    return {name: _place(archive, folder, name, entry) for name, entry in listed.items()}


def check_meta(meta: Any, what: str) -> torch.dtype:
    """The dtype of a tensor description that lies plainly on the CPU."""
    if not isinstance(meta, dict) or not is_whole(meta.get("dtype")) or meta["dtype"] not in DTYPES:
        raise InvalidInput(f"{what} has no known dtype; allowed are {', '.join(map(str, DTYPES.values()))}")
    device = meta.get("device")
    if not isinstance(device, dict) or device.get("type") != "cpu":
        raise InvalidInput(f"{what} is on {device!r:.60}; move the model to the CPU and export it again")
    if meta.get("layout") != STRIDED:
        raise InvalidInput(f"{what} has the layout {meta.get('layout')!r:.20}; only strided tensors are read")
    return DTYPES[meta["dtype"]]


def tensor_reader(archive: Archive) -> Callable[[TensorPlace], Tensor]:
    """A function from place to tensor that reads every record once."""
    records: dict[str, bytearray] = {}

    def read(place: TensorPlace) -> Tensor:
        if place.elements == 0:
            return torch.zeros(place.sizes, dtype=place.dtype)
        raw = records.setdefault(place.record, bytearray()) or bytearray(archive.read(place.record))
        records[place.record] = raw
        flat = torch.frombuffer(raw, dtype=place.dtype, count=len(raw) // place.dtype.itemsize)
        return flat.as_strided(place.sizes, place.strides, place.offset)

    return read


def _place(archive: Archive, folder: str, name: str, entry: Any) -> TensorPlace:
    what = f"tensor {name!r:.120}"
    if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
        raise InvalidInput(f"{what} is pickled; only plain tensors are read: export a model without tensor subclasses")
    record = f"{folder}{entry.get('path_name')}"
    if record not in archive.sizes or not isinstance(entry.get("is_param"), bool):
        raise InvalidInput(f"{what} lies in {record!r:.120}, which is not there; export the program again")
    meta = entry.get("tensor_meta")
    dtype = check_meta(meta, what)
    assert isinstance(meta, dict)
    sizes, strides = (tuple(_number(n, what) for n in _list(meta.get(key), what)) for key in ("sizes", "strides"))
    place = TensorPlace(record, dtype, sizes, strides, _number(meta.get("storage_offset"), what), entry["is_param"])
    if len(sizes) != len(strides) or place.elements * dtype.itemsize > archive.sizes[record]:
        raise InvalidInput(f"{what} reaches beyond the {archive.sizes[record]:,} bytes of its record; export it again")
    return place


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > 16:
        raise InvalidInput(f"{what} has no list of at most 16 sizes and strides; export the program again")
    return value


def _number(value: Any, what: str) -> int:
    number = value.get("as_int") if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= 2**48:
        raise InvalidInput(f"{what} has the size, stride or offset {value!r:.60}; a plain whole number is needed")
    return number
