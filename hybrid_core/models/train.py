"""Trains the shipped checkpoints: `python -m hybrid_core.models.train <entry> [--minutes N] [--resume]`.

Everything is trained from data that is at hand without a download: Python's standard library, scikit-learn's digits,
and what the repository generates. An interrupted training goes on with `--resume`; its state lies in `./training/`.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

import torch

from hybrid_core.models.training.base import TrainingOptions

# Entry -> module of hybrid_core.models.training with DEFAULT_MINUTES and train(options).
TRAININGS = {
    "llama": "llama",
    "deepseek": "deepseek",
    "qwen": "qwen",
    "qwq": "qwq",
    "claude": "claude",
    "viral_clipper": "viral_clipper",
    "brandkit": "brandkit",
    "ia_generative": "ia_generative",
    "convnet": "convnet",
    "vit": "vit",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, train, print the quality."""
    parser = argparse.ArgumentParser(prog="python -m hybrid_core.models.train", description=__doc__)
    parser.add_argument("model", choices=tuple(TRAININGS))
    parser.add_argument("--minutes", type=float, help="wall time; each entry has its own default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with the state in ./training/")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="where to write the checkpoint; default: into the package")
    parser.add_argument("--eager", action="store_true", help="do not compile the training step")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    training = importlib.import_module(f"hybrid_core.models.training.{TRAININGS[chosen.model]}")
    given = {"output": chosen.output} if chosen.output else {}
    minutes = training.DEFAULT_MINUTES if chosen.minutes is None else chosen.minutes
    options = TrainingOptions.of(
        chosen.model, minutes, seed=chosen.seed, resume=chosen.resume, compiled=not chosen.eager, **given
    )
    training.train(options)


if __name__ == "__main__":
    main()
