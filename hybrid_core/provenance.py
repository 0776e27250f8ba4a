"""Whether an exported recipe's figures were measured on a machine like this one, and in which words to say so.

A recipe works wherever its steps are supported, but a ratio belongs to the processor, the versions and the device it
was taken on. So whoever applies an exported recipe elsewhere is told what differs; nothing is refused for it.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from hybrid_core.handover import VERSION_KEYS
from hybrid_core.measurement.environment import LIBRARIES, cpu_model, library_versions, read_text


class MeasuredElsewhere(UserWarning):
    """The figures of a recipe were measured with other versions or on another device than the one at hand."""


def warn_of_differences(exported: Mapping[str, Any], device: torch.device) -> None:
    """One warning, for the caller's caller, that names every difference; none where all that is known agrees."""
    found = differences_of(exported, device)
    if found:
        text = f"the figures of this recipe were measured elsewhere: {'; '.join(found)}"
        text += "; measure again before relying on them"
        warnings.warn(text, MeasuredElsewhere, stacklevel=3)


def differences_of(exported: Mapping[str, Any], device: torch.device) -> list[str]:
    """What differs between the machine of the figures and this one, each as 'torch was 2.12, here it is 2.13'.

    What the recipe does not say is not compared: a plain `{strategy: setting}` mapping has no differences.
    """
    if "format" not in exported:
        return []
    told = _told(exported)
    here = {**_versions_here(), **_device_here(device)}
    return [
        f"{name} was {_short(value)}, here it is {_short(here[name]) if here[name] else 'not there'}"
        for name, value in told.items()
        if name in here and value and value != here[name]
    ]


def _told(exported: Mapping[str, Any]) -> dict[str, str]:
    """Name to text of what the recipe says of its machine."""
    groups = [exported.get(key) for key in ("versions", "environment")]
    versions, environment = (group if isinstance(group, Mapping) else {} for group in groups)
    told = {key: str(versions[key]) for key in VERSION_KEYS if versions.get(key) is not None}
    if "python" in told:
        told["python"] = _minor(told["python"])
    device = exported.get("device")
    if isinstance(device, str):
        told["device"] = _kind(device)
    facts = {"processor": "cpu_model", "graphics card": "gpu"}
    return told | {name: str(environment[key]) for name, key in facts.items() if environment.get(key)}


def _versions_here() -> dict[str, str]:
    found = {"python": _minor(platform.python_version()), "torch": torch.__version__}
    if torch.version.cuda is not None:
        found |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    return found | dict.fromkeys(LIBRARIES, "") | library_versions()


def _device_here(device: torch.device) -> dict[str, str]:
    found = {"device": _kind(str(device)), "processor": cpu_model(read_text("/proc/cpuinfo")) or platform.processor()}
    if device.type == "cuda":
        found["graphics card"] = torch.cuda.get_device_properties(device).name
    return found


def _kind(device: str) -> str:
    """A card's number or UUID is another one on every machine; its name is compared instead."""
    return "cpu" if device == "cpu" else "cuda"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _short(text: str) -> str:
    """Text from a file, on one line of a sentence."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:80]
