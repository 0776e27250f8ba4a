"""A mixture of experts as DeepSeek-V3 routes it: a token goes to a few of many small feed-forwards and a shared one.

Every expert scores a token by a sigmoid of its own. Which experts are taken is decided on the scores plus a bias per
expert, which training moves so that no expert starves or is flooded; how much each taken expert counts is decided on
the scores without it. Experts form groups (in the original: machines) and a token reaches a limited number of groups.
The dispatch is the plain loop over the experts that were chosen, each called once with all of its tokens: which rows go
where depends on the data, so nothing here has a shape that is known before.

Source: DeepSeek-V3 (arXiv 2412.19437) section 2.1.2; DeepSeekMoE (arXiv 2401.06066) for shared experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybrid_core.models.parts.blocks import SwiGLU

# A group is judged by this many of its best experts.
BEST_OF_GROUP = 2


@dataclass(frozen=True)
class Routing:
    """How many experts there are and how many of them a token reaches."""

    experts: int
    groups: int
    groups_per_token: int
    experts_per_token: int
    hidden: int
    shared: int = 1
    scaling: float = 2.5

    def __post_init__(self) -> None:
        size, rest = divmod(self.experts, self.groups)
        assert rest == 0 and size >= BEST_OF_GROUP, f"{self.experts} experts do not make {self.groups} groups"
        assert self.experts_per_token <= self.groups_per_token * size, "more experts per token than its groups hold"

    def parameters(self, dim: int) -> int:
        """Of one layer: experts, shared expert, router and selection bias.

        >>> Routing(256, 8, 4, 8, hidden=2048).parameters(7168)
        11320164608
        """
        return 3 * dim * self.hidden * (self.experts + self.shared) + dim * self.experts + self.experts

    def activated_parameters(self, dim: int) -> int:
        """Of one layer, those that work on one token."""
        return self.parameters(dim) - 3 * dim * self.hidden * (self.experts - self.experts_per_token)


class Router(nn.Module):
    """Chooses experts for each token and says how much each counts."""

    def __init__(self, dim: int, routing: Routing) -> None:
        super().__init__()
        self.routing = routing
        self.weight = nn.Parameter(torch.empty(routing.experts, dim))
        nn.init.normal_(self.weight, std=0.02)
        # Part of the published count, but moved by the load of the experts instead of by gradients.
        self.selection_bias = nn.Parameter(torch.zeros(routing.experts), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (tokens, dim) to weights and expert numbers, both (tokens, experts_per_token); float32 inside."""
        scores = F.linear(x.float(), self.weight.float()).sigmoid()
        chosen = choose(scores + self.selection_bias, self.routing)
        weights = scores.gather(1, chosen)
        return weights / (weights.sum(1, keepdim=True) + 1e-20) * self.routing.scaling, chosen


def choose(scores: Tensor, routing: Routing) -> Tensor:
    """The best experts of the best groups, (tokens, experts_per_token).

    A group counts as the sum of its two best scores; scores (tokens, experts) include the selection bias.
    """
    grouped = scores.view(scores.shape[0], routing.groups, -1)
    of_group = grouped.topk(BEST_OF_GROUP, dim=-1).values.sum(-1)
    reached = of_group.topk(routing.groups_per_token, dim=-1).indices
    out_of_reach = torch.ones_like(of_group, dtype=torch.bool).scatter(1, reached, False)
    allowed = grouped.masked_fill(out_of_reach[..., None], float("-inf")).flatten(1)
    chosen: Tensor = allowed.topk(routing.experts_per_token, dim=-1).indices
    return chosen


class MixtureOfExperts(nn.Module):
    """The feed-forward of a layer: routed experts plus a shared one that sees every token."""

    def __init__(self, dim: int, routing: Routing) -> None:
        super().__init__()
        self.router = Router(dim, routing)
        self.experts = nn.ModuleList(SwiGLU(dim, routing.hidden) for _ in range(routing.experts))
        self.shared = SwiGLU(dim, routing.shared * routing.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) to the same; an expert that no token chose is not called."""
        tokens = x.flatten(0, 1)
        weights, chosen = self.router(tokens)
        routed: Tensor = self.dispatch(tokens, weights, chosen).view_as(x) + self.shared(x)
        return routed

    def dispatch(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The weighted sum of each token's experts, (tokens, dim)."""
        mixed = torch.zeros_like(tokens)
        for number in torch.unique(chosen).tolist():
            row, place = torch.where(chosen == number)
            answer = self.experts[number](tokens[row]) * weights[row, place, None]
            mixed.index_add_(0, row, answer.to(mixed.dtype))
        return mixed
