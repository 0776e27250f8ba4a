"""How many bytes a model needs and whether they are there, asked before anything is allocated.

A process that allocates more than there is gets killed without a sentence; a check that costs microseconds gives the
figures instead. A run holds two models at once, the untouched one and the candidate.
"""

from __future__ import annotations

from pathlib import Path

import psutil

from hybrid_core.errors import InvalidInput

BYTES_PER_PARAMETER = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5}
MODELS_IN_A_RUN = 2
GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")


def weights_bytes(parameters: int) -> dict[str, int]:
    """Bytes of the weights alone by dtype; scales and zero points of the quantized ones come on top.

    >>> weights_bytes(1000)
    {'float32': 4000, 'bfloat16': 2000, 'int8': 1000, 'int4': 500}
    """
    return {dtype: round(parameters * width) for dtype, width in BYTES_PER_PARAMETER.items()}


def available_bytes() -> int:
    """Main memory that can still be used, within the container's limit where there is one."""
    free = int(psutil.virtual_memory().available)
    limit, used = (_read_number(_CGROUP / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else max(0, min(free, limit - used))


def refuse_what_does_not_fit(what: str, parameters: int, copies: int = 1) -> None:
    """Nothing if `copies` models of float32 weights fit into memory.

    Raises:
        InvalidInput: they do not; the sentence has both figures.
    """
    needed, available = weights_bytes(parameters)["float32"] * copies, available_bytes()
    if needed > available:
        many = f"{copies} copies of " if copies > 1 else ""
        raise InvalidInput(
            f"{many}{what} with {parameters:,} parameters need {needed / GIB:,.1f} GiB in float32 but "
            f"{available / GIB:,.1f} GiB of memory are free; choose a smaller size or a machine with more memory"
        )


def _read_number(path: Path) -> int | None:
    """The number in a control-group file; None where there is no such file or no limit ("max")."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
