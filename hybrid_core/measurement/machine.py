"""What this machine offers to measure on, as only torch can say; the catalog of forms and checks is made from it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch

from hybrid_core.measurement.environment import cpu_model, read_text

# Libraries that do a recipe's work beside torch.
RECIPE_LIBRARIES = ("torchao", "onnxruntime", "openvino", "nncf", "transformers")


def describe_gpus() -> list[dict[str, Any]]:
    """The graphics cards torch can use: `id` is the device to ask for, `uuid` names the card on every machine."""
    if not torch.cuda.is_available():
        return []
    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [{"id": f"cuda:{i}", "title": card.name, "uuid": f"GPU-{card.uuid}"} for i, card in enumerate(cards)]


def describe_versions() -> dict[str, Any]:
    """Versions and instruction set that results depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "system": platform.platform(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def processor_name(device: str) -> str:
    """What computes on this device, named as a measurement names it; empty where the system has no name."""
    cards = [card["title"] for card in describe_gpus() if device in (card["id"], card["uuid"])]
    return str((cards or [cpu_model(read_text("/proc/cpuinfo")) or platform.processor()])[0])


def versions_text() -> str:
    """What a failure holds for, as one comparable line: processor, libraries, and this project's own strategies.

    The strategies count by their text, so that a mended method is tried again.
    """
    strategies = Path(__file__).parents[1] / "strategies"
    own = hashlib.sha256()
    for path in sorted(strategies.rglob("*.py")):
        own.update(path.read_bytes())
    facts = [processor_name("cpu") or "unknown processor"]
    facts += [f"torch {torch.__version__}"]
    for name in RECIPE_LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join([*facts, f"strategies {own.hexdigest()[:8]}"])
