"""Python's own standard library as training text, split so that nobody trains on what is later measured.

A source file belongs to the held-out part when the SHA-256 of its module path says so, whatever the Python version or
the installation folder. The held-out text itself is shipped (`data/held_out_python.txt`), because a quality number must
not move with the patch version of the interpreter that measures it; this module made it and can make it again.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

HELD_OUT_SHARE = 24  # one path in 24
HELD_OUT_BYTES = 131_073  # 512 windows of 256 bytes and the one byte after the last
# Tests and tables: the first are four times the library, the second are one line repeated a thousand times.
SKIPPED_FOLDERS = {"test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data", "site-packages", "__pycache__"}


def is_held_out(module_path: str) -> bool:
    """Whether this file, named by its '/'-separated path below the library folder, is kept from training.

    >>> [p for p in ("ast.py", "heapq.py", "json/decoder.py") if is_held_out(p)]
    []
    """
    digest = hashlib.sha256(module_path.encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_SHARE == 0


def library_sources() -> Iterator[tuple[str, bytes]]:
    """(module path, bytes) of every source file worth learning from, in the order of their paths."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not SKIPPED_FOLDERS & set(relative.parts):
            yield relative.as_posix(), path.read_bytes()


def training_text() -> bytes:
    """All training files joined by a zero byte, about 10 MB."""
    return b"\0".join(text for path, text in library_sources() if not is_held_out(path))


def held_out_text() -> tuple[bytes, tuple[str, ...]]:
    """`HELD_OUT_BYTES` of the held-out files, in the order of their paths' hashes, and the files used."""
    files = [(path, text) for path, text in library_sources() if is_held_out(path)]
    files.sort(key=lambda item: hashlib.sha256(item[0].encode()).digest())
    text, used = b"", []
    for path, content in files:
        if len(text) >= HELD_OUT_BYTES:
            break
        # At most 16 KiB of one file, so that one module does not decide the number.
        text += content[: 16 * 1024] + b"\n"
        used.append(path)
    return text[:HELD_OUT_BYTES], tuple(used)
