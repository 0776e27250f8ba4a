"""Trains the shipped checkpoints: `python -m hybrid_core.models.train llama|convnet [--minutes N] [--resume]`.

Everything is trained from data that is at hand without a download: Python's standard library and scikit-learn's digits.
An interrupted llama training goes on with `--resume`; its state lives in `./training/`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, train, print the quality."""
    parser = argparse.ArgumentParser(prog="python -m hybrid_core.models.train", description=__doc__)
    parser.add_argument("model", choices=("llama", "convnet"))
    parser.add_argument("--minutes", type=float, help="wall time; default 45 for llama, 2 for convnet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with ./training/ (llama)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="where to write the checkpoint; default: into the package")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--eager", action="store_true", help="do not compile the training step (llama)")
    parser.add_argument("--adamw", action="store_true", help="AdamW for everything instead of Muon (llama)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    given = {name: getattr(chosen, name) for name in ("minutes", "output", "learning_rate")}
    given = {name: value for name, value in given.items() if value is not None}
    if chosen.model == "llama":
        from hybrid_core.models.train_llama import LlamaTraining, train_llama

        options = LlamaTraining(seed=chosen.seed, compiled=not chosen.eager, muon=not chosen.adamw)
        train_llama(dataclasses.replace(options, **given), resume=chosen.resume)
    else:
        from hybrid_core.models.train_convnet import ConvNetTraining, train_convnet

        train_convnet(dataclasses.replace(ConvNetTraining(seed=chosen.seed), **given))


if __name__ == "__main__":
    main()
