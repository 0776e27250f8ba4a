"""Inspects one model that somebody brings: a JSON request on standard input, one JSON answer on standard output.

A process of its own because the files are a stranger's: the hub and the dashboard open none of them. The answer is
{"ok": true, "model": {...}} with the model in the form of `workers.catalog_process.describe_model`, plus `source` (the
registration that a run carries) and `brought`; or {"ok": false, "reason": "<one sentence>"}. Traces go to standard
error only.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from hybrid_core.errors import HybridError

MAX_REQUEST_BYTES = 2**20
MAX_REASON_CHARACTERS = 600


def main() -> int:
    """Answer the request; the exit code is 0 whenever there is an answer, also a refusal."""
    # What a module prints, from Python or from C, must not stand between the braces of the answer.
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    answer = answer_request(sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1))
    with os.fdopen(answer_fd, "w", encoding="utf-8") as out:
        json.dump(answer, out, allow_nan=False)
    return 0


def answer_request(raw: bytes) -> dict[str, Any]:
    """The answer to a request, whatever happens."""
    try:
        if len(raw) > MAX_REQUEST_BYTES:
            return refusal(f"the request has more than {MAX_REQUEST_BYTES:,} bytes")
        return {"ok": True, "model": inspect_model(raw)}
    except HybridError as error:
        return refusal(str(error))
    except Exception as error:  # the border: whatever a stranger's files cause becomes a sentence
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        return refusal(
            f"the model could not be inspected ({type(error).__name__}: {lines[0] if lines else 'no message'})"
        )


def inspect_model(raw: bytes) -> dict[str, Any]:
    """The description of the model that the request names."""
    from hybrid_core.models.brought.inspection import inspect
    from hybrid_core.models.brought.strict_json import read_object
    from workers.catalog_process import describe_model

    entry = inspect(read_object(raw, "the request"))
    return {**describe_model(entry), "source": entry.registration.to_text(), "brought": True}


def refusal(reason: str) -> dict[str, Any]:
    """The answer that says no, in one line."""
    return {"ok": False, "reason": " ".join(reason.split())[:MAX_REASON_CHARACTERS]}


if __name__ == "__main__":
    sys.exit(main())
