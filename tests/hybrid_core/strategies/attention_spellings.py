"""Attention written in many ways, as people write it; every one computes something `sdpa` must reproduce or refuse."""

import math

import torch
from torch import nn
from torch.nn import functional as F

HEADS, WIDTH = 4, 8
DIM = HEADS * WIDTH


class Projected(nn.Module):
    """Projections and head split; subclasses write the core."""

    kv_heads = HEADS

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(DIM, DIM)
        self.k = nn.Linear(DIM, self.kv_heads * WIDTH)
        self.v = nn.Linear(DIM, self.kv_heads * WIDTH, bias=False)
        self.o = nn.Linear(DIM, DIM)

    def split(self, x, heads):
        return x.view(x.shape[0], x.shape[1], heads, WIDTH).transpose(1, 2)

    def forward(self, x):
        q, k, v = (
            self.split(self.q(x), HEADS),
            self.split(self.k(x), self.kv_heads),
            self.split(self.v(x), self.kv_heads),
        )
        return self.o(self.core(q, k, v).transpose(1, 2).reshape(x.shape[0], x.shape[1], DIM))

    def causal(self, x):
        return torch.ones(x.shape[2], x.shape[2], dtype=torch.bool, device=x.device).triu(1)


class DivideAfter(Projected):
    def core(self, q, k, v):
        return (q @ k.transpose(-2, -1) / math.sqrt(WIDTH)).softmax(-1) @ v


class MultiplyAfter(Projected):
    def core(self, q, k, v):
        return torch.matmul(torch.softmax(torch.matmul(q, k.mT) * q.size(-1) ** -0.5, dim=-1), v)


class ScaleBefore(Projected):
    def core(self, q, k, v):
        return F.softmax((q * 0.3) @ k.transpose(2, 3), dim=3) @ v


class NoScale(Projected):
    def core(self, q, k, v):
        return F.softmax(q @ k.transpose(2, 3), dim=-1) @ v


class ScaleTwice(Projected):
    def core(self, q, k, v):
        return F.softmax(0.5 * (q @ k.transpose(2, 3)) / 3, dim=-1) @ v


class AdditiveMask(Projected):
    def core(self, q, k, v):
        mask = torch.zeros(q.shape[2], q.shape[2]).masked_fill(self.causal(q), float("-inf"))
        return (q @ k.transpose(-2, -1) / math.sqrt(WIDTH) + mask).softmax(-1) @ v


class MaskBeforeScale(Projected):
    """The bias is scaled too."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(HEADS, 16, 16))

    def core(self, q, k, v):
        t = q.shape[2]
        return ((q @ k.transpose(-2, -1) + self.bias[:, :t, :t]) * 0.25).softmax(-1) @ v


class SubtractedMask(Projected):
    def core(self, q, k, v):
        return (q @ k.transpose(-2, -1) - 1e4 * self.causal(q).float()).softmax(-1) @ v


class FillInfinity(Projected):
    def core(self, q, k, v):
        scores = (q @ k.transpose(-2, -1)) * 0.2
        return scores.masked_fill(self.causal(q), float("-inf")).softmax(-1) @ v


class FillLowest(Projected):
    def core(self, q, k, v):
        scores = (q @ k.transpose(-2, -1)) * 0.2
        return scores.masked_fill(self.causal(q), torch.finfo(scores.dtype).min).softmax(-1) @ v


class FillThenScale(Projected):
    def core(self, q, k, v):
        return ((q @ k.transpose(-2, -1)).masked_fill(self.causal(q), -1e9) / math.sqrt(WIDTH)).softmax(-1) @ v


class WhereKept(Projected):
    def core(self, q, k, v):
        scores = q @ k.transpose(-2, -1)
        return torch.where(self.causal(q), torch.tensor(-1e30), scores).softmax(-1) @ v


class WhereMasked(Projected):
    def core(self, q, k, v):
        scores = q @ k.transpose(-2, -1)
        keep = ~self.causal(q)
        return torch.where(keep, scores, torch.full_like(scores, float("-inf"))).softmax(-1) @ v


class FullyMaskedRow(Projected):
    """A finite fill makes a row that sees nothing uniform; so must the fused form."""

    def core(self, q, k, v):
        hidden = self.causal(q)
        hidden[2] = True
        return (q @ k.transpose(-2, -1)).masked_fill(hidden, torch.finfo(q.dtype).min).softmax(-1) @ v


class FillInPlace(Projected):
    def core(self, q, k, v):
        scores = q @ k.transpose(-2, -1)
        scores /= 2.0
        scores.masked_fill_(self.causal(q), float("-inf"))
        return scores.softmax(-1) @ v


class WideSoftmax(Projected):
    def core(self, q, k, v):
        scores = (q @ k.transpose(-2, -1)) * 0.3
        return F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v


class WideByHand(Projected):
    def core(self, q, k, v):
        return F.softmax((q.float() @ k.float().transpose(-2, -1)).float(), dim=-1).type_as(q) @ v


class Dropped(Projected):
    def __init__(self):
        super().__init__()
        self.drop, self.soft = nn.Dropout(0.2), nn.Softmax(dim=-1)

    def core(self, q, k, v):
        return self.drop(self.soft(q @ k.transpose(-2, -1))).contiguous() @ v


class EinsumPlain(Projected):
    def core(self, q, k, v):
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(WIDTH)
        return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)


class EinsumLayout(Projected):
    """Heads stay behind the length, and the mask is filled in the layout of the scores."""

    def forward(self, x):
        q, k, v = (f(x).view(*x.shape[:2], HEADS, WIDTH) for f in (self.q, self.k, self.v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.35
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(hidden[None, None], float("-inf")).softmax(-1)
        return self.o(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))


class EinsumHeadsLast(Projected):
    """The score of a key is the last dimension, but heads come between; a mask must be moved along."""

    def forward(self, x):
        q, k, v = (f(x).view(*x.shape[:2], HEADS, WIDTH) for f in (self.q, self.k, self.v))
        scores = torch.einsum("bqhd,bkhd->bqhk", q, k)
        bias = torch.arange(x.shape[1] * x.shape[1]).view(x.shape[1], 1, x.shape[1]).sin()
        return self.o(torch.einsum("bqhk,bkhd->bqhd", (scores + bias).softmax(-1), v).flatten(2))


class Bmm3D(Projected):
    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (self.split(f(x), HEADS).reshape(b * HEADS, t, WIDTH) for f in (self.q, self.k, self.v))
        weights = torch.bmm(q, k.transpose(1, 2)).div(math.sqrt(WIDTH)).softmax(-1)
        return self.o(torch.bmm(weights, v).view(b, HEADS, t, WIDTH).transpose(1, 2).reshape(b, t, DIM))


class BmmWithViews(Projected):
    """As in Bloom: the product in three dimensions, mask and softmax in four, the second product in three."""

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (self.split(f(x), HEADS).reshape(b * HEADS, t, WIDTH) for f in (self.q, self.k, self.v))
        bias = torch.linspace(-1, 1, t).expand(b * HEADS, 1, t)
        scores = torch.baddbmm(bias, q, k.transpose(1, 2), beta=1, alpha=0.4).view(b, HEADS, t, t)
        hidden = torch.ones(t, t, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1).view(b * HEADS, t, t)
        return self.o(torch.bmm(weights, v).view(b, HEADS, t, WIDTH).transpose(1, 2).reshape(b, t, DIM))


class GroupedRepeat(Projected):
    kv_heads = 2

    def core(self, q, k, v):
        k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
        return (q @ k.transpose(-2, -1) / math.sqrt(WIDTH)).softmax(-1) @ v


class GroupedExpand(Projected):
    """Five dimensions: a group of queries shares a key head by broadcasting."""

    kv_heads = 2

    def core(self, q, k, v):
        b, _, t, _ = q.shape
        q = q.view(b, 2, 2, t, WIDTH)
        mask = torch.zeros(t, t).masked_fill(self.causal(k), float("-inf"))
        weights = (q @ k.unsqueeze(2).transpose(-2, -1) * 0.3 + mask).softmax(-1)
        return (weights @ v.unsqueeze(2)).view(b, HEADS, t, WIDTH)


class MultiQuery(Projected):
    kv_heads = 1

    def core(self, q, k, v):
        return (q @ k.transpose(-2, -1) / math.sqrt(WIDTH)).softmax(-1) @ v


class KeysFirst(Projected):
    """k q' with the result transposed before the softmax."""

    def core(self, q, k, v):
        scores = (k @ q.transpose(-2, -1)).transpose(-2, -1) * 0.3
        return scores.softmax(-1) @ v


class LearnedTemperature(Projected):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.rand(HEADS, 1, 1) + 0.5)

    def core(self, q, k, v):
        return ((q @ k.transpose(-2, -1)) * self.temperature).softmax(-1) @ v


class SingleHead(Projected):
    """Three dimensions, no heads."""

    def forward(self, x):
        weights = (self.q(x) @ self.k(x).transpose(1, 2) / math.sqrt(DIM)).softmax(-1)
        return self.o(weights @ self.v(x))


class FusedQkv(nn.Module):
    """As in nanoGPT: one projection, a mask buffer that is sliced."""

    def __init__(self):
        super().__init__()
        self.qkv, self.o = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.register_buffer("mask", torch.tril(torch.ones(1, 1, 32, 32)))

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (z.view(b, t, HEADS, c // HEADS).transpose(1, 2) for z in self.qkv(x).split(c, dim=2))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf"))
        return self.o((F.softmax(scores, dim=-1) @ v).transpose(1, 2).contiguous().view(b, t, c))


class RelativeBias(Projected):
    """The bias is itself a product, as in T5 and Swin."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(32, HEADS))

    def core(self, q, k, v):
        t = q.shape[2]
        index = torch.arange(t)[:, None] - torch.arange(t)[None, :] + 15
        bias = self.table[index].permute(2, 0, 1)
        return (q @ k.transpose(-2, -1) + bias).softmax(-1) @ v


class ProbabilitiesDropped(nn.Module):
    """The attention returns its probabilities and the block around it drops them."""

    def __init__(self):
        super().__init__()
        self.attention = Returned()

    def forward(self, x):
        return self.attention(x)[0]


# ---- refused


class Returned(Projected):
    reason = "returned"

    def forward(self, x):
        q, k, v = (self.split(f(x), HEADS) for f in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).flatten(2)), weights


class ScoresReturned(Projected):
    reason = "scores are returned"

    def forward(self, x):
        q, k, v = (self.split(f(x), HEADS) for f in (self.q, self.k, self.v))
        scores = q @ k.transpose(-2, -1)
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)), scores.mean()


class OtherDimension(Projected):
    reason = "does not sum over|not the one of the keys"

    def core(self, q, k, v):
        return (q @ k.transpose(-2, -1)).softmax(-2) @ v


class OverHeads(Projected):
    reason = "not the one of the keys"

    def core(self, q, k, v):
        return (q @ k.transpose(-2, -1)).softmax(1) @ v


class SoftCap(Projected):
    reason = "tanh"

    def core(self, q, k, v):
        return (50 * torch.tanh(q @ k.transpose(-2, -1) / 50)).softmax(-1) @ v


class ActiveDropout(Projected):
    reason = "dropout"

    def core(self, q, k, v):
        return F.dropout((q @ k.transpose(-2, -1)).softmax(-1), 1e-7) @ v


class SmallFill(Projected):
    reason = "filled with -5"

    def core(self, q, k, v):
        return (q @ k.transpose(-2, -1)).masked_fill(self.causal(q), -5.0).softmax(-1) @ v


class ReweightedProbabilities(Projected):
    reason = "go through"

    def core(self, q, k, v):
        return ((q @ k.transpose(-2, -1)).softmax(-1) ** 2) @ v


class Gate(nn.Module):
    """A softmax that is no attention: the router of a mixture."""

    reason = "not from a plain product|goes? through|does not sum|leaves no dimension|cannot|product"

    def __init__(self):
        super().__init__()
        self.router, self.up = nn.Linear(DIM, 4), nn.Linear(DIM, 4)

    def forward(self, x):
        return (self.router(x).softmax(-1) * self.up(x)).sum(-1)


class DataDependent(Projected):
    reason = "cannot be exported"

    def core(self, q, k, v):
        scores = q @ k.transpose(-2, -1)
        if scores.max() > 1e9:
            scores = scores * 0
        return scores.softmax(-1) @ v


FUSED = [
    DivideAfter, MultiplyAfter, ScaleBefore, NoScale, ScaleTwice, AdditiveMask, MaskBeforeScale, SubtractedMask,
    FillInfinity, FillLowest, FillThenScale, WhereKept, WhereMasked, FullyMaskedRow, FillInPlace, WideSoftmax,
    WideByHand, Dropped, EinsumPlain, EinsumLayout, EinsumHeadsLast, Bmm3D, BmmWithViews, GroupedRepeat, GroupedExpand,
    MultiQuery, KeysFirst, LearnedTemperature, SingleHead, FusedQkv, RelativeBias, ProbabilitiesDropped,
]  # fmt: skip
REFUSED = [
    Returned, ScoresReturned, OtherDimension, OverHeads, SoftCap, ActiveDropout, SmallFill, ReweightedProbabilities,
    Gate, DataDependent,
]  # fmt: skip
