"""What no exporter of PyTorch can look into, asked before the slow attempt.

A compiled call hides the code that would be traced, and packed quantized weights are objects, no tensors.
"""

from __future__ import annotations

import torch
from torch import nn


def hidden_from_exporters(model: nn.Module) -> str | None:
    """One sentence on the first part that cannot be exported; None where nothing is hidden."""
    for name, module in model.named_modules():
        where = f"'{name}'" if name else "the model"
        if getattr(module, "_compiled_call_impl", None) is not None:
            return f"{where} is already compiled by torch.compile; choose one of the two"
        if any(isinstance(value, torch.ScriptObject) for value in vars(module).values()):
            return (
                f"{where} ({type(module).__name__}) holds packed quantized weights, which an exported graph cannot "
                "take along; use it without this quantization"
            )
    return None
