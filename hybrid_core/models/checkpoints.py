"""Weights and data that travel with the package, as safetensors files: no code runs when they are read.

Weights are stored as float16, half the bytes of a clone, and widened to float32 when loaded; the figures in the file's
metadata were measured on exactly these rounded weights. Metadata sits in the file's header, so facts can be shown
without reading a tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput

CHECKPOINTS = Path(__file__).parent / "checkpoints"
DATA = Path(__file__).parent / "data"


def save_weights(model: nn.Module, path: Path, facts: Mapping[str, Any]) -> None:
    """Write every parameter and buffer, floating ones as float16, and `facts` as JSON in the header; atomic."""
    tensors = {
        name: (value.detach().to(torch.float16) if value.is_floating_point() else value.detach()).contiguous()
        for name, value in model.state_dict().items()
    }
    write_tensors(tensors, path, facts)


def write_tensors(tensors: Mapping[str, Tensor], path: Path, facts: Mapping[str, Any]) -> None:
    """A safetensors file that is either the old one or the whole new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(dict(tensors), str(partial), metadata={"facts": json.dumps(dict(facts), sort_keys=True)})
    partial.replace(path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` with the weights of `path`, each in the dtype the model has; every name must fit."""
    model.load_state_dict(read_tensors(path), strict=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file."""
    with safe_open(str(_existing(path)), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def read_facts(path: Path) -> dict[str, Any]:
    """The facts written with the tensors: how they were made and what quality was measured."""
    with safe_open(str(_existing(path)), framework="pt") as file:
        facts: dict[str, Any] = json.loads((file.metadata() or {})["facts"])
        return facts


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _existing(path: Path) -> Path:
    if not path.is_file():
        model = path.stem.partition("-")[0]
        raise InvalidInput(f"{path} is missing; restore it or run 'python -m hybrid_core.models.train {model}'")
    return path
