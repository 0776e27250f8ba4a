"""Which models there are: an explicit tuple, so that a reader finds every entry without running anything."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.base import ModelEntry
from hybrid_core.models.brandkit import BrandKitEntry
from hybrid_core.models.claude import ClaudeEntry
from hybrid_core.models.convnet import ConvNetEntry
from hybrid_core.models.deepseek import DeepSeekEntry
from hybrid_core.models.ia_generative import GenerativeEntry
from hybrid_core.models.llama import LlamaEntry
from hybrid_core.models.qwen import QwenEntry, QwqEntry
from hybrid_core.models.sequential import SequentialEntry
from hybrid_core.models.viral_clipper import ViralClipperEntry
from hybrid_core.models.vit import VitEntry

ENTRIES: tuple[ModelEntry, ...] = (
    LlamaEntry(),
    DeepSeekEntry(),
    QwenEntry(),
    QwqEntry(),
    ClaudeEntry(),
    ViralClipperEntry(),
    BrandKitEntry(),
    GenerativeEntry(),
    ConvNetEntry(),
    VitEntry(),
    SequentialEntry(),
)


def get_entry(name: str) -> ModelEntry:
    """The entry of that name.

    Raises:
        InvalidInput: there is none; the message lists those there are.
    """
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise InvalidInput(f"model {name!r:.60} is unknown; choose one of {', '.join(e.name for e in ENTRIES)}")


def find_entry(name: str, source: str = "") -> ModelEntry:
    """The registry's entry of that name or, with the text of a registration, the model somebody brought.

    Raises:
        InvalidInput: there is none, or the brought files are gone or changed.
    """
    if not source:
        return get_entry(name)
    from hybrid_core.models.brought.registration import Registration, open_entry

    return open_entry(Registration.from_text(source))


def get_all_models(seed: int = 0) -> dict[str, Callable[[], nn.Module]]:
    """Name to a function that builds the model's default (first) size."""
    return {entry.name: partial(entry.build, entry.sizes[0], seed) for entry in ENTRIES}
