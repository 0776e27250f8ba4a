"""Writes one exported folder: a JSON request on standard input, progress and the answer as lines of JSON on output.

A process of its own because it builds models, and neither the hub nor the command line ever loads torch. The request is
{"recipe": <what handover gives>, "folder": path, "zip": path or "", "max_zip_bytes": n, "allow_code": bool}. Lines are
{"phase": ...} and at the end {"ok": true, "bytes": n, "zipped": bool} or {"ok": false, "reason": "<one sentence>"}.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from hybrid_core.errors import HybridError, InvalidInput

MAX_REQUEST_BYTES = 64 << 20
MAX_REASON_CHARACTERS = 600
Say = Callable[[Mapping[str, Any]], None]


def main() -> int:
    """Answer the request; the exit code is 0 whenever there is an answer, also a refusal."""
    signal.signal(signal.SIGTERM, _leave)
    # What a library prints, from Python or from C, must not stand between the lines of the answer.
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(answer_fd, "w", encoding="utf-8") as out:

        def say(line: Mapping[str, Any]) -> None:
            out.write(json.dumps(line, allow_nan=False) + "\n")
            out.flush()

        say(answer_request(sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1), say))
    return 0


def answer_request(raw: bytes, say: Say) -> dict[str, Any]:
    """The answer to a request, whatever happens."""
    try:
        if len(raw) > MAX_REQUEST_BYTES:
            return refusal(f"the request has more than {MAX_REQUEST_BYTES:,} bytes")
        return export(json.loads(raw), say)
    except HybridError as error:
        return refusal(str(error))
    except Exception as error:  # the border: a model or a library may raise anything, and it becomes a sentence
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        return refusal(f"the export failed ({type(error).__name__}: {lines[0] if lines else 'no message'})")


def export(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Write the folder and, where asked for and small enough, pack it and remove it."""
    say({"phase": "loading"})
    from hybrid_core.export import export_folder

    scratch = os.environ.get("HYBRID_TRIAL_SCRATCH")
    folder = export_folder(
        request["folder"],
        request["recipe"],
        allow_code=request["allow_code"] is True,
        scratch=Path(scratch) if scratch else None,
        tell=lambda phase: say({"phase": phase}),
    )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    zipped = bool(request["zip"]) and size <= request["max_zip_bytes"]
    if zipped:
        say({"phase": "packing"})
        pack(folder, Path(request["zip"]))
    if request["zip"]:
        shutil.rmtree(folder)
    return {"ok": True, "bytes": size, "zipped": zipped}


def pack(folder: Path, target: Path) -> None:
    """The folder as one file, whole or not at all; its top folder has the target's name.

    Raises:
        InvalidInput: the disk refuses it.
    """
    partial = target.with_suffix(".partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                archive.write(path, Path(target.stem) / path.relative_to(folder))
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InvalidInput(f"{str(target)!r:.200} cannot be written ({error.strerror}); free space") from error


def refusal(reason: str) -> dict[str, Any]:
    """The answer that says no, in one line."""
    return {"ok": False, "reason": " ".join(reason.split())[:MAX_REASON_CHARACTERS]}


def _leave(*_: object) -> NoReturn:
    """Unwind, so that the unfinished folder is removed."""
    raise SystemExit(143)


if __name__ == "__main__":
    sys.exit(main())
