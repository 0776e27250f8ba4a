"""On which devices of this machine a model fits, by figures that are known before anything is allocated.

A run holds two models at once, the untouched one and the candidate, both in float32 at the moment of building; that is
what is compared. The card of facts speaks of the device's whole memory, a submission of what is free at that moment.
Memory that nobody can name (a GPU whose driver does not answer) decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from hybrid_core.errors import InvalidInput
from hybrid_core.models.capacity import GIB, MODELS_IN_A_RUN, available_bytes
from workers.nvml import CardLost, Nvml

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class DeviceMemory:
    """Bytes of each device of the catalog: in all and free now; None where nobody knows."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml

    def total(self, device: Mapping[str, Any]) -> int | None:
        """What the device has."""
        if device["id"] == "cpu":
            return machine_bytes()
        used_and_total = self._card(device)
        return None if used_and_total is None else used_and_total[1]

    def free(self, device: Mapping[str, Any]) -> int | None:
        """What can be allocated on it now."""
        if device["id"] == "cpu":
            return available_bytes()
        used_and_total = self._card(device)
        return None if used_and_total is None else used_and_total[1] - used_and_total[0]

    def _card(self, device: Mapping[str, Any]) -> tuple[int, int] | None:
        try:
            found = self._nvml.read(str(device.get("uuid")), "memory")
        except (CardLost, KeyError):  # withdrawn, or a card that torch sees and NVML does not
            return None
        return None if found is None else (int(found[0]), int(found[1]))


def machine_bytes() -> int:
    """Main memory of this machine, within the container's limit where there is one."""
    total = int(psutil.virtual_memory().total)
    try:
        text = CGROUP_LIMIT.read_text().strip()
    except OSError:
        return total
    return min(total, int(text)) if text.isdigit() else total


def needed_bytes(facts: Mapping[str, Any]) -> int | None:
    """What a run of this size allocates for weights; None where the facts do not say how large it is."""
    weights = facts.get("weights_bytes")
    count = weights.get("float32") if isinstance(weights, Mapping) else None
    return MODELS_IN_A_RUN * int(count) if isinstance(count, int | float) else None


def fit_on(facts: Mapping[str, Any], device: Mapping[str, Any], memory_bytes: int | None) -> dict[str, Any] | None:
    """Whether a size fits on a device, with both figures and a sentence; None where one of them is unknown."""
    needed = needed_bytes(facts)
    if needed is None or memory_bytes is None:
        return None
    fits = needed <= memory_bytes
    sentence = (
        f"A run holds the untouched model and the candidate, {_amount(needed)} of weights in float32; "
        f"{device['id']} has {_amount(memory_bytes)}, so it {'fits' if fits else 'does not fit'}."
    )
    return {"fits": fits, "needed_bytes": needed, "available_bytes": memory_bytes, "sentence": sentence}


def add_fits(model: Mapping[str, Any], devices: list[Mapping[str, Any]], memory: DeviceMemory) -> dict[str, Any]:
    """The catalog's model with `fits` by device id in the facts of each size."""
    totals = [(device, memory.total(device)) for device in devices]
    facts = {}
    for size, known in model["facts"].items():
        found = {device["id"]: fit for device, total in totals if (fit := fit_on(known, device, total)) is not None}
        facts[size] = {**known, "fits": found}
    return {**model, "facts": facts}


def refuse_what_does_not_fit(
    model: Mapping[str, Any], size: str, device: Mapping[str, Any], memory: DeviceMemory
) -> None:
    """Nothing if a run of this size fits into what is free on the device now.

    Raises:
        InvalidInput: it does not; the sentence has both figures.
    """
    needed, free = needed_bytes(model["facts"].get(size) or {}), memory.free(device)
    if needed is not None and free is not None and needed > free:
        raise InvalidInput(
            f"{MODELS_IN_A_RUN} copies of {model['name']} {size}, the untouched model and the candidate, need "
            f"{_amount(needed)} in float32 but {_amount(free)} are free on {device['id']}; "
            "choose a smaller size or a device with more memory"
        )


def _amount(count: int) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / 2**20:,.1f} MiB"
