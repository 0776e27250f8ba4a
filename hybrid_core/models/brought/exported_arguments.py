"""The arguments of one node of an exported program, turned from JSON into values and graph nodes.

Every kind of argument that tensor operations take is listed; graphs, operators and custom objects are not among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.exported_tensors import DTYPES
from hybrid_core.models.brought.strict_json import is_whole

# Numbers of torch._export.serde.schema.MemoryFormat and Layout.
MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
LAYOUTS = {7: torch.strided}
_WORDS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}
MAX_LIST, MAX_TEXT = 100_000, 1_000

Lookup = Callable[[Any], Node]


def read_argument(argument: Any, find: Lookup) -> Any:
    """The value of an argument; `find` gives the node of a name.

    Raises:
        InvalidInput: it is of a kind that is not read.
    """
    kind, value = single(argument, "an argument")
    if kind in _LISTS:
        items = _list(value)
        return [read_argument({_LISTS[kind]: item}, find) for item in items]
    if kind == "as_optional_tensors":
        return [read_argument(item, find) for item in _list(value)]
    if kind == "as_optional_tensor":
        return read_argument(value, find)
    if kind == "as_tensor":
        return find(value.get("name") if isinstance(value, dict) else None)
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        inner, symbol = single(value, "a size")
        return find(symbol) if inner == "as_name" else read_argument({inner: symbol}, find)
    return _plain(kind, value)


_LISTS = {
    "as_tensors": "as_tensor",
    "as_ints": "as_int",
    "as_floats": "as_float",
    "as_bools": "as_bool",
    "as_strings": "as_string",
    "as_sym_ints": "as_sym_int",
    "as_sym_floats": "as_sym_float",
    "as_sym_bools": "as_sym_bool",
}


def single(value: Any, what: str) -> tuple[str, Any]:
    """Kind and content of a tagged value such as {"as_int": 3}."""
    if not isinstance(value, dict) or len(value) != 1:
        raise InvalidInput(f"the program has {what} {value!r:.80} where one tagged value is needed; export it again")
    ((kind, content),) = value.items()
    return kind, content


def _plain(kind: str, value: Any) -> Any:
    if kind == "as_none":
        return None
    if kind == "as_int" and is_whole(value) and abs(value) < 2**63:
        return value
    if kind == "as_bool" and isinstance(value, bool):
        return value
    if kind == "as_float":
        return _float(value)
    if kind == "as_string" and isinstance(value, str) and len(value) <= MAX_TEXT:
        return value
    if kind == "as_complex" and isinstance(value, dict) and set(value) == {"real", "imag"}:
        return complex(_float(value["real"]), _float(value["imag"]))
    if kind == "as_device" and isinstance(value, dict) and value.get("type") in ("cpu", "meta"):
        return torch.device("cpu")
    for name, table in (("as_scalar_type", DTYPES), ("as_memory_format", MEMORY_FORMATS), ("as_layout", LAYOUTS)):
        if kind == name and is_whole(value) and value in table:
            return table[value]
    raise InvalidInput(f"the program has the argument {kind[:40]!r}: {value!r:.80}, which is not read")


def _float(value: Any) -> float:
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidInput(f"the program has {value!r:.60} where a number is needed; export it again")
    return float(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_LIST:
        raise InvalidInput(f"the program has {value!r:.60} where a list is needed; export it again")
    return value
