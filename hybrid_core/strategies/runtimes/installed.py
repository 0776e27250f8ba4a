"""Whether the libraries of a runtime are installed, asked without importing them: the catalog asks in every process."""

from __future__ import annotations

from importlib.util import find_spec


def missing_reason(setting: str, libraries: tuple[str, ...]) -> str | None:
    """Which of the libraries are absent and how to get them; None when all are there."""
    missing = [name for name in libraries if not _is_there(name)]
    if not missing:
        return None
    return f"{setting} needs {' and '.join(missing)}, not installed here; run: pip install {' '.join(missing)}"


def cpu_only_reason(setting: str, device: str) -> str | None:
    """These runtimes are installed with kernels for the CPU."""
    if device.startswith("cpu"):
        return None
    return f"{setting} runs on the CPU here and the device is '{device}'; choose compile there"


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # ValueError: somebody put None or a bare module into sys.modules
        return False
