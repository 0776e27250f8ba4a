"""Ways to call nn.MultiheadAttention that make it store its scores, although nobody reads its weights."""

import torch
from torch import nn

DIM, HEADS = 32, 4


class Uses(nn.Module):
    """Calls the layer in the way given and keeps the output only."""

    def __init__(self, call=None, **options):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(DIM, HEADS, **options)
        self.call = call or {}

    def forward(self, x):
        made = {k: make(x) for k, make in self.call.items() if callable(make)}
        given = {**self.call, **made}
        key = given.pop("key", x)
        return self.attention(x, key, key, **given)[0]


class Reads(nn.Module):
    """Hands output and weights to `read`."""

    def __init__(self, read):
        super().__init__()
        torch.manual_seed(0)
        self.attention, self.read = nn.MultiheadAttention(DIM, HEADS, batch_first=True), read

    def forward(self, x):
        return self.read(*self.attention(x, x, x))


def causal_bool(x):
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)


def causal_float(x):
    return torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)


def padding(x):
    return (torch.arange(x.shape[1]) >= x.shape[1] - 2).expand(x.shape[0], -1)


def encoder():
    torch.manual_seed(0)
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(DIM, HEADS, 48, batch_first=True), 2)


STORING = {
    "weights asked for by default": lambda: Uses(batch_first=True),
    "the fast path without weights": lambda: Uses({"need_weights": False}, batch_first=True),
    "length first": lambda: Uses(),
    "weights of each head": lambda: Uses({"average_attn_weights": False}, batch_first=True),
    "a boolean mask": lambda: Uses({"attn_mask": causal_bool}, batch_first=True),
    "an additive mask": lambda: Uses({"attn_mask": causal_float}, batch_first=True),
    "padding": lambda: Uses({"key_padding_mask": padding}, batch_first=True),
    "padding and a mask": lambda: Uses({"key_padding_mask": padding, "attn_mask": causal_bool}, batch_first=True),
    "other keys": lambda: Uses({"key": lambda x: x.flip(1) * 2}, batch_first=True),
    "no biases": lambda: Uses(batch_first=True, bias=False),
    "an extra key and a zero key": lambda: Uses(batch_first=True, add_bias_kv=True, add_zero_attn=True),
    "other widths of keys": lambda: Uses({"key": lambda x: x[..., :8]}, batch_first=True, kdim=8, vdim=8),
    "inside nn.TransformerEncoderLayer": encoder,
}
KEPT = {
    "fused already (no weights, length first)": lambda: Uses({"need_weights": False}),
    "weights that are returned": lambda: Reads(lambda out, w: (out, w)),
    "weights that are used": lambda: Reads(lambda out, w: out * w.mean()),
}
