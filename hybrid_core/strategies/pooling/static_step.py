"""A decode whose shapes never change: full-length buffers, writes by position, and a mask over what is not yet filled.

A cache that returns its filled part has another length at every step, so a compiler meets new sizes: it compiles again
and then for symbolic ones. Here the position is a tensor, keys and values always have the final length, and rows that
are not filled are masked. One graph for the context and one for the step serve every token. The price is attention
over the final length at every step. Source: the static cache of gpt-fast and `transformers`.
"""

from __future__ import annotations

import inspect
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Method, Setting, Situation, run_example, tensors_in
from hybrid_core.strategies.pooling.decode_cache import (
    made_by_example,
    refuse_overflow,
    refuse_without_decode,
    watch_own_cache,
)

HIDDEN_ARGUMENTS = ("tokens", "cache", "padding")
LAYER_ARGUMENTS = 6  # x, cos, sin, mask, number, cache


class StepCache:
    """Buffers (batch, kv_heads, max_length, width) per layer; `filled` is a tensor, so no size depends on it.

    Rows beyond `filled` are zero: what a mask hides still takes part in products, where NaN would spread.
    """

    def __init__(self, batch: int, max_length: int, *, layers: int, device: torch.device) -> None:
        self.batch, self.max_length = batch, max_length
        self.filled = torch.zeros((), dtype=torch.int64, device=device)
        self.rows = torch.zeros(0, dtype=torch.int64, device=device)
        self._buffers: list[tuple[Tensor, Tensor] | None] = [None] * layers

    @property
    def length(self) -> int:
        """Tokens read so far."""
        return int(self.filled)

    @property
    def allocated_bytes(self) -> int:
        """What the buffers made so far occupy."""
        return sum(t.numel() * t.element_size() for pair in self._buffers if pair is not None for t in pair)

    def take_rows(self, new: int) -> tuple[Tensor, int]:
        """Reserve the next `new` rows for every layer: their numbers (new,), and how many rows attention will see."""
        if not torch.compiler.is_compiling():  # a compiled write checks its index itself
            refuse_overflow(self.length, new, self.max_length)
        self.rows = self.filled + torch.arange(new, device=self.filled.device)
        self.filled = self.filled + new
        return self.rows, new if self._buffers[0] is None else self.max_length

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write (batch, kv_heads, new, width) into the reserved rows and return the whole buffers.

        The first tokens of all see only themselves, so they get back what they brought.
        """
        held = self._buffers[layer]
        keys, values = (self._buffer(k), self._buffer(v)) if held is None else held
        keys.index_copy_(2, self.rows, k)
        values.index_copy_(2, self.rows, v)
        self._buffers[layer] = (keys, values)
        return (k, v) if held is None else (keys, values)

    def _buffer(self, like: Tensor) -> Tensor:
        return like.new_zeros((like.shape[0], like.shape[1], self.max_length, like.shape[3]))


def hidden_of_fixed_shape(self: Any, tokens: Tensor, cache: Any = None, padding: Tensor | None = None) -> Tensor:
    """What `hidden` of the model's class returns; with a `StepCache` no size in it depends on how full that is."""
    if not isinstance(cache, StepCache):
        plain: Tensor = type(self).hidden(self, tokens, cache, padding)
        return plain
    rows, seen = cache.take_rows(tokens.shape[1])
    x = self.embedding(tokens)
    mask = _mask(rows, seen, padding, x)
    cos, sin = self.cos[rows], self.sin[rows]
    for index, layer in enumerate(self.layers):
        x = layer(x, cos, sin, mask, index, cache)
    normed: Tensor = self.norm(x)
    return normed


def _mask(rows: Tensor, seen: int, padding: Tensor | None, like: Tensor) -> Tensor:
    """(new, seen), or (batch, 1, new, seen) with padding: minus infinity for later rows and for each row's padding."""
    columns = torch.arange(seen, device=rows.device)
    hidden = columns > rows[:, None]
    if padding is not None:
        # A padding token still sees itself: a row of nothing but -inf would become NaN in softmax.
        hidden = hidden | ((columns < padding[:, None, None]) & (columns != rows[:, None]))
        hidden = hidden[:, None]
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill(hidden, float("-inf"))


def refuse_static_step(model: nn.Module, situation: Situation) -> str | None:
    """No decode, no cache, or a model that does not compute its positions and mask in the one way known here."""
    reason = refuse_without_decode(model, situation)
    if reason is None and not _is_known_decoder(model):
        reason = (
            f"{type(model).__name__} makes its mask and positions from the cache's length in its own way (known is: "
            "hidden(tokens, cache, padding) over embedding, layers, norm and tables cos, sin); use static_cache"
        )
    return reason


def _is_known_decoder(model: nn.Module) -> bool:
    hidden, layers = getattr(model, "hidden", None), model._modules.get("layers")
    if not callable(hidden) or not isinstance(layers, nn.ModuleList) or not len(layers):
        return False
    parts = all(isinstance(model._modules.get(n), nn.Module) for n in ("embedding", "norm"))
    tables = all(isinstance(getattr(model, n, None), Tensor) for n in ("cos", "sin"))
    own = tuple(inspect.signature(hidden).parameters) == HIDDEN_ARGUMENTS and "hidden" not in vars(model)
    return parts and tables and own and len(inspect.signature(layers[0].forward).parameters) == LAYER_ARGUMENTS


def use_static_step(model: nn.Module, situation: Situation) -> Applied:
    """Replace `cache_factory` and `hidden`; proves on the example that the outputs stay the same."""
    owner: Any = model
    before = run_example(model, situation)
    filled = watch_own_cache(model, situation)
    owner.hidden = MethodType(hidden_of_fixed_shape, model)
    factory = partial(StepCache, layers=filled.layers, device=situation.device)
    cache, after = made_by_example(model, situation, factory)
    for one, other in zip(tensors_in(before), tensors_in(after), strict=True):
        error = float((one - other).double().norm() / (one.double().norm() + 1e-30))
        if not error <= (1e-3 if one.dtype == torch.float32 else 0.1):
            raise StrategyUnsupported(
                f"a cache of fixed length gives other outputs (relative error {error:.1e}), so the model reads its "
                "cache in a way that is not known here; use static_cache"
            )
    change = (
        f"every step of the decode has the same shapes: {filled.layers} layers hold {cache.max_length} rows from the "
        f"start ({cache.allocated_bytes / 1e6:.2f} MB), writes go by position, unfilled rows are masked"
    )
    return Applied(model, (change,))


STATIC_STEP = Method(
    Setting(
        name="static_step",
        sentence="A decode writes by position into full-length buffers, so that one compiled graph serves every step.",
        stage=50,
        exact=True,
        expected_cost_s=1.0,
        references=(
            "https://huggingface.co/docs/transformers/kv_cache",
            "https://pytorch.org/blog/accelerating-generative-ai-2/",
        ),
    ),
    apply=use_static_step,
    unsupported=refuse_static_step,
)
