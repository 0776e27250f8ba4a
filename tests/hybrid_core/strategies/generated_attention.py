"""Attention modules put together from the choices that people make when they write attention out."""

import math
from dataclasses import asdict, dataclass

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

HEADS, WIDTH = 4, 6
DIM = HEADS * WIDTH

CHOICES = {
    "product": ("at", "matmul", "einsum", "bmm"),
    "values": ("at", "matmul", "einsum", "bmm"),
    "turn": ("transpose", "mT", "permute", "swapaxes"),
    "scale": ("none", "query", "key", "divide", "multiply", "both", "tensor", "left"),
    "mask": (
        "none", "additive", "additive_3d", "additive_4d", "head_bias", "row_bias", "fill_infinite", "fill_lowest",
        "fill_large", "fill_4d", "where_keep", "where_hide", "one_minus", "two_masks", "subtracted",
    ),
    "mask_first": (False, True),
    "softmax": ("method", "functional", "torch", "module", "wide", "wide_input"),
    "dropout": ("none", "module", "functional"),
    "kv": ("same", "repeat_interleave", "expand", "repeat", "single"),
    "split": ("view", "packed_permute", "chunk", "rearranged"),
    "bias": (False, True),
    "contiguous": (False, True),
    "join": ("reshape", "flatten", "contiguous_view"),
}  # fmt: skip
TWISTS = ("returned", "soft_cap", "squared", "active_dropout", "small_fill", "other_axis", "scores_returned")


@dataclass(frozen=True)
class Spelling:
    """One way to write attention; `twist` makes it something else, which must be refused."""

    product: str
    values: str
    turn: str
    scale: str
    mask: str
    mask_first: bool
    softmax: str
    dropout: str
    kv: str
    split: str
    bias: bool
    contiguous: bool
    join: str
    twist: str = ""


NO_TWIST = st.just("")


def spellings(twist=NO_TWIST):
    return st.builds(Spelling, **{name: st.sampled_from(options) for name, options in CHOICES.items()}, twist=twist)


class Generated(nn.Module):
    def __init__(self, spelling):
        super().__init__()
        torch.manual_seed(11)
        self.spelling = spelling
        self.groups = {"same": 1, "single": HEADS}.get(spelling.kv, 2)
        self.kv_heads = HEADS // self.groups
        packed = spelling.split == "packed_permute" and spelling.kv == "same"
        self.qkv = nn.Linear(DIM, 3 * DIM, bias=spelling.bias) if packed else None
        self.q = nn.Linear(DIM, DIM, bias=spelling.bias)
        self.k, self.v = (nn.Linear(DIM, self.kv_heads * WIDTH, bias=spelling.bias) for _ in range(2))
        self.o = nn.Linear(DIM, DIM)
        self.drop, self.soft = nn.Dropout(0.1), nn.Softmax(dim=-1)
        self.temperature = nn.Parameter(torch.rand(HEADS, 1, 1) + 0.5)
        self.head_bias = nn.Parameter(torch.randn(HEADS, 1, 1))
        self.register_buffer("table", torch.randn(HEADS, 32, 32))

    def extra_repr(self):
        return str(asdict(self.spelling))

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.operands(x)
        scores = self.scored(q, k)
        if self.spelling.mask_first:
            scores = self.scaled(self.masked(scores))
        else:
            scores = self.masked(self.scaled(scores))
        scores = 5 * torch.tanh(scores / 5) if self.spelling.twist == "soft_cap" else scores
        weights = self.weights(scores, v)
        mixed = self.product(weights, v, self.spelling.values, "bhqk,bhkd->bhqd").transpose(1, 2)
        out = self.o(self.joined(mixed, b, t))
        extra = {"returned": weights, "scores_returned": scores}.get(self.spelling.twist)
        return out if extra is None else (out, extra)

    def operands(self, x):
        b, t, _ = x.shape
        if self.qkv is not None:
            q, k, v = self.qkv(x).view(b, t, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (
                self.split(f(x), heads)
                for f, heads in ((self.q, HEADS), (self.k, self.kv_heads), (self.v, self.kv_heads))
            )
        k, v = self.repeated(k), self.repeated(v)
        scale = self.spelling.scale
        root = math.sqrt(WIDTH)
        q = q * root**-1 if scale == "query" else q / root**0.5 if scale == "both" else q
        k = k / root if scale == "key" else k / root**0.5 if scale == "both" else k
        return (z.contiguous() for z in (q, k, v)) if self.spelling.contiguous else (q, k, v)

    def split(self, x, heads):
        b, t, _ = x.shape
        if self.spelling.split == "chunk":
            return torch.stack(x.chunk(heads, dim=-1), dim=1)
        if self.spelling.split == "rearranged":
            return x.reshape(b, t, heads, -1).permute(0, 2, 1, 3)
        return x.view(b, t, heads, WIDTH).transpose(1, 2)

    def repeated(self, x):
        b, h, t, d = x.shape
        kind = self.spelling.kv
        if kind == "repeat_interleave":
            return x.repeat_interleave(self.groups, dim=1)
        if kind == "expand":
            return x[:, :, None].expand(b, h, self.groups, t, d).reshape(b, h * self.groups, t, d)
        if kind == "repeat":
            return x.repeat(1, self.groups, 1, 1)
        return x.expand(b, HEADS, t, d) if kind == "single" and self.spelling.product == "bmm" else x

    def scored(self, q, k):
        if self.spelling.product == "einsum" and q.shape[1] == k.shape[1]:
            return torch.einsum("bhqd,bhkd->bhqk", q, k)
        turned = {
            "transpose": lambda: k.transpose(-2, -1), "mT": lambda: k.mT, "permute": lambda: k.permute(0, 1, 3, 2),
            "swapaxes": lambda: k.swapaxes(2, 3),
        }[self.spelling.turn]()  # fmt: skip
        return self.product(q, turned, self.spelling.product, "bhqd,bhdk->bhqk")

    def product(self, left, right, kind, equation):
        if kind == "matmul":
            return torch.matmul(left, right)
        if kind == "einsum" and left.shape[1] == right.shape[1]:
            return torch.einsum(equation, left, right)
        if kind == "bmm" and left.shape[1] == right.shape[1]:
            b, h, rows, _ = left.shape
            return torch.bmm(left.flatten(0, 1), right.flatten(0, 1)).view(b, h, rows, right.shape[-1])
        return left @ right

    def scaled(self, scores):
        scale, factor = self.spelling.scale, WIDTH**-0.5
        if scale == "divide":
            return scores / math.sqrt(WIDTH)
        if scale == "tensor":
            return scores * self.temperature
        return scores * factor if scale == "multiply" else factor * scores if scale == "left" else scores

    def masked(self, scores):
        kind, t = self.spelling.mask, scores.shape[-1]
        hidden = torch.ones(t, t, dtype=torch.bool).triu(1)
        if self.spelling.twist == "small_fill":
            return scores.masked_fill(hidden, -3.0)
        low = torch.finfo(scores.dtype).min
        additive = torch.zeros(t, t).masked_fill(hidden, float("-inf"))
        return {
            "none": lambda: scores,
            "additive": lambda: scores + additive,
            "additive_3d": lambda: additive[None] + scores,
            "additive_4d": lambda: scores + additive[None, None],
            "head_bias": lambda: scores + self.head_bias,
            "row_bias": lambda: scores + self.table[:, :t, :t],
            "fill_infinite": lambda: scores.masked_fill(hidden, float("-inf")),
            "fill_lowest": lambda: scores.masked_fill(hidden, low),
            "fill_large": lambda: scores.masked_fill(hidden[None, None], -1e9),
            "fill_4d": lambda: scores.masked_fill(hidden[None, None].expand(scores.shape[0], 1, t, t), float("-inf")),
            "where_keep": lambda: torch.where(~hidden, scores, low),
            "where_hide": lambda: torch.where(hidden, torch.tensor(float("-inf")), scores),
            "one_minus": lambda: scores + (1.0 - (~hidden).to(scores.dtype)) * -1e9,
            "two_masks": lambda: (scores + self.table[:, :t, :t]).masked_fill(hidden, float("-inf")),
            "subtracted": lambda: scores - 1e4 * hidden.float(),
        }[kind]()

    def weights(self, scores, v):
        axis = -2 if self.spelling.twist == "other_axis" else -1
        weights = {
            "method": lambda: scores.softmax(axis),
            "functional": lambda: F.softmax(scores, dim=axis),
            "torch": lambda: torch.softmax(scores, axis),
            "module": lambda: self.soft(scores) if axis == -1 else scores.softmax(axis),
            "wide": lambda: F.softmax(scores, dim=axis, dtype=torch.float32).to(v.dtype),
            "wide_input": lambda: F.softmax(scores.float(), dim=axis).type_as(v),
        }[self.spelling.softmax]()
        weights = weights**2 if self.spelling.twist == "squared" else weights
        if self.spelling.twist == "active_dropout":
            return F.dropout(weights, 1e-7)
        if self.spelling.dropout == "module":
            return self.drop(weights)
        return F.dropout(weights, 0.1, training=self.training) if self.spelling.dropout == "functional" else weights

    def joined(self, mixed, b, t):
        if self.spelling.join == "flatten":
            return mixed.flatten(2)
        return (
            mixed.contiguous().view(b, t, DIM) if self.spelling.join == "contiguous_view" else mixed.reshape(b, t, -1)
        )
