"""Reads the `config.json` of a brought folder by an allow-list and hands over what passed, never the file itself.

The result names a class of our table and the values for its configuration class. What the folder says beyond that
(remote code, quantization, private switches) is refused with the key named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.families import FAMILIES, FIXED, SKIPPED
from hybrid_core.models.brought.family import LOGITS, TOKEN_LOGITS, Family
from hybrid_core.models.brought.strict_json import is_whole, read_object

MAX_CONFIG_BYTES = 2**20
MAX_LABELS = 1_000_000
REASONS = {
    "auto_map": "it names code in the folder to run, and no code from a folder is ever run; bring a model whose "
    "architecture transformers has built in",
    "trust_remote_code": "no code from a folder is ever run; remove the key",
    "quantization_config": "quantized weights are not read; bring the float weights and let a strategy quantize them",
    "attn_implementation": "the untouched model is always measured with eager attention; remove the key",
}


@dataclass(frozen=True)
class FolderConfig:
    """What a checked config.json asks for."""

    model_type: str
    architecture: str
    gives: str
    family: Family
    values: dict[str, Any]
    labels: int | None


def read_config(data: bytes) -> FolderConfig:
    """The checked configuration in the bytes of a config.json.

    Raises:
        InvalidInput: a key or value is not allowed.
    """
    config = read_object(data, "config.json")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise InvalidInput(f"config.json: model_type={model_type!r:.60} is not supported; choose {', '.join(FAMILIES)}")
    family = FAMILIES[model_type]
    architecture = _architecture(config.get("architectures"), family)
    values = {key: family.keys[key](key, value) for key, value in config.items() if _is_read(key, value, family)}
    gives = family.architectures[architecture]
    labels = _labels(config) if gives in (LOGITS, TOKEN_LOGITS) and "MaskedLM" not in architecture else None
    return FolderConfig(model_type, architecture, gives, family, values, labels)


def config_bytes(folder: Path) -> bytes:
    """The raw config.json, bounded."""
    path = folder / "config.json"
    if not path.is_file():
        raise InvalidInput(f"{folder.name!r:.80} has no config.json; give the folder that save_pretrained wrote")
    size = path.stat().st_size
    if size > MAX_CONFIG_BYTES:
        raise InvalidInput(f"config.json has {size:,} bytes; at most {MAX_CONFIG_BYTES:,} are allowed")
    return path.read_bytes()


def _is_read(key: str, value: Any, family: Family) -> bool:
    """Whether a key is passed on; refuses what is neither read nor harmless."""
    if key in family.keys:
        return True
    check = family.fixed.get(key) or FIXED.get(key)
    if check is not None:
        check(key, value)
        return False
    if key in SKIPPED or key in family.skipped or key in ("id2label", "num_labels"):
        return False
    if key in REASONS:
        raise InvalidInput(f"config.json: the key {key!r} is refused: {REASONS[key]}")
    if key.startswith("_"):
        raise InvalidInput(
            f"config.json: the private key {key!r:.80} is refused, because such keys switch the loader; remove it"
        )
    raise InvalidInput(
        f"config.json: the key {key!r:.80} is not known to {family.config_class}; only keys known to be "
        "safe are read: remove it if the model works without it"
    )


def _architecture(value: Any, family: Family) -> str:
    known = ", ".join(family.architectures)
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], str):
        raise InvalidInput(f"config.json: architectures={value!r:.80} must be a list with one of {known}")
    name: str = value[0]
    if name not in family.architectures:
        raise InvalidInput(f"config.json: architecture {name!r:.80} is not supported; choose one of {known}")
    return name


def _labels(config: dict[str, Any]) -> int:
    """How many classes a classifier has; transformers leaves both keys out for two."""
    named, count = config.get("id2label"), config.get("num_labels")
    if named is not None and (not isinstance(named, dict) or not 1 <= len(named) <= MAX_LABELS):
        raise InvalidInput(f"config.json: id2label must be an object of 1 to {MAX_LABELS:,} names, one for each class")
    if count is not None and (not is_whole(count) or not 1 <= count <= MAX_LABELS):
        raise InvalidInput(f"config.json: num_labels={count!r:.40} must be a whole number from 1 to {MAX_LABELS:,}")
    return len(named) if named is not None else count or 2
