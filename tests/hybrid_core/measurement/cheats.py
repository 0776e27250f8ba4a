"""Candidates that look fast and are not: one small class each, with what it does and the words that refuse it."""

from tests.hybrid_core.measurement import (
    cheats_gpu,
    cheats_left_out,
    cheats_remembered,
    cheats_tampering,
    cheats_unfinished,
    cheats_watched,
)
from tests.hybrid_core.measurement.cheating import CHEATS, GPU_CHEATS, Cheat

FILES = (cheats_remembered, cheats_unfinished, cheats_left_out, cheats_watched, cheats_tampering, cheats_gpu)

__all__ = ["CHEATS", "FILES", "GPU_CHEATS", "Cheat"]
