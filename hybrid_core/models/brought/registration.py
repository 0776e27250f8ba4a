"""What the project remembers of a brought model, and how it becomes an entry again.

A registration is a small text (JSON) that travels inside a run's subject: kind, path, digest of what was read, and the
facts that were found once, in the inspection. Opening checks the digest again, so a result always belongs to the bytes
that were brought in; a changed file is refused, not measured under the old name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.base import ModelEntry
from hybrid_core.models.brought.strict_json import read_object
from hybrid_core.records import Workload

KINDS = ("huggingface", "exported", "factory")
MAX_TEXT_BYTES = 2**20
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,59}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Source(Protocol):
    """One brought model, checked; nothing of it is loaded before `build` or `describe`."""

    path: str
    sha256: str

    def describe(self) -> dict[str, Any]:
        """Facts for `Registration.details`: title, family, description, architecture, parameters, workloads, limits,
        card, classes, digest_of; JSON-able.
        """

    def build(self) -> nn.Module:
        """The model, frozen, on the CPU."""

    def skeleton(self) -> nn.Module:
        """The same shapes on the meta device."""

    def make_inputs(self, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Fresh inputs of one call."""

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """The call that is timed."""


@dataclass(frozen=True)
class Registration:
    """A brought model as it is stored; `details` holds what the inspection found."""

    kind: str
    name: str
    path: str
    sha256: str
    labels: str = ""
    labels_sha256: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def to_text(self) -> str:
        """JSON with sorted keys: equal registrations have equal texts."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_text(cls, text: str) -> Registration:
        """Read what `to_text` wrote.

        Raises:
            InvalidInput: it is no registration.
        """
        data = text.encode()
        if len(data) > MAX_TEXT_BYTES:
            raise InvalidInput(f"the registration has {len(data):,} bytes; at most {MAX_TEXT_BYTES:,} are allowed")
        found = read_object(data, "the registration")
        if set(found) != {f.name for f in fields(cls)}:
            raise InvalidInput(f"the registration has the keys {sorted(found)!r:.120}; bring the model in again")
        for key, value in found.items():
            if not isinstance(value, dict if key == "details" else str):
                raise InvalidInput(f"the registration has {key}={value!r:.60}; bring the model in again")
        registration = cls(**found)
        check_kind(registration.kind)
        check_name(registration.name)
        if not _DIGEST.fullmatch(registration.sha256):
            raise InvalidInput(f"the registration has sha256={registration.sha256!r:.80}; bring the model in again")
        return registration


def check_kind(kind: object) -> str:
    """The kind, if it is one."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidInput(f"kind={kind!r:.60} is unknown; choose one of {', '.join(KINDS)}")
    return kind


def check_name(name: object) -> str:
    """The name, if it fits into a URL and a table."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"name={name!r:.80} is not allowed; use 1 to 60 of the characters a-z 0-9 . _ -, beginning with a letter "
            "or a digit"
        )
    return name


def refuse_taken_name(name: str) -> None:
    """Nothing if no model of the registry has this name; asked only when a model is brought in."""
    from hybrid_core.models.registry import ENTRIES

    if name in {entry.name for entry in ENTRIES}:
        raise InvalidInput(f"name={name!r} belongs to a model of the registry; choose another")


def open_entry(registration: Registration) -> ModelEntry:
    """The entry of a registration, after its file was compared with what was brought in.

    Raises:
        InvalidInput: it is gone, has changed, or is no longer allowed.
    """
    from hybrid_core.models.brought.entry import BroughtEntry

    source = open_source(registration.kind, registration.path, registration.details)
    refuse_change(registration.path, source.sha256, registration.sha256)
    return BroughtEntry(registration, source)


def refuse_change(path: str, found: str, expected: str) -> None:
    """Nothing if the digest is still the one of the registration."""
    if found != expected:
        raise InvalidInput(
            f"{path!r:.200} changed since it was brought in (SHA-256 {found[:12]}..., was {expected[:12]}...); bring "
            "it in again"
        )


def open_source(kind: str, path: str, details: Mapping[str, Any]) -> Source:
    """The checked source of a kind; the modules are imported here, because each needs what the others do not."""
    return _openers()[check_kind(kind)](path, details)


def _openers() -> dict[str, Callable[[str, Mapping[str, Any]], Source]]:
    from hybrid_core.models.brought.exported import ExportedFile
    from hybrid_core.models.brought.factory import FactoryFunction
    from hybrid_core.models.brought.huggingface import HuggingFaceFolder

    return {
        "huggingface": lambda path, details: HuggingFaceFolder(path),
        "exported": lambda path, details: ExportedFile(path, details),
        "factory": lambda path, details: FactoryFunction(path, details),
    }
