"""Which operations always return memory of their own, never their input or a view of it.

Both settings that write results into existing buffers rest on this list: what is not in it may hand its input on, so
nothing behind it can be proven private. Conversions and reshapes may return their input; they are left out.
"""

from __future__ import annotations

import operator

import torch
from torch import nn
from torch.ao.nn.quantized import dynamic as quantized_dynamic
from torch.fx import Node
from torch.nn import functional as F

FRESH_MODULES = (
    nn.Linear, quantized_dynamic.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.BatchNorm1d,
    nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Embedding, nn.SiLU, nn.GELU, nn.ReLU,
    nn.Sigmoid, nn.Tanh, nn.Softmax,
)  # fmt: skip
FRESH_FUNCTIONS = {
    torch.matmul, torch.bmm, torch.softmax, torch.cat, torch.relu, torch.sigmoid, torch.tanh, torch.exp,
    torch.rsqrt, torch.sqrt, torch.pow, torch.add, torch.sub, torch.mul, torch.div, F.linear, F.conv1d, F.conv2d,
    F.layer_norm, F.rms_norm, F.batch_norm, F.gelu, F.silu, F.relu, F.softmax, F.sigmoid, F.tanh, F.embedding,
    F.scaled_dot_product_attention, operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul,
    operator.neg,
}  # fmt: skip
FRESH_METHODS = {"matmul", "softmax", "pow", "rsqrt", "sqrt", "exp", "add", "sub", "mul", "div", "mean", "sum", "relu",
                 "sigmoid", "tanh", "bmm", "masked_fill"}  # fmt: skip


def gives_new_memory(node: Node, module: nn.Module) -> bool:
    """True when this node of the module's body never returns its input or a view, nor writes into it."""
    if node.kwargs.get("inplace") or node.kwargs.get("out") is not None:
        return False
    if node.op == "call_module":
        # Exact types: a subclass may return anything. A hook may keep what it is shown.
        child = module.get_submodule(str(node.target))
        return type(child) in FRESH_MODULES and not getattr(child, "inplace", False) and not has_hooks(child)
    if node.op == "call_method":
        return node.target in FRESH_METHODS
    # With one operand einsum is a transposition or a diagonal, and returns a view.
    if node.target is torch.einsum:
        return len([a for a in node.args[1:] if isinstance(a, Node)]) > 1
    return node.op == "call_function" and node.target in FRESH_FUNCTIONS


def has_hooks(module: nn.Module) -> bool:
    """True when somebody watches the inputs or outputs of this module."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
