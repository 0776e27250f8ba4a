"""The forward of `transformers`' latent attention (DeepSeek-V2, V3 and those built like them) on an absorbed core.

Its own forward expands after it has read the cache and picks its attention from a table that belongs to the whole
process, so there is no part to swap: the forward is written again here, over the module's own layers. The latent is
what goes into the cache, whatever cache class it is. Source:
`modeling_deepseek_v3.py` and `modeling_deepseek_v2.py` of transformers 5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.strategies.attention.absorbed_core import LatentSizes

_LAYERS = ("kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "o_proj")
_QUERY_LAYERS = ("q_proj", "q_a_proj", "q_a_layernorm", "q_b_proj")
_NUMBERS = ("num_heads", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


def is_transformers_attention(module: nn.Module) -> bool:
    """True where the layers and widths have the names that `transformers` gives them."""
    layers = all(isinstance(module._modules.get(name), nn.Module) for name in _LAYERS)
    numbers = all(isinstance(getattr(module, name, None), int) for name in _NUMBERS)
    return layers and numbers and hasattr(module, "scaling") and hasattr(module, "q_lora_rank")


def layers_of_its_own(module: nn.Module) -> list[str]:
    """Children that the forward written here does not know and would skip, as the token selector of DeepSeek-V3.2."""
    return [name for name in module._modules if name not in (*_LAYERS, *_QUERY_LAYERS)]


def transformers_sizes(module: Any) -> LatentSizes:
    """Its widths in our words."""
    return LatentSizes(
        module.num_heads, module.kv_lora_rank, module.qk_nope_head_dim, module.qk_rope_head_dim, module.v_head_dim
    )


def absorb_transformers_attention(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | Tensor,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What the original forward returns, without the probabilities, which no longer exist."""
    sizes, (batch, new) = self.core.sizes, hidden_states.shape[:2]
    queries = self.q_proj if self.q_lora_rank is None else _low_rank_queries(self)
    q = queries(hidden_states).view(batch, new, sizes.heads, -1).transpose(1, 2)
    plain, rope = torch.split(q, [sizes.plain, sizes.rope], dim=-1)
    compressed = self.kv_a_proj_with_mqa(hidden_states)[:, None]
    latent, rope_key = torch.split(compressed, [sizes.latent, sizes.rope], dim=-1)
    latent = self.kv_a_layernorm(latent)
    rope, rope_key = (_turned(x, position_embeddings, self.config) for x in (rope, rope_key))
    if past_key_values is not None:
        latent, rope_key = past_key_values.update(latent, rope_key, self.layer_idx)
    if attention_mask is None and new > 1:
        attention_mask = _causal(new, latent.shape[2], hidden_states.device)
    mixed = self.core(torch.cat((plain, rope), dim=-1), latent, rope_key, attention_mask)
    return self.o_proj(mixed.transpose(1, 2).flatten(2)), None


def _low_rank_queries(module: Any) -> Any:
    return lambda x: module.q_b_proj(module.q_a_layernorm(module.q_a_proj(x)))


def _turned(x: Tensor, positions: tuple[Tensor, Tensor] | Tensor, config: Any) -> Tensor:
    """Turn pairs of x (batch, heads, tokens, width) by their position, given as complex numbers or cosines and sines.

    DeepSeek-V2 has complex tables (batch, tokens, width / 2) and pairs of neighbours; in V3 pairs are neighbours or
    halves, as the configuration says, and come out as halves.
    """
    if isinstance(positions, Tensor):
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * positions[:, None].to(x.device)).flatten(-2).to(x.dtype)
    cos, sin = positions
    if getattr(config, "rope_interleave", True):
        x = torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]


def _causal(new: int, held: int, device: torch.device) -> Tensor:
    """True where a new token may look; `transformers` leaves the mask out where it is the plain causal one."""
    return torch.ones(new, held, dtype=torch.bool, device=device).tril(held - new)
