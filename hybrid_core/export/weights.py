"""The weights a recipe changed, as safetensors, with an index of every tensor the optimized model holds.

What the untouched model holds too is not stored: it is built again. The index names dtype, shape and SHA-256 of *every*
tensor, so that a model that was built again can be compared with the one that was exported, bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.export.state import tensors_of
from hybrid_core.models.brought.safetensors_header import read_header
from hybrid_core.models.brought.strict_json import is_whole

FORMAT, FORMAT_VERSION = "hybrid-optimization weights", 1
MAX_TENSORS = 50_000
# Every reader of safetensors knows these; anything else is stored as bytes.
PLAIN = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
)


@dataclass(frozen=True)
class TensorFacts:
    """What the index says of one tensor; `stored` is its name in the file, None where it is the untouched model's."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    stored: str | None = None


def facts_of(tensor: Tensor) -> TensorFacts:
    """Dtype, shape and digest of a tensor's values."""
    digest = hashlib.sha256(_bytes_of(tensor).numpy().data).hexdigest()
    return TensorFacts(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), digest)


def index_of(model: nn.Module) -> dict[str, TensorFacts]:
    """The facts of everything the model holds."""
    return {name: facts_of(tensor) for name, tensor in tensors_of(model).items()}


def write_weights(optimized: nn.Module, untouched: nn.Module, path: Path) -> dict[str, Any]:
    """Write the tensors of `optimized` that `untouched` does not hold; returns the index, JSON-able."""
    known = set(index_of(untouched).values())
    stored: dict[TensorFacts, str] = {}
    tensors: dict[str, Tensor] = {}
    index: dict[str, TensorFacts] = {}
    for name, tensor in tensors_of(optimized).items():
        facts = facts_of(tensor)
        if facts not in known and facts not in stored:
            stored[facts] = name
            tensors[name] = tensor.cpu().contiguous().clone() if tensor.dtype in PLAIN else _bytes_of(tensor).clone()
        index[name] = TensorFacts(facts.dtype, facts.shape, facts.sha256, stored.get(facts))
    save_file(tensors, str(path))
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tensors": {name: asdict(facts) | {"shape": list(facts.shape)} for name, facts in index.items()},
    }


def read_index(data: Mapping[str, Any]) -> dict[str, TensorFacts]:
    """The index that `write_weights` returned.

    Raises:
        InvalidInput: it is none.
    """
    if data.get("format") != FORMAT or data.get("format_version") != FORMAT_VERSION:
        raise InvalidInput(f"weights.json is no {FORMAT!r} version {FORMAT_VERSION}; export the run again")
    tensors = data.get("tensors")
    if not isinstance(tensors, Mapping) or len(tensors) > MAX_TENSORS:
        raise InvalidInput(f"weights.json lists no tensors, or more than {MAX_TENSORS:,}; export the run again")
    return {name: _read_facts(name, entry) for name, entry in tensors.items()}


def read_stored(path: Path, index: Mapping[str, TensorFacts]) -> dict[str, Tensor]:
    """Every stored tensor under the names that share it, checked against the index.

    Raises:
        InvalidInput: the file does not hold what the index says.
    """
    header = read_header(path)
    wanted = {facts.stored for facts in index.values() if facts.stored is not None}
    if wanted != set(header.tensors):
        raise InvalidInput(f"{path.name} holds other tensors than weights.json lists; export the run again")
    with safe_open(str(path), framework="pt") as file:
        held = {name: file.get_tensor(name) for name in header.tensors}
    return {name: _restored(name, held[f.stored], f) for name, f in index.items() if f.stored is not None}


def _restored(name: str, tensor: Tensor, facts: TensorFacts) -> Tensor:
    dtype = getattr(torch, facts.dtype, None)
    try:
        if isinstance(dtype, torch.dtype) and dtype not in PLAIN:
            tensor = tensor.view(dtype).reshape(facts.shape)
    except RuntimeError as error:
        raise InvalidInput(f"{name!r:.80} cannot be read as {facts.dtype:.20} ({str(error):.80})") from None
    if facts_of(tensor) != TensorFacts(facts.dtype, facts.shape, facts.sha256):
        raise InvalidInput(f"{name!r:.80} is not what weights.json describes; export the run again")
    return tensor


def _read_facts(name: str, entry: Any) -> TensorFacts:
    if isinstance(entry, Mapping):
        dtype, shape, digest, stored = (entry.get(key) for key in ("dtype", "shape", "sha256", "stored"))
        texts = isinstance(dtype, str) and isinstance(digest, str) and (stored is None or isinstance(stored, str))
        if texts and isinstance(shape, list) and len(shape) <= 16 and all(is_whole(n) and n >= 0 for n in shape):
            return TensorFacts(str(dtype), tuple(shape), str(digest), stored)
    raise InvalidInput(f"weights.json describes {name!r:.80} wrongly; export the run again")


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().resolve_conj().contiguous().reshape(-1).view(torch.uint8)
