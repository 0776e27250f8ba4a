"""Our own check of a safetensors file's header, before any library maps or allocates anything.

The format is 8 bytes of header length, a JSON header, then raw numbers. The library is audited, but it does not stop
headers that stall a parser, names that repeat, or tensors that share bytes; and a refusal should say which file and
which figure. Only the header is read here, so a file of any size costs the same. Format:
https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.strict_json import is_whole, read_object

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 20_000
MAX_NAME_LENGTH = 512
MAX_DIMENSIONS = 16
MAX_ELEMENTS = 2**48
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
_METADATA = "__metadata__"
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class TensorFact:
    """What a header says of one tensor; `start` and `end` count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A checked header."""

    tensors: dict[str, TensorFact]
    header_bytes: int
    file_bytes: int


def read_header(path: Path) -> Header:
    """The header of a file, checked against the format and against the file's own size.

    Raises:
        InvalidInput: something about it is not allowed; the sentence names the file, the fact and what is allowed.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = _checked_length(file.read(_LENGTH_BYTES), size, path.name)
            raw = file.read(length)
    except OSError as error:
        raise InvalidInput(f"{path.name} cannot be read ({error.strerror}); make it readable") from None
    if len(raw) != length:
        raise InvalidInput(f"{path.name} ends after {len(raw)} of {length} header bytes; bring the whole file")
    tensors = _checked_tensors(read_object(raw, f"the header of {path.name}"), path.name)
    _check_layout(tensors, size - _LENGTH_BYTES - length, path.name)
    return Header(tensors, length, size)


def _checked_length(first: bytes, size: int, name: str) -> int:
    if len(first) < _LENGTH_BYTES:
        raise InvalidInput(f"{name} has {len(first)} bytes; a safetensors file begins with an 8-byte header length")
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER_BYTES:
        raise InvalidInput(f"the header of {name} claims {length:,} bytes; at most {MAX_HEADER_BYTES:,} are allowed")
    if length > size - _LENGTH_BYTES:
        raise InvalidInput(f"the header of {name} claims {length:,} bytes but the file has {size:,}; it is truncated")
    return length


def _checked_tensors(header: dict[str, Any], file: str) -> dict[str, TensorFact]:
    _check_metadata(header.pop(_METADATA, {}), file)
    if not 1 <= len(header) <= MAX_TENSORS:
        raise InvalidInput(f"{file} lists {len(header):,} tensors; 1 to {MAX_TENSORS:,} are allowed")
    return {name: _checked_tensor(name, entry, file) for name, entry in header.items()}


def _check_metadata(metadata: Any, file: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InvalidInput(f"{_METADATA} of {file} is not an object of texts; save the file again")


def _checked_tensor(name: str, entry: Any, file: str) -> TensorFact:
    if not name.isprintable() or not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise InvalidInput(
            f"{file} names a tensor {name!r:.80}; 1 to {MAX_NAME_LENGTH} printable characters are allowed"
        )
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise InvalidInput(f"tensor {name!r:.80} of {file} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise InvalidInput(
            f"tensor {name!r:.80} of {file} has dtype {dtype!r:.40}; allowed are {', '.join(DTYPE_BYTES)}"
        )
    if not _is_counts(shape) or len(shape) > MAX_DIMENSIONS or math.prod(shape) > MAX_ELEMENTS:
        raise InvalidInput(
            f"tensor {name!r:.80} of {file} has shape {shape!r:.80}; at most {MAX_DIMENSIONS} whole numbers >= 0 with "
            f"a product of at most {MAX_ELEMENTS:,} are allowed"
        )
    if not _is_counts(offsets) or len(offsets) != 2:
        raise InvalidInput(f"tensor {name!r:.80} of {file} has data_offsets {offsets!r:.80}; two numbers are needed")
    fact = TensorFact(dtype, tuple(shape), *offsets)
    if fact.end - fact.start != fact.elements * DTYPE_BYTES[dtype]:
        raise InvalidInput(
            f"tensor {name!r:.80} of {file} has {fact.end - fact.start:,} bytes where its shape and dtype need "
            f"{fact.elements * DTYPE_BYTES[dtype]:,}; the header is damaged"
        )
    return fact


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(is_whole(item) and item >= 0 for item in value)


def _check_layout(tensors: dict[str, TensorFact], data_bytes: int, file: str) -> None:
    """Tensors must follow each other without gap or overlap and end where the file ends."""
    expected, before = 0, "the header"
    for name, fact in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if fact.start != expected:
            fault = "overlaps" if fact.start < expected else "leaves a gap after"
            raise InvalidInput(
                f"tensor {name!r:.80} of {file} begins at byte {fact.start:,} and {fault} {before!s:.80}, which ends "
                f"at {expected:,}; tensors must follow each other"
            )
        expected, before = fact.end, repr(name)
    if expected != data_bytes:
        raise InvalidInput(
            f"the tensors of {file} end at byte {expected:,} but the file has {data_bytes:,} bytes of data; "
            "bring the whole file and nothing behind it"
        )
