"""nn.MultiheadAttention, made to call the fused kernel wherever it does not.

PyTorch's own layer stores the square score matrix in two cases: when it is asked for its weights, which is the default
even where the caller drops them, and, on a processor, on its "fast path" (`_native_multi_head_attention`, also inside
nn.TransformerEncoderLayer), which is fast for short sequences only. Here its own function is called without weights,
which is one `scaled_dot_product_attention`. That nobody reads the weights is proven: in their place stands an object
that refuses every use. Source: torch.nn.functional.multi_head_attention_forward (PyTorch 2.13).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.causal_kernel import looks_causal, note_skip
from hybrid_core.strategies.base import Situation, replace_submodule, run_example

_SOFTMAX = ("aten::_softmax", "aten::_safe_softmax")
_NATIVE = "aten::_native_multi_head_attention"
_USED = "its attention weights are used, and the fused kernel never has them"


class DroppedWeights:
    """What stands for attention weights that nobody reads; any use of it is an error that says so."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise StrategyUnsupported(f"{_USED}; leave attention_fusion out")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise StrategyUnsupported(f"{_USED}; leave attention_fusion out")


DROPPED = DroppedWeights()


class FusedMultihead(nn.Module):
    """Stands where an nn.MultiheadAttention stood; attributes that are not its own are the original's.

    `causal`: masks that are exactly the causal one are not read but skipped by the kernel.
    """

    # The one thing that nn.TransformerEncoderLayer asks before it calls a kernel of its own instead of this module.
    _qkv_same_embed_dim = False

    def __init__(self, original: nn.MultiheadAttention, causal: bool = False) -> None:
        super().__init__()
        self.original, self.causal = original, causal
        self.train(original.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Any]:
        """What the original returns; weights that it would return are `DROPPED`."""
        del average_attn_weights, is_causal  # a hint that may be wrong; the mask itself is looked at
        if query.is_nested:
            raise StrategyUnsupported(
                "nn.TransformerEncoder packs padded rows into nested tensors here; build it with "
                "enable_nested_tensor=False"
            )
        turned = self.original.batch_first and query.dim() == 3
        if turned:
            query, key, value = (x.transpose(1, 0) for x in (query, key, value))
        out = self._attend(query, key, value, key_padding_mask, attn_mask)
        return out.transpose(1, 0) if turned else out, DROPPED if need_weights else None

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, attn_mask: Tensor | None
    ) -> Tensor:
        own = self.original
        skips = self.causal and padding is None and attn_mask is not None and attn_mask.dim() == 2
        skips = skips and not own.add_zero_attn and own.bias_k is None
        skips = skips and looks_causal(_additive(attn_mask, query.dtype), len(query), len(key))
        if skips:
            note_skip()
        out, _ = functional.multi_head_attention_forward(
            query, key, value, own.embed_dim, own.num_heads, own.in_proj_weight, own.in_proj_bias, own.bias_k,
            own.bias_v, own.add_zero_attn, own.dropout, own.out_proj.weight, own.out_proj.bias, training=False,
            key_padding_mask=padding, need_weights=False, attn_mask=attn_mask, is_causal=skips,
            use_separate_proj_weight=not own._qkv_same_embed_dim, q_proj_weight=own.q_proj_weight,
            k_proj_weight=own.k_proj_weight, v_proj_weight=own.v_proj_weight,
        )  # fmt: skip
        return out

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("original"), name)


def fuse_multihead(model: nn.Module, situation: Situation, causal: bool) -> tuple[nn.Module, list[str], list[str]]:
    """Replace every nn.MultiheadAttention that stores its scores in the example; returns names and refusals too."""
    names = _storing(model, situation)
    if not names:
        return model, [], []
    changed = _replaced(model, names, causal)
    kept, reasons = names, list[str]()
    if _why_used(changed, situation) is not None:  # somebody reads the weights of one: find out whose
        for name in names:
            changed = _replaced(_restored(changed, names), [name], causal)
            why = _why_used(changed, situation)
            reasons += [] if why is None else [f"{name or 'the model'}: {why}"]
        kept = [n for n in names if not any(r.startswith(f"{n or 'the model'}: ") for r in reasons)]
        changed = _replaced(_restored(changed, names), kept, causal)
    still = [name for name in _storing(changed, situation) if name in kept] if kept else []
    if still:
        raise StrategyUnsupported(
            f"{still[0] or 'the model'} has no fused kernel for its types and sizes; leave attention_fusion out"
        )
    return changed, kept, reasons


def _additive(mask: Any, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf")) \
        if mask.dtype == torch.bool else mask  # fmt: skip


def _replaced(model: nn.Module, names: list[str], causal: bool) -> nn.Module:
    for name in names:
        model = replace_submodule(model, name, FusedMultihead(model.get_submodule(name), causal))  # type: ignore[arg-type]
    return model


def _restored(model: nn.Module, names: list[str]) -> nn.Module:
    for name in names:
        module = model.get_submodule(name)
        model = replace_submodule(model, name, module.original) if isinstance(module, FusedMultihead) else model
    return model


def _why_used(model: nn.Module, situation: Situation) -> str | None:
    """Run the example; a sentence when the weights are read or given back."""
    try:
        out = run_example(model, situation)
    except (StrategyUnsupported, TypeError) as error:  # an operator such as `+` on the weights is a TypeError
        return str(error) if isinstance(error, StrategyUnsupported) else _USED
    given_back = any(isinstance(leaf, DroppedWeights) for leaf in pytree.tree_leaves(out))
    return "its attention weights are returned, and the fused kernel never has them" if given_back else None


def _is_multihead(module: nn.Module) -> bool:
    return isinstance(module, FusedMultihead) or (
        isinstance(module, nn.MultiheadAttention) and type(module).forward is nn.MultiheadAttention.forward
    )


def _storing(model: nn.Module, situation: Situation) -> list[str]:
    """Names of the attention layers that store a square score matrix during the example."""
    watched = {name: module for name, module in model.named_modules() if _is_multihead(module)}
    if not watched:
        return []
    watcher = _Watcher()
    handles: list[Any] = []
    for name, module in watched.items():
        handles.append(module.register_forward_pre_hook(lambda m, args, name=name: watcher.stack.append(name)))
        handles.append(module.register_forward_hook(lambda m, args, out: watcher.leave(), always_call=True))
    try:
        with watcher:
            run_example(model, situation)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in watched if name in watcher.found]


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees what the kernels really are; a torch-function mode would switch the fast path off by being there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack: list[str] = []
        self.found: set[str] = set()

    def leave(self) -> None:
        self.stack.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if self.stack and (name in _SOFTMAX or (name == _NATIVE and _stores(args))):
            self.found.add(self.stack[-1])
        return func(*args, **(kwargs or {}))


def _stores(args: tuple[Any, ...]) -> bool:
    """The native kernel is fused on a GPU, unless it is asked for weights (argument ten)."""
    need_weights = args[10] if len(args) > 10 else True
    return bool(args[0].device.type != "cuda" or need_weights)
