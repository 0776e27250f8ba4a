"""What lies in a folder that somebody brings: listed, and refused where something in it could run code if loaded.

We read `config.json` and safetensors files only and would ignore the rest, but a folder with pickles or Python in it is
meant for a loader that runs them; refusing it by name is a tripwire, and the sentence tells the owner what to remove.
Links may not lead out of the folder: what is hashed must be what is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from hybrid_core.errors import InvalidInput

MAX_ENTRIES = 5_000
MAX_DEPTH = 16
MAX_PATH_LENGTH = 4_096
PICKLES = (
    ".bin",
    ".pt",
    ".pth",
    ".pkl",
    ".pickle",
    ".h5",
    ".hdf5",
    ".keras",
    ".ckpt",
    ".msgpack",
    ".joblib",
    ".npy",
    ".npz",
)
PROGRAMS = (".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".sh", ".exe")


def checked_path(text: object, what: str) -> Path:
    """An absolute path that exists; what the user typed is only ever a path, never expanded by a shell.

    Raises:
        InvalidInput: it is no such path.
    """
    if not isinstance(text, str) or not text or not text.isprintable() or len(text) > MAX_PATH_LENGTH:
        raise InvalidInput(f"{what} path {text!r:.80} is not allowed; give the path on this machine as plain text")
    path = Path(text).expanduser()
    if not path.is_absolute():
        raise InvalidInput(f"{what} path {text!r:.200} is not absolute; begin with /")
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise InvalidInput(f"{what} path {text!r:.200} does not exist on this machine; check the spelling") from None


def check_folder(folder: Path) -> None:
    """Look at every entry below `folder` without opening any.

    Raises:
        InvalidInput: one is a pickle, a program, a link out of the folder or no ordinary file.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{str(folder)!r:.200} is not a folder; give the one that holds config.json")
    for count, path in enumerate(_walk(folder, folder), start=1):
        if count > MAX_ENTRIES:
            raise InvalidInput(f"{folder.name} holds more than {MAX_ENTRIES:,} entries; bring the model's folder alone")
        _check_entry(path, folder)


def _walk(folder: Path, top: Path) -> Iterator[Path]:
    """Every entry, depth first; linked folders are yielded but not entered, so no loop can be followed."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InvalidInput(
            f"folder {_shown(folder, top)} cannot be listed ({error.strerror}); make it readable"
        ) from None
    if len(folder.relative_to(top).parts) > MAX_DEPTH:
        raise InvalidInput(
            f"folder {_shown(folder, top)} lies more than {MAX_DEPTH} folders deep; bring the model alone"
        )
    for entry in entries:
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), top)


def _check_entry(path: Path, top: Path) -> None:
    shown, suffix = _shown(path, top), path.suffix.lower()
    if path.is_symlink():
        _check_link(path, top)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InvalidInput(f"{shown} cannot be examined ({error.strerror}); remove it from the folder") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InvalidInput(f"{shown} is neither a file nor a folder; remove it")
    if suffix in PICKLES:
        raise InvalidInput(
            f"{shown} is a {suffix} file, a format that can run code when loaded; only safetensors weights are read: "
            "remove it from the folder"
        )
    if suffix in PROGRAMS:
        raise InvalidInput(f"{shown} is a program; models with code of their own are not loaded: remove it")


def _check_link(path: Path, top: Path) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise InvalidInput(f"{_shown(path, top)} is a link that leads nowhere; remove it") from None
    if not target.is_relative_to(top):
        raise InvalidInput(
            f"{_shown(path, top)} is a link that leads out of the folder; copy the model with its files (cp -rL) and "
            "bring the copy"
        )


def _shown(path: Path, top: Path) -> str:
    """The path below the folder, fit for a sentence."""
    return repr(str(path.relative_to(top)))[:160]
