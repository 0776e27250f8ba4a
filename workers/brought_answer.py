"""What an inspection said, checked before it becomes part of the catalog.

The process that wrote it may have run somebody's code, so nothing of it is believed in shape: one JSON object, no
larger than a cap, with plain finite values, the sizes, workloads and facts that pages and submissions read, and texts
of a sensible length. Everything else becomes a sentence of refusal.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from typing import Any

from hybrid_core.records import WORKLOAD_KINDS, Workload

MAX_ANSWER_BYTES = 4 << 20
MAX_SOURCE = 500_000
MAX_SIZES, MAX_WORKLOADS, MAX_TEXT, MAX_REASON, MAX_NAME, MAX_DEPTH = 8, 32, 4000, 600, 100, 12
TEXTS = ("family", "title", "description")


class Refused(Exception):
    """The model cannot be used; the message is the sentence for the person who brought it."""


def read_inspection(text: bytes, name: str, kind: str, code: int) -> tuple[str, dict[str, Any]]:
    """The registration text and the catalog's description of a model that may be used.

    Raises:
        Refused: it may not, or the answer is not one.
    """
    answer = _read(text, code)
    if answer.get("ok") is not True:
        reason = answer.get("reason")
        if not isinstance(reason, str) or not reason.strip():
            raise Refused("the inspection refused it without a reason")
        raise Refused(" ".join(reason.split())[:MAX_REASON])
    model = answer.get("model")
    try:
        return _checked(model, name, kind)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Refused(f"the inspection gave an unusable description ({str(error)[:200]})") from error


def _read(text: bytes, code: int) -> dict[str, Any]:
    if len(text) > MAX_ANSWER_BYTES:
        raise Refused(f"the inspection wrote more than {MAX_ANSWER_BYTES >> 20} MiB")
    try:
        answer = json.loads(text.decode(errors="replace"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        answer = None
    if code != 0 or not isinstance(answer, dict):
        raise Refused(_ending(code))
    return answer


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "the inspection was killed by SIGKILL, perhaps because memory ran out; see inspect.log in the logs"
    if code < 0:
        return f"the inspection crashed with signal {-code} while reading it; see inspect.log in the logs"
    return f"the inspection ended with exit code {code} and without an answer; see inspect.log in the logs"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _checked(model: Mapping[str, Any], name: str, kind: str) -> tuple[str, dict[str, Any]]:
    if model["name"] != name:
        raise ValueError(f"it describes {model['name']!r:.60}, which nobody asked for")
    source = model["source"]
    if not isinstance(source, str) or len(source) > MAX_SOURCE:
        raise ValueError(f"its registration is no text of at most {MAX_SOURCE:,} characters")
    # Code that was allowed once must not register itself as something that is always allowed.
    if json.loads(source)["kind"] != kind:
        raise ValueError("its registration is of another kind")
    sizes = model["sizes"]
    if not isinstance(sizes, list) or not 1 <= len(sizes) <= MAX_SIZES or not all(map(_is_word, sizes)):
        raise ValueError(f"sizes={sizes!r:.80}")
    return source, {
        "name": name,
        **{field: _text(model[field], field) for field in TEXTS},
        "sizes": sizes,
        "workloads": {size: _workloads(model["workloads"][size]) for size in sizes},
        "facts": {size: _facts(model["facts"][size]) for size in sizes},
    }


def _facts(found: Mapping[str, Any]) -> dict[str, Any]:
    facts = dict(found)
    if not _is_shallow(facts, MAX_DEPTH):
        raise ValueError(f"its facts are nested more than {MAX_DEPTH} deep")
    return facts


def _workloads(found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_WORKLOADS:
        raise ValueError(f"workloads={found!r:.80}")
    return [_workload(item) for item in found]


def _workload(found: Mapping[str, Any]) -> dict[str, Any]:
    made = Workload.from_json(found)
    counts = {name: getattr(made, name) for name in ("batch", "length", "new_tokens")}
    if not _is_word(made.name) or made.kind not in WORKLOAD_KINDS:
        raise ValueError(f"workload {made.name!r:.40} of kind {made.kind!r:.40}")
    for field, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or not (field == "batch") <= value <= 2**31:
            raise ValueError(f"{field}={value!r:.40} of workload {made.name}")
    return {"name": made.name, "kind": made.kind, **counts, "label": made.label}


def _is_shallow(value: Any, depth: int) -> bool:
    """Deep nesting is refused, because whoever writes it out again would run out of stack."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_is_shallow(item, depth - 1) for item in inner)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"{field}={value!r:.60}")
    return value
