"""Letting a policy build recipes: many episodes side by side, every step one pass through the network.

Actions are drawn on the processor from an explicit generator, whatever device the network is on, so that a seed means
the same everywhere. The probability of every recipe needs no drawing at all: the tree is small enough to be multiplied
out level by level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybrid_core.rl.game import RecipeGame
from hybrid_core.rl.networks import PolicyNetwork
from hybrid_core.rl.tree import RecipeTree


@dataclass(frozen=True)
class Group:
    """Episodes rolled out together. Shapes (episodes, steps), `finals` (episodes,); states are positions in the tree.

    `nodes`: the state before each decision; `log_probs`: of the action by the policy that drew it; `rewards`: unshaped.
    """

    nodes: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    finals: Tensor

    @property
    def scores(self) -> list[float]:
        """The reward of each episode, before any shaping."""
        return [float(r) for r in self.rewards.sum(dim=-1)]

    @property
    def successors(self) -> Tensor:
        """The state after each decision."""
        return torch.cat([self.nodes[:, 1:], self.finals[:, None]], dim=1)


@torch.no_grad()
def roll_out(policy: PolicyNetwork, game: RecipeGame, episodes: int, generator: torch.Generator) -> Group:
    """Let the policy build `episodes` recipes."""
    device = next(policy.parameters()).device
    at = torch.zeros(episodes, dtype=torch.long)
    nodes, actions, log_probs = [], [], []
    for _ in range(game.horizon):
        table = policy.log_probabilities(game.observations[at].to(device), game.masks[at].to(device)).cpu()
        drawn = torch.multinomial(table.exp(), 1, generator=generator)
        nodes.append(at)
        actions.append(drawn.squeeze(-1))
        log_probs.append(table.gather(-1, drawn).squeeze(-1))
        at = game.children[at, actions[-1]]
    rewards = torch.zeros(episodes, game.horizon)
    rewards[:, -1] = game.rewards[at]
    return Group(torch.stack(nodes, 1), torch.stack(actions, 1), torch.stack(log_probs, 1), rewards, at)


@torch.no_grad()
def log_probabilities(policy: PolicyNetwork, game: RecipeGame) -> Tensor:
    """Log-probability that the policy reaches each state, shape (states,); over finished ones they sum to 1."""
    device = next(policy.parameters()).device
    open_states = slice(game.first_finished)
    table = policy.log_probabilities(game.observations[open_states].to(device), game.masks[open_states].to(device))
    table = table.cpu().double()
    reached = torch.zeros(len(game.paths), dtype=torch.float64)
    for level in game.levels[1:]:
        states = slice(level.start, level.stop)
        parents = game.parents[states]
        reached[states] = reached[parents] + table[parents, game.actions[states]]
    return reached


def setting_shares(finished: Tensor, tree: RecipeTree) -> dict[str, dict[str, float]]:
    """For each slot the probability of "off" and of every setting, from log-probabilities as above."""
    chances = finished[tree.first_finished :].exp()
    choices = torch.tensor(tree.paths[tree.first_finished :])
    shares: dict[str, dict[str, float]] = {}
    for column, slot in enumerate(tree.slots[: tree.horizon]):
        names = ("off", *slot.settings)
        sums = torch.zeros(len(names), dtype=chances.dtype).index_add_(0, choices[:, column], chances)
        shares[slot.strategy] = {name: float(share) for name, share in zip(names, sums, strict=True)}
    return shares
