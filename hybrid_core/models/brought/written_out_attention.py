"""The eager attention of `transformers` as a module of its own, so that strategies find and replace it.

The library computes it in a function, which no strategy can swap, inside layers that no exporter takes whole. Its
public interface for attention functions lets us compute the same steps in the same order in a submodule: equal to the
last bit with `attn_implementation="eager"`, and the masks are those of eager attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.models.parts.blocks import repeat_heads

NAME = "written_out"
_SUBMODULE = "written_out"


class WrittenOutAttention(nn.Module):
    """softmax(cap(q k' scale) + mask) v with every intermediate materialised; the softmax is float32, as there."""

    def __init__(self, scaling: float, softcap: float | None = None) -> None:
        super().__init__()
        self.scaling, self.softcap = scaling, softcap

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Query (b, heads, new, d), key and value (b, heads, all, d); the additive mask broadcasts to (new, all)."""
        scores = torch.matmul(q, k.transpose(2, 3)) * self.scaling
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if mask is not None:
            scores = scores + mask
        return torch.matmul(torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype), v)


def register_attention(library: Any) -> str:
    """Make the function known to `transformers` and return its name, for `attn_implementation`."""
    library.AttentionInterface.register(NAME, _attend)
    library.AttentionMaskInterface.register(NAME, library.masking_utils.eager_mask)
    return NAME


def add_submodules(model: nn.Module) -> None:
    """Give every attention layer its submodule."""
    for module in list(model.modules()):
        width: Any = getattr(module, "head_dim", None)
        scaling = getattr(module, "scaling", None if width is None else width**-0.5)
        if type(module).__name__.endswith("Attention") and scaling is not None:
            softcap = getattr(module, "attn_logit_softcapping", None)
            module.add_module(_SUBMODULE, WrittenOutAttention(float(scaling), softcap))


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What a layer of `transformers` calls: (b, heads, tokens, d) to (b, tokens, heads, d), and no probabilities.

    Scaling and softcap are in the submodule; dropout does nothing in eval mode.
    """
    groups = getattr(module, "num_key_value_groups", 1)
    if groups > 1:
        key, value = repeat_heads(key, groups), repeat_heads(value, groups)
    core = getattr(module, _SUBMODULE)
    mixed: Tensor = core(query, key, value, attention_mask)
    return mixed.transpose(1, 2).contiguous(), None
