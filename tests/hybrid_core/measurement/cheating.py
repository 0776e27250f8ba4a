"""What the cheats have in common; each is a class of its own in the files beside this one, listed in `cheats`.

A class is called with the honest model, as a transformation would be. `words` must stand in the reason of the refusal;
`case` is the case it needs where the usual one does not fit; `stage` is set where the phase that finds it matters.
"""

import gc

from tests.hybrid_core.measurement.trying import Wrapped, case_of

CHEATS: list[type] = []
GPU_CHEATS: list[type] = []


def timed() -> bool:
    """Whether the clock is running now: the procedure turns the collector off inside a block."""
    return not gc.isenabled()


class Cheat(Wrapped):
    """The kind of candidate that is refused."""

    words = "relative error"
    stage = ""
    exact = True
    case = staticmethod(case_of)

    def __init_subclass__(cls):
        if "Base" not in cls.__name__:
            (GPU_CHEATS if cls.__module__.endswith("_gpu") else CHEATS).append(cls)
