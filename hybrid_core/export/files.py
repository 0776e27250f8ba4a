"""The folder on disk: written whole or not at all, and read with every name, size and digest checked first.

A folder may come from a stranger. Only regular files under their listed names are opened, links are not followed,
JSON is bounded and has one meaning, and nothing is used before its SHA-256 was compared with the manifest. Checksums
find damage and mistakes; they are no signature, so they do not say who made the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.strict_json import is_whole, read_object

FORMAT, FORMAT_VERSION = "hybrid-optimization export", 1
MANIFEST, RECIPE, INDEX, WEIGHTS, CARD, SCRIPT = (
    *("manifest.json", "recipe.json", "weights.json"),
    *("model.safetensors", "README.md", "verify.py"),
)
PACKAGE_FOLDER = "package"
REQUIRED = (RECIPE, INDEX, WEIGHTS)
MAX_FILES, MAX_JSON_BYTES, CHUNK = 64, 16 << 20, 1 << 20
_NAME = re.compile(rf"(?:{PACKAGE_FOLDER}/)?[A-Za-z0-9][A-Za-z0-9._-]{{0,99}}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that becomes `target` when the block ends well, and is gone when it does not.

    Raises:
        InvalidInput: the target exists and is not empty, or the disk refuses something.
    """
    target = target.expanduser().absolute()
    try:
        if os.path.lexists(target) and (target.is_symlink() or not target.is_dir() or any(target.iterdir())):
            raise InvalidInput(f"{str(target)!r:.200} exists already; give a new folder or remove it")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=partial_prefix(target, os.getpid()), dir=target.parent))
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        yield partial
        for path in (partial, *partial.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        partial.replace(target)
    except (OSError, SafetensorError) as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_prefix(target: Path, pid: int) -> str:
    """How the unfinished folder of a process is called, so that whoever kills the process can remove it."""
    return f".{target.name[:80]}.partial-{pid}-"


def cannot_write(target: Path, error: Exception) -> InvalidInput:
    """The sentence for a disk that is full, read-only or gone."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
    return InvalidInput(f"{str(target)!r:.200} cannot be written ({reason}); free space or choose another folder")


def write_json(path: Path, value: Any) -> None:
    """A readable JSON file."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_manifest(folder: Path) -> None:
    """Write size and SHA-256 of every file that is there; the last file to be written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in files
    }
    write_json(folder / MANIFEST, {"format": FORMAT, "format_version": FORMAT_VERSION, "files": listed})


def check_folder(folder: Path) -> dict[str, str]:
    """Compare every listed file with the manifest; returns name -> SHA-256.

    Raises:
        InvalidInput: the first thing that is wrong, in one sentence.
    """
    try:
        if not folder.is_dir():
            raise InvalidInput(f"{str(folder)!r:.200} is no folder; give one that export wrote")
        listed = _listed(read_json_file(folder, MANIFEST))
        for name, facts in listed.items():
            _check_file(folder, name, facts)
    except OSError as error:
        raise InvalidInput(f"{str(folder)!r:.200} cannot be read ({error.strerror or error})") from error
    return {name: str(facts["sha256"]) for name, facts in listed.items()}


def read_json_file(folder: Path, name: str) -> dict[str, Any]:
    """The object in one JSON file of the folder.

    Raises:
        InvalidInput: it is missing, a link, too large or no JSON object.
    """
    size = _size(folder, name)
    if size > MAX_JSON_BYTES:
        raise InvalidInput(f"{name} has {size:,} bytes; at most {MAX_JSON_BYTES:,} are read")
    return read_object((folder / name).read_bytes(), name)


def _listed(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    if manifest.get("format") != FORMAT or manifest.get("format_version") != FORMAT_VERSION:
        raise InvalidInput(f"{MANIFEST} is no {FORMAT!r} version {FORMAT_VERSION}; export the run again")
    files = manifest.get("files")
    if not isinstance(files, Mapping) or len(files) > MAX_FILES:
        raise InvalidInput(f"{MANIFEST} lists no files, or more than {MAX_FILES}; export the run again")
    for name, facts in files.items():
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{MANIFEST} lists {name!r:.80}, which is no plain name inside the folder; do not use it"
            )
        if not isinstance(facts, Mapping) or not is_whole(facts.get("bytes")) or not _is_digest(facts.get("sha256")):
            raise InvalidInput(f"{MANIFEST} gives no size and SHA-256 of {name}; export the run again")
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise InvalidInput(f"{MANIFEST} does not list {', '.join(missing)}; export the run again")
    return dict(files)


def _check_file(folder: Path, name: str, facts: Mapping[str, Any]) -> None:
    size = _size(folder, name)
    if size != facts["bytes"]:
        raise InvalidInput(f"{name} has {size:,} bytes, {MANIFEST} says {facts['bytes']:,}; copy the folder again")
    found = _digest(folder / name)
    if found != facts["sha256"]:
        raise InvalidInput(
            f"{name} has SHA-256 {found[:12]}..., {MANIFEST} says {facts['sha256'][:12]}...; it was changed or "
            "damaged, copy the folder again"
        )


def _size(folder: Path, name: str) -> int:
    """Size of a regular file that is reached without any link."""
    path = folder
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            raise InvalidInput(f"{name} is a link or lies behind one; an exported folder holds plain files only")
    try:
        facts = path.lstat()
    except OSError as error:
        raise InvalidInput(f"{name} is missing ({error.strerror}); copy the folder again") from None
    if not stat.S_ISREG(facts.st_mode):
        raise InvalidInput(f"{name} is no plain file; copy the folder again")
    return facts.st_size


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
