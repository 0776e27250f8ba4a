"""Trains the tiny `qwen` on the standard library's source; the method is that of `training.language`."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

from hybrid_core.models.qwen import QwenEntry
from hybrid_core.models.training.base import Say, TrainingOptions
from hybrid_core.models.training.language import train_dense

DEFAULT_MINUTES = 45.0


def train(options: TrainingOptions, say: Say = tqdm.write) -> dict[str, Any]:
    """Train, publish a usable checkpoint every few minutes, and return the facts of the last one."""
    return train_dense(QwenEntry(), options, say)
