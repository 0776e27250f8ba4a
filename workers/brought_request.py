"""What may be asked when somebody brings a model: a kind, a place, a name, perhaps a labelled file.

Only the words are checked here. Whether the place exists and what is in it is found out by the inspection, in a process
of its own and under a deadline, because a path may lead to a dead mount or to something that was made to do harm.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_core.errors import InvalidInput
from workers.code_policy import CODE_KIND

KINDS = ("huggingface", "exported", CODE_KIND)
MAX_PATH = 4096
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


class BringRequest(NamedTuple):
    """A checked request; paths are absolute."""

    kind: str
    path: str
    name: str
    labels: str = ""


def check_request(request: Mapping[str, Any], registry_names: Collection[str]) -> BringRequest:
    """Check the words of a request.

    Raises:
        InvalidInput: one sentence that names the field, the value and what is allowed.
    """
    kind, name = request.get("kind"), request.get("name")
    if kind not in KINDS:
        raise InvalidInput(f"kind={kind!r:.60} is unknown; choose one of {', '.join(KINDS)}")
    check_name(name, registry_names)
    path = _text("path", request.get("path"))
    if kind != CODE_KIND:
        path = _absolute("path", path)
    elif not _FACTORY.fullmatch(path):
        raise InvalidInput(f"path={path!r:.80} is not allowed for a factory; write module:function")
    labels = request.get("labels") or ""
    return BringRequest(str(kind), path, str(name), _absolute("labels", _text("labels", labels)) if labels else "")


def check_name(name: Any, registry_names: Collection[str]) -> None:
    """Nothing if a brought model may have this name; `InvalidInput` otherwise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"name={name!r:.60} is not allowed; use 1 to 40 lower-case letters, digits, hyphens and underscores, "
            "beginning with a letter or a digit"
        )
    if name in registry_names:
        raise InvalidInput(f"name {name!r} belongs to a model of the registry; choose another name")


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{field}={value!r:.60} is not allowed; give a path")
    if len(value) > MAX_PATH or not value.isprintable():
        raise InvalidInput(
            f"{field}={value!r:.60} is not allowed; give a path of at most {MAX_PATH} printable characters"
        )
    return value.strip()


def _absolute(field: str, value: str) -> str:
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:
        raise InvalidInput(f"{field}={value!r:.80} names an unknown home; give the full path") from error
    if not path.is_absolute():
        raise InvalidInput(f"{field}={value!r:.80} is not a full path; begin with / or ~")
    return str(path)
