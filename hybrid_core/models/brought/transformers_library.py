"""The one door to `transformers`: optional, of a known version, never online.

The import is late, because it takes seconds and most people never need it. Offline is set before the import, as the
library reads it only then; nothing we call asks for the network, and this makes it certain.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from hybrid_core.errors import InvalidInput

# Below 5.3 a field of config.json could run code from the hub (CVE-2026-4372); 6 is unknown to our tables.
OLDEST, NEXT_MAJOR = (5, 3), 6


def load_transformers() -> Any:
    """The library.

    Raises:
        InvalidInput: it is not installed, or of a version that must not be used.
    """
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    try:
        library = importlib.import_module("transformers")
    except ImportError:
        raise InvalidInput("transformers is not installed; run pip install -r requirements-hf.txt") from None
    check_version(str(library.__version__))
    return library


def check_version(version: str) -> None:
    """Nothing if this version may be used.

    >>> check_version("5.23.0")
    """
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not OLDEST <= numbers < (NEXT_MAJOR,):
        raise InvalidInput(
            f"transformers {version} is installed but 5.3 or newer below 6 is needed; run pip install -r "
            "requirements-hf.txt"
        )
