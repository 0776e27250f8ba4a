"""The header check refuses every way a safetensors header can lie, and never raises anything but InvalidInput."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.safetensors_header import MAX_HEADER_BYTES, read_header


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def tensor(start: int, end: int, dtype: str = "F32", shape: list[Any] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def test_a_file_of_the_library_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    tensors = {
        "weights": torch.randn(3, 5),
        "half": torch.zeros(2, 0, dtype=torch.float16),
        "scalar": torch.tensor(3),
        "flags": torch.ones(7, dtype=torch.bool),
    }
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    with safe_open(path, framework="pt") as file:
        assert set(header.tensors) == set(file.keys())
        for name, fact in header.tensors.items():
            assert fact.shape == tuple(file.get_slice(name).get_shape())
            assert fact.dtype == file.get_slice(name).get_dtype()
            assert fact.elements == tensors[name].numel()


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "length of 2^60": (lambda p: write(p, {}, length=2**60), f"at most {MAX_HEADER_BYTES:,}"),
    "length beyond the file": (lambda p: write(p, {"a": tensor(0, 4)}, bytes(4), length=4_000), "truncated"),
    "shorter than a length": (lambda p: p.write_bytes(b"\x01\x02") and p, "8-byte header length"),
    "no tensors": (lambda p: write(p, {}), "lists 0 tensors"),
    "a list": (lambda p: write(p, []), "object"),
    "not JSON": (lambda p: write(p, b"{nothing"), "JSON"),
    "not UTF-8": (lambda p: write(p, b'{"\xff": 1}'), "JSON"),
    "NaN": (lambda p: write(p, b'{"a": NaN}'), "NaN"),
    "nested without end": (lambda p: write(p, b'{"a":' + b"[" * 100_000), "nests too deeply"),
    "a number of 10,000 digits": (lambda p: write(p, b'{"a": ' + b"9" * 10_000 + b"}"), "JSON"),
    "the same name twice": (
        lambda p: write(p, b'{"a": %b, "a": %b}' % ((json.dumps(tensor(0, 4)).encode(),) * 2), bytes(4)),
        "'a' twice",
    ),
    "unknown dtype": (lambda p: write(p, {"a": tensor(0, 4, "F8_E4M3", [4])}, bytes(4)), "F8_E4M3"),
    "dtype as a number": (lambda p: write(p, {"a": tensor(0, 4, 7)}, bytes(4)), "dtype 7"),  # type: ignore[arg-type]
    "overlapping": (lambda p: write(p, {"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)), "overlaps"),
    "sharing all bytes": (lambda p: write(p, {"a": tensor(0, 8), "b": tensor(0, 8)}, bytes(8)), "overlaps"),
    "a gap": (lambda p: write(p, {"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)), "gap"),
    "ending early": (lambda p: write(p, {"a": tensor(0, 4)}, bytes(64)), "64 bytes of data"),
    "ending late": (lambda p: write(p, {"a": tensor(0, 64)}, bytes(4)), "end at byte 64"),
    "too large a shape": (lambda p: write(p, {"a": tensor(0, 4, shape=[2**40, 2**40])}, bytes(4)), "product"),
    "shape that needs more": (lambda p: write(p, {"a": tensor(0, 4, shape=[2])}, bytes(4)), "need 8"),
    "negative size": (lambda p: write(p, {"a": tensor(0, 4, shape=[-1, -1])}, bytes(4)), "shape [-1, -1]"),
    "size that is true": (lambda p: write(p, {"a": tensor(0, 4, shape=[True])}, bytes(4)), "shape [True]"),
    "negative offset": (lambda p: write(p, {"a": tensor(-4, 0)}, bytes(4)), "data_offsets"),
    "offsets backwards": (lambda p: write(p, {"a": tensor(4, 0, shape=[1])}, bytes(4)), "-4 bytes"),
    "one offset": (lambda p: write(p, {"a": {"dtype": "F32", "shape": [], "data_offsets": [0]}}), "two numbers"),
    "a further key": (lambda p: write(p, {"a": {**tensor(0, 4), "code": "x"}}, bytes(4)), "exactly"),
    "a name with a line break": (lambda p: write(p, {"a\nb": tensor(0, 4)}, bytes(4)), "printable"),
    "an empty name": (lambda p: write(p, {"": tensor(0, 4)}, bytes(4)), "printable"),
    "metadata with numbers": (
        lambda p: write(p, {"__metadata__": {"a": 1}, "a": tensor(0, 4)}, bytes(4)),
        "object of texts",
    ),
    "20,001 tensors": (
        lambda p: write(p, {f"t{i}": tensor(i * 4, i * 4 + 4) for i in range(20_001)}, bytes(20_001 * 4)),
        "20,001 tensors",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies_is_refused_with_the_file_and_the_fact(tmp_path: Path, case: str) -> None:
    make, told = HOSTILE[case]
    with pytest.raises(InvalidInput) as refusal:
        read_header(make(tmp_path / "w.safetensors"))
    assert told in str(refusal.value) and "w.safetensors" in str(refusal.value)
    assert len(str(refusal.value)) < 500


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_header(tmp_path / "none.safetensors")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I8", "BOOL", "X"]) | JSON_VALUES,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON_VALUES,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=1, max_size=3) | JSON_VALUES,
    }
)
HEADERS = st.dictionaries(st.text(max_size=6), ENTRIES | JSON_VALUES, max_size=4) | JSON_VALUES


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=HEADERS, data=st.binary(max_size=64), shift=st.integers(-3, 3))
def test_no_header_makes_the_check_fail_otherwise_than_by_refusing(
    tmp_path: Path, header: Any, data: bytes, shift: int
) -> None:
    raw = json.dumps(header).encode()
    path = write(tmp_path / "fuzzed.safetensors", raw, data, length=max(0, len(raw) + shift))
    try:
        accepted = read_header(path)
    except InvalidInput:
        return
    with safe_open(path, framework="pt") as file:  # what we accept, the library reads
        assert set(file.keys()) == set(accepted.tensors)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=200))
def test_no_bytes_make_the_check_fail_otherwise_than_by_refusing(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "bytes.safetensors"
    path.write_bytes(raw)
    with pytest.raises(InvalidInput):
        read_header(path)
