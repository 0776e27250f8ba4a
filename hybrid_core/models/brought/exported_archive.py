"""The zip around an exported program (`.pt2`): which records it may have, and their bytes.

`torch.export.load` unpickles what it finds: tensor subclasses, custom objects, and example inputs whose safe reading
failed. It also evaluates strings of the program. So it is never called on a brought file. Here the records are listed
by an allow-list of names; the example inputs, a pickle, may lie there but are never opened. Nothing is compressed in
such files, so a record cannot be larger than the file. Format: torch/export/pt2_archive of PyTorch 2.13.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hybrid_core.errors import InvalidInput

MAX_RECORDS = 25_000
MAX_JSON_BYTES = 64 * 2**20
PROGRAM = "models/model.json"
WEIGHTS, WEIGHTS_CONFIG = "data/weights/", "data/weights/model_weights_config.json"
CONSTANTS, CONSTANTS_CONFIG = "data/constants/", "data/constants/model_constants_config.json"
_ALLOWED = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/version|\.data/serialization_id|\.format_version"
    r"|\.storage_alignment|models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt|extra/[^/\\]+"
)
_ROOT = re.compile(r"[^/\\:]{1,255}")
_CODE = ("custom_obj_", "opaque_obj_", "aotinductor/")


@dataclass(frozen=True)
class Archive:
    """A checked archive; records are read on demand."""

    path: Path
    root: str
    sizes: dict[str, int]

    def read(self, record: str, most: int | None = None) -> bytes:
        """The bytes of a record.

        Raises:
            InvalidInput: there is none, or it is damaged or larger than `most`.
        """
        if record not in self.sizes:
            raise InvalidInput(f"{self.path.name} has no record {record!r:.120}; export the program again")
        if most is not None and self.sizes[record] > most:
            raise InvalidInput(f"record {record!r:.120} has {self.sizes[record]:,} bytes; at most {most:,} are allowed")
        try:
            with zipfile.ZipFile(self.path) as file:
                return file.read(f"{self.root}/{record}")
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise InvalidInput(f"record {record!r:.120} of {self.path.name} is damaged ({error!s:.120})") from None


def open_archive(path: Path) -> Archive:
    """The archive of a file, every record's name and size checked.

    Raises:
        InvalidInput: it is no such archive, or has a record that is not allowed.
    """
    if path.suffix.lower() != ".pt2" or not path.is_file():
        raise InvalidInput(f"{path.name!r:.120} is not a .pt2 file; give what torch.export.save wrote")
    try:
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise InvalidInput(
            f"{path.name!r:.120} is not a zip archive ({error!s:.120}); export the program again"
        ) from None
    if not 1 <= len(entries) <= MAX_RECORDS:
        raise InvalidInput(f"{path.name!r:.120} has {len(entries):,} records; 1 to {MAX_RECORDS:,} are allowed")
    root = entries[0].filename.partition("/")[0]
    if not _ROOT.fullmatch(root) or root in (".", ".."):
        raise InvalidInput(f"{path.name!r:.120} begins with the record {entries[0].filename!r:.120}; export it again")
    archive = Archive(path, root, _checked_sizes(entries, root))
    if sum(archive.sizes.values()) > path.stat().st_size:
        raise InvalidInput(f"the records of {path.name!r:.120} are larger than the file; records may not overlap")
    _check_format(archive)
    return archive


def _checked_sizes(entries: list[zipfile.ZipInfo], root: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for entry in entries:
        name = entry.filename.removeprefix(f"{root}/")
        if any(mark in name for mark in _CODE):
            raise InvalidInput(
                f"record {name!r:.120} holds an object or compiled code; only programs of tensors are read"
            )
        if not _ALLOWED.fullmatch(name) or name in sizes:
            raise InvalidInput(
                f"record {name!r:.120} is not allowed or there twice; one program named 'model' is read, as "
                "torch.export.save writes it"
            )
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise InvalidInput(f"record {name!r:.120} is compressed or encrypted; torch.export.save writes neither")
        sizes[name] = entry.file_size
    return sizes


def _check_format(archive: Archive) -> None:
    for record, allowed in (("archive_format", b"pt2"), ("archive_version", b"0"), ("byteorder", b"little")):
        found = archive.read(record, 64)
        if found != allowed:
            raise InvalidInput(f"{record} of {archive.path.name!r:.120} is {found!r:.40}; {allowed!r} is needed")
