"""The safetensors files of a folder as one set of tensors: which are read, what each holds, how many bytes it needs.

Everything here is decided from headers: no tensor is touched. A file that the index does not name is not read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.safetensors_header import Header, TensorFact, read_header
from hybrid_core.models.brought.strict_json import read_object

INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 16 * 2**20
MAX_SHARDS = 1_000
WHOLE_DIGEST_BYTES = 8 * 2**30
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Shards:
    """The files in the order of their names and where each tensor lies."""

    files: dict[Path, Header]
    holder: dict[str, Path]

    @property
    def elements(self) -> int:
        """Numbers in all tensors."""
        return sum(fact.elements for header in self.files.values() for fact in header.tensors.values())

    @property
    def file_bytes(self) -> int:
        """Bytes on disk."""
        return sum(header.file_bytes for header in self.files.values())

    def fact(self, name: str) -> TensorFact:
        """What a header says of a tensor."""
        return self.files[self.holder[name]].tensors[name]


def read_shards(folder: Path) -> Shards:
    """The checked headers of the folder's weights.

    Raises:
        InvalidInput: there are none, the index leads elsewhere, or two files hold a tensor of the same name.
    """
    index = folder / INDEX
    promised = _read_index(index) if index.is_file() else None
    paths = (
        sorted(folder.glob("*.safetensors"))
        if promised is None
        else [folder / n for n in sorted(set(promised.values()))]
    )
    if not paths:
        raise InvalidInput(f"{folder.name!r:.80} holds no .safetensors file; save the model with save_pretrained")
    if len(paths) > MAX_SHARDS:
        raise InvalidInput(f"{folder.name!r:.80} has {len(paths):,} weight files; at most {MAX_SHARDS:,} are allowed")
    files = {path: read_header(_existing(path)) for path in paths}
    holder: dict[str, Path] = {}
    for path, header in files.items():
        for name in header.tensors:
            if name in holder:
                raise InvalidInput(
                    f"tensor {name!r:.120} stands in {holder[name].name} and in {path.name}; each may be there once"
                )
            holder[name] = path
    if promised is not None:
        _check_promises(promised, holder)
    return Shards(files, holder)


def digest(first: bytes, shards: Shards) -> tuple[str, str]:
    """SHA-256 over config.json and the weight files, and in words what went into it.

    Up to 8 GiB every byte; beyond, headers and sizes, because reading so much at every start would cost minutes.
    """
    whole = shards.file_bytes <= WHOLE_DIGEST_BYTES
    total = hashlib.sha256(hashlib.sha256(first).digest())
    for path, header in sorted(shards.files.items()):
        total.update(path.name.encode() + b"\0" + header.file_bytes.to_bytes(8, "little"))
        total.update(bytes.fromhex(file_digest(path, None if whole else header.header_bytes + 8)))
    return total.hexdigest(), "config.json and every byte of the weights" if whole else "config.json, headers and sizes"


_digests: dict[tuple[str, int, int, int, int | None], str] = {}


def file_digest(path: Path, first_bytes: int | None = None) -> str:
    """SHA-256 of a file or of its beginning; kept for this process as long as size and times of the file stay."""
    facts = path.stat()
    key = (str(path), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, first_bytes)
    if key not in _digests:
        _digests[key] = _hash(path, first_bytes)
    return _digests[key]


def _hash(path: Path, first_bytes: int | None) -> str:
    total, left = hashlib.sha256(), first_bytes
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES if left is None else min(left, _CHUNK_BYTES)):
            total.update(chunk)
            left = None if left is None else left - len(chunk)
    return total.hexdigest()


def _read_index(path: Path) -> dict[str, str]:
    size = path.stat().st_size
    if size > MAX_INDEX_BYTES:
        raise InvalidInput(f"{INDEX} has {size:,} bytes; at most {MAX_INDEX_BYTES:,} are allowed")
    promised = read_object(path.read_bytes(), INDEX).get("weight_map")
    if not isinstance(promised, dict) or not promised:
        raise InvalidInput(f"{INDEX} has no weight_map; save the model again with save_pretrained")
    for name, file in promised.items():
        if not isinstance(file, str) or not file.endswith(".safetensors") or Path(file).name != file or "\\" in file:
            raise InvalidInput(
                f"{INDEX} sends {name!r:.80} to {file!r:.80}; only names of .safetensors files in the same folder are "
                "allowed"
            )
    return promised


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InvalidInput(f"{path.name!r:.120} is named in {INDEX} but missing; bring the whole folder")
    return path


def _check_promises(promised: dict[str, str], holder: dict[str, Path]) -> None:
    for name, path in holder.items():
        if promised.get(name) != path.name:
            raise InvalidInput(f"tensor {name!r:.120} lies in {path.name} but {INDEX} does not say so")
    for name in promised:
        if name not in holder:
            raise InvalidInput(f"{INDEX} lists {name!r:.120}, which is not in {promised[name]}; bring the whole folder")
