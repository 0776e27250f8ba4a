"""What every decoder of the registry shares: embedding, layers, mask, cache and head, and how it is fed and timed.

A family brings its layers; `Decoder` puts them between an embedding and a head, makes the causal mask once per call and
hands each layer its rows of the rotary table. The attention inside is plain and eager on purpose: it is the untouched
model that optimizations are measured against.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.parts.blocks import Cache, GrowingCache, RMSNorm


class Decoder(nn.Module):
    """Tokens in, logits out; with a cache, only the new tokens go in."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self, vocabulary: int, dim: int, layers: Iterable[nn.Module], table: tuple[Tensor, Tensor], eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.layers = nn.ModuleList(layers)
        self.norm = RMSNorm(dim, eps)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        # Not persistent: they follow from the shape, so a checkpoint holds weights only.
        self.register_buffer("cos", table[0], persistent=False)
        self.register_buffer("sin", table[1], persistent=False)
        self._initialise()

    def forward(self, tokens: Tensor, cache: Cache | None = None, padding: Tensor | None = None) -> Tensor:
        """Tokens (batch, new) int64 to logits (batch, new, vocabulary).

        `padding` (batch,) int64 counts the padding tokens at the left of each row; with a cache it is given at every
        call. Logits of padding tokens mean nothing.

        Raises:
            InvalidInput: cached and new tokens together exceed the rotary table.
        """
        logits: Tensor = self.head(self.hidden(tokens, cache, padding))
        return logits

    def hidden(self, tokens: Tensor, cache: Cache | None = None, padding: Tensor | None = None) -> Tensor:
        """What the head reads: normalised states (batch, new, dim)."""
        start = 0 if cache is None else cache.length
        end = checked_end(start, tokens.shape[1], self.cos)
        x = self.embedding(tokens)
        mask = causal_mask(start, end, x)
        if padding is not None:
            mask = hide_padding(mask, padding, start)
        cos, sin = rows_between(self.cos, self.sin, start, end)
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, mask, index, cache)
        normed: Tensor = self.norm(x)
        return normed

    def cache_factory(self, batch: int, max_length: int) -> Cache:
        """An empty cache; `batch` and `max_length` matter to caches that reserve their memory, not to this one."""
        del batch, max_length
        return GrowingCache(len(self.layers))

    def _initialise(self) -> None:
        # Projections that write into the residual stream start small so that depth does not raise its variance (GPT-2).
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                into_stream = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * len(self.layers)) ** 0.5 if into_stream else 0.02)


def checked_end(start: int, new: int, table: Tensor) -> int:
    """The position after the last new token, refused beyond the rotary table."""
    end, max_length = start + new, table.shape[0]
    if end > max_length:
        raise InvalidInput(
            f"{start} cached + {new} new tokens = {end} exceed max_length={max_length}; shorten the input to at most "
            f"{max_length - start} tokens"
        )
    return end


def causal_mask(start: int, end: int, like: Tensor) -> Tensor:
    """(new, all) with 0 where position start + row may look and -inf where it may not; dtype and device of `like`."""
    mask = torch.full((end - start, end), float("-inf"), dtype=like.dtype, device=like.device)
    return torch.triu(mask, diagonal=start + 1)


def hide_padding(mask: Tensor, padding: Tensor, start: int) -> Tensor:
    """The causal mask (new, all) without each row's padding, (batch, 1, new, all).

    A padding token still sees itself: a row of nothing but -inf would become NaN in softmax.
    """
    columns = torch.arange(mask.shape[1], device=mask.device)
    own = columns == torch.arange(start, start + mask.shape[0], device=mask.device)[:, None]
    hidden = (columns < padding[:, None, None]) & ~own
    return mask.masked_fill(hidden, float("-inf"))[:, None]


def rows_between(cos: Tensor, sin: Tensor, start: int, end: int) -> tuple[Tensor, Tensor]:
    """The rotary table of the positions start to end - 1."""
    return cos[start:end], sin[start:end]


# As leaves these do not stop torch.fx.symbolic_trace: one branches on a size, the other slices a tensor by sizes.
torch.fx.wrap("checked_end")
torch.fx.wrap("rows_between")


def decode(model: nn.Module, context: Tensor, next_tokens: Tensor) -> Tensor:
    """Read the context into a fresh cache, then the next tokens one by one; their logits, (batch, new, vocabulary).

    Feeding given tokens instead of the model's own keeps two models comparable after their first disagreement.
    """
    new = next_tokens.shape[1]
    make_cache: Any = model.cache_factory
    cache = make_cache(context.shape[0], context.shape[1] + new)
    model(context, cache=cache)
    return torch.cat([model(next_tokens[:, i : i + 1], cache=cache) for i in range(new)], dim=1)


def generate(model: nn.Module, tokens: Tensor, new_tokens: int, padding: Tensor | None = None) -> Tensor:
    """The `new_tokens` most likely continuations (batch, new_tokens), each token read back through the cache."""
    make_cache: Any = model.cache_factory
    cache = make_cache(tokens.shape[0], tokens.shape[1] + new_tokens)
    given = {} if padding is None else {"padding": padding}
    written, read = [], tokens
    for _ in range(new_tokens):
        read = model(read, cache=cache, **given)[:, -1:].argmax(-1)
        written.append(read)
    return torch.cat(written, dim=1)
