"""Saves and restores a training so that it goes on as if it had not been interrupted.

One safetensors file holds weights, optimizer moments and the random generator; counters are in its header. Nothing is
pickled, so reading a state from elsewhere can run no code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hybrid_core.models.checkpoints import read_facts, read_tensors, write_tensors


def save_state(
    path: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
    counters: dict[str, float],
) -> None:
    """Write everything `load_state` needs; the file is the old one or the whole new one."""
    tensors = {"generator": generator.get_state()}
    tensors |= {f"model/{name}": value.detach().contiguous() for name, value in model.state_dict().items()}
    for index, optimizer in enumerate(optimizers):
        for parameter, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{parameter}/{name}": value for name, value in moments.items()}
    write_tensors(tensors, path, counters)


def load_state(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], generator: torch.Generator
) -> dict[str, float]:
    """Restore in place and return the counters; hyperparameters are those the optimizers were made with."""
    tensors = read_tensors(path)
    generator.set_state(tensors["generator"])
    model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model/")})
    for index, optimizer in enumerate(optimizers):
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer/{index}/"):
                _, _, parameter, moment = name.split("/")
                moments.setdefault(int(parameter), {})[moment] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return read_facts(path)
