"""JSON from a stranger: bounded, one meaning, no surprise.

Python's reader keeps the last of two equal keys, so a check and a loader may see different values; it also accepts NaN
and nests until the interpreter gives up. Here each of these is a sentence.
"""

from __future__ import annotations

import json
from typing import Any

from hybrid_core.errors import InvalidInput


def read_json(data: bytes, what: str) -> Any:
    """The value in `data`; `what` names it in the refusal.

    Raises:
        InvalidInput: it is not UTF-8 JSON, repeats a key, holds NaN or infinity, or nests too deeply.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise InvalidInput(f"{what} has the key {key!r:.80} twice; each key may stand there once")
            found[key] = value
        return found

    def refuse_constant(text: str) -> Any:
        raise InvalidInput(f"{what} holds {text}; only finite numbers are allowed")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse_constant)
    except InvalidInput:
        raise
    except (ValueError, RecursionError) as error:
        reason = "it nests too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidInput(f"{what} cannot be read as JSON ({reason:.120}); give the file as it was saved") from None


def read_object(data: bytes, what: str) -> dict[str, Any]:
    """Like `read_json`, for what must be an object."""
    value = read_json(data, what)
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} holds a {type(value).__name__} where an object {{...}} is needed")
    return value


def is_whole(value: Any) -> bool:
    """A whole number that is not a truth value, which Python counts among the whole numbers."""
    return isinstance(value, int) and not isinstance(value, bool)
