"""What this machine offers to measure on, as only torch can say; the catalog of forms and checks is made from it."""

from __future__ import annotations

import platform
from typing import Any

import torch


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
