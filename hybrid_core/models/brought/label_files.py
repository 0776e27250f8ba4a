"""Reads a small labelled file into tensors: rows of inputs, and one class for each (or, for decoders, just tokens).

Four forms, all bounded and none of them code: safetensors with `inputs` and `labels` (or `tokens`), JSON lines with
{"input": [...], "label": 3}, CSV with a header whose last column is `label`, and UTF-8 text for decoders that read
bytes. Rows are named in refusals, counted from 1.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.safetensors_header import read_header
from hybrid_core.models.brought.strict_json import is_whole, read_object

MAX_FILE_BYTES = 256 * 2**20
MAX_TEXT_BYTES = 64 * 2**20
MAX_ROWS = 100_000
MAX_ROW_NUMBERS = 4_000_000
READ_DTYPES = ("F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8")
FORMS = (".safetensors", ".jsonl", ".csv", ".txt")


@dataclass(frozen=True)
class LabelledRows:
    """Inputs (rows, ...) with labels (rows, ...), or a stream of tokens (length,) without labels."""

    inputs: Tensor
    labels: Tensor | None


def read_rows(path: Path, data: bytes) -> LabelledRows:
    """The rows of a file whose bytes are given.

    Raises:
        InvalidInput: it is of no known form, or a row is not like the others.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMS:
        raise InvalidInput(f"labelled file {path.name!r:.80} ends in {suffix!r:.20}; allowed are {', '.join(FORMS)}")
    if suffix != ".safetensors" and len(data) > MAX_TEXT_BYTES:
        raise InvalidInput(
            f"{path.name!r:.80} has {len(data):,} bytes; at most {MAX_TEXT_BYTES:,} are allowed for text"
        )
    if suffix == ".safetensors":
        return _read_tensors(path, data)
    text = _decoded(data, path.name)
    if suffix == ".txt":
        return LabelledRows(torch.frombuffer(bytearray(data), dtype=torch.uint8).long(), None)
    rows = _json_rows(text, path.name) if suffix == ".jsonl" else _csv_rows(text, path.name)
    return LabelledRows(_as_tensor([row for row, _ in rows], path.name), torch.tensor([label for _, label in rows]))


def _read_tensors(path: Path, data: bytes) -> LabelledRows:
    header = read_header(path)
    for name, fact in header.tensors.items():
        if fact.dtype not in READ_DTYPES:
            raise InvalidInput(f"{path.name!r:.80}: {name!r:.40} has dtype {fact.dtype}; use {', '.join(READ_DTYPES)}")
    names = set(header.tensors)
    if names == {"tokens"} and len(header.tensors["tokens"].shape) == 1:
        return LabelledRows(_whole(load(data)["tokens"], "tokens", path.name), None)
    if names != {"inputs", "labels"}:
        raise InvalidInput(
            f"{path.name!r:.80} holds {sorted(names)!r:.80}; give 'inputs' and 'labels', or 'tokens' with one dimension"
        )
    tensors = load(data)
    inputs, labels = tensors["inputs"], _whole(tensors["labels"], "labels", path.name)
    if inputs.ndim < 1 or labels.ndim < 1 or len(inputs) != len(labels):
        raise InvalidInput(
            f"{path.name!r:.80} has inputs {list(inputs.shape)} and labels {list(labels.shape)}; both need one entry "
            "for each row"
        )
    if inputs.is_floating_point() and not bool(inputs.float().isfinite().all()):
        raise InvalidInput(f"{path.name!r:.80} has NaN or infinity in its inputs; give finite numbers")
    return LabelledRows(inputs.float() if inputs.is_floating_point() else inputs.long(), labels)


def _json_rows(text: str, name: str) -> list[tuple[Any, int]]:
    rows: list[tuple[Any, int]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        row = read_object(line.encode(), f"row {number} of {name!r:.80}")
        if set(row) != {"input", "label"} or not isinstance(row["input"], list) or not is_whole(row["label"]):
            raise InvalidInput(f'row {number} of {name!r:.80} must be {{"input": [numbers], "label": class}}')
        rows.append((row["input"], _class(row["label"], number, name)))
        _check_count(rows, name)
    return rows


def _csv_rows(text: str, name: str) -> list[tuple[Any, int]]:
    rows: list[tuple[Any, int]] = []
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        header = next(reader, [])
        if len(header) < 2 or header[-1].strip() != "label":
            raise InvalidInput(f"the first line of {name!r:.80} must name the columns, the last one 'label'")
        for number, row in enumerate(reader, start=1):
            if len(row) != len(header):
                raise InvalidInput(f"row {number} of {name!r:.80} has {len(row)} values where {len(header)} are needed")
            rows.append(([_number(cell, number, name) for cell in row[:-1]], _label(row[-1], number, name)))
            _check_count(rows, name)
    except csv.Error as error:
        raise InvalidInput(f"{name!r:.80} is no CSV ({error!s:.100}); separate numbers by commas") from None
    return rows


def _as_tensor(rows: list[Any], name: str) -> Tensor:
    """Rows of equal shape as one tensor: whole numbers stay whole, one fraction makes all of them floating."""
    if not rows:
        raise InvalidInput(f"{name!r:.80} has no rows; give at least 32")
    shape = _shape(rows[0], 0)
    flat = [list(_flat(row, shape, number, name)) for number, row in enumerate(rows, start=1)]
    whole = all(is_whole(value) for row in flat for value in row)
    return torch.tensor(flat, dtype=torch.int64 if whole else torch.float32).view(len(rows), *shape)


def _shape(row: Any, depth: int) -> tuple[int, ...]:
    if not isinstance(row, list) or not row or depth > 4:
        return ()
    return (len(row), *_shape(row[0], depth + 1))


def _flat(row: Any, shape: tuple[int, ...], number: int, name: str) -> Any:
    if not shape:
        if not (is_whole(row) and abs(row) < 2**63) and not (isinstance(row, float) and math.isfinite(row)):
            raise InvalidInput(f"row {number} of {name!r:.80} holds {row!r:.40}; only finite numbers are allowed")
        yield row
        return
    if not isinstance(row, list) or len(row) != shape[0]:
        raise InvalidInput(f"row {number} of {name!r:.80} has another shape than row 1; rows must be equally long")
    for item in row:
        yield from _flat(item, shape[1:], number, name)


def _number(cell: str, number: int, name: str) -> int | float:
    try:
        return int(cell) if cell.strip().lstrip("+-").isdigit() else float(cell)
    except ValueError:
        raise InvalidInput(f"row {number} of {name!r:.80} holds {cell!r:.40}; only numbers are allowed") from None


def _label(cell: str, number: int, name: str) -> int:
    value = _number(cell, number, name)
    if not is_whole(value):
        raise InvalidInput(f"row {number} of {name!r:.80} has the label {cell!r:.40}; a class is a whole number")
    return _class(int(value), number, name)


def _class(value: int, number: int, name: str) -> int:
    if not 0 <= value < 2**31:
        raise InvalidInput(f"row {number} of {name!r:.80} has the label {value}; classes count from 0")
    return value


def _check_count(rows: list[Any], name: str) -> None:
    if len(rows) > MAX_ROWS:
        raise InvalidInput(f"{name!r:.80} has more than {MAX_ROWS:,} rows; give a sample of it")


def _whole(tensor: Tensor, what: str, name: str) -> Tensor:
    if tensor.is_floating_point():
        raise InvalidInput(f"{what} of {name!r:.80} are {tensor.dtype}; whole numbers are needed")
    return tensor.long()


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{name!r:.80} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
