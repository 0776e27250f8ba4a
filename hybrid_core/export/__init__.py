"""Taking an optimized model home as a folder, reading it back, and checking it on another machine.

A folder holds data only (JSON, safetensors, Markdown) beside the packages a recipe made and a script for its reader.
Reading one never runs anything from it: the model is built again by this package, and the stored weights are the check.
Names are loaded on first use, so that asking for help does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_core.export.loading import load_folder as load_folder
    from hybrid_core.export.verification import verify_folder as verify_folder
    from hybrid_core.export.writing import export_folder as export_folder

_HOME = {"export_folder": "writing", "load_folder": "loading", "verify_folder": "verification"}


def __getattr__(name: str) -> Any:
    """Load an exported name from its module."""
    if name not in _HOME:
        raise AttributeError(f"hybrid_core.export has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(importlib.import_module(f"hybrid_core.export.{_HOME[name]}"), name)
