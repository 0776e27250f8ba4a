"""release_early: the graph answers as the model does, over its own parameters, with less alive at once."""

import copy

import pytest
import torch
from torch import nn

from hybrid_core.allocated import allocated_peak
from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.pooling.release_early import MOST_GRAPHS, WORTH_SHARE
from hybrid_core.strategies.registry import get_strategy
from tests.hybrid_core.strategies.pooling_pieces import STRATEGY, TinyDecoder, apply, decode_situation, noise


class Block(nn.Module):
    """Attention and a perceptron written with locals that live until the end."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.mix, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.wide, self.narrow = nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x):
        q, k, v = (z.unflatten(-1, (4, 4)).transpose(1, 2) for z in self.mix(self.norm(x)).chunk(3, -1))
        scores = q @ k.transpose(-2, -1) * 0.5
        weights = (scores + torch.ones(x.shape[1], x.shape[1]).triu(1) * -1e9).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.narrow(nn.functional.gelu(self.wide(x)))


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        wide = self.norm(self.first(x))
        kept = wide.relu()
        return {"maps": self.second(kept), "mean": kept.mean((2, 3))}


class Aliases(nn.Module):
    """Views, operations in place, and answers that are an input, a view of one, or a parameter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(noise(6, 6, seed=2))
        self.register_buffer("scale", torch.arange(6.0))

    def forward(self, x, *, factor=2.0):
        y = x @ self.weight
        flat = y.view(-1)
        flat.add_(1).mul_(factor)
        pairs = y[:, None] * y[:, :, None]
        large = pairs.exp()
        small = large.tanh().sum(1).clamp_(-1, 1) * self.scale
        return small, (x, x[:, :3], self.weight), y.T


class KeepsLocals(nn.Module):
    """Each result is read once and held until the end."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        a = self.inner(x)
        b = a * 2
        c = b + 1
        d = c.tanh()
        return d * 3


def same(one, other):
    found, expected = (torch.utils._pytree.tree_flatten(value) for value in (other, one))
    assert found[1] == expected[1]
    return all(torch.equal(a, b) for a, b in zip(expected[0], found[0], strict=True))


# The model, the shapes it is called with (the first is the example), and how many graphs these need.
BLOCKS = {
    "attention": (Block, [(4, 12, 16), (4, 12, 16), (1, 12, 16), (7, 5, 16)], 1),
    "convolutions": (Convolutions, [(4, 3, 10, 10), (4, 3, 10, 10), (1, 3, 10, 10), (9, 3, 16, 16)], 2),
    "aliases": (Aliases, [(8, 6), (8, 6), (1, 6), (5, 6)], 1),
    "a batch of one": (Convolutions, [(1, 3, 32, 32), (1, 3, 32, 32), (6, 3, 32, 32)], 1),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_graph_answers_exactly_as_the_model_for_fresh_inputs_and_other_batches(name):
    build, shapes, graphs = BLOCKS[name]
    model = build().eval()
    applied = apply("release_early", model, noise(*shapes[0]))
    with torch.no_grad():
        for seed, shape in enumerate(shapes, 1):
            x = noise(*shape, seed=seed)
            before = x.clone()
            assert same(model(x), applied.model(x)), shape
            assert torch.equal(x, before)
    assert len(applied.model.graphs) == graphs


def test_a_model_whose_hook_casts_its_inputs_is_called_with_what_its_caller_has():
    """bfloat16 casts at the root: the graph is made for the float inputs and does the cast itself."""
    narrow = get_strategy("quantization").apply("bfloat16", KeepsLocals().eval(), forward_situation(noise(64, 4))).model
    applied = STRATEGY.apply("release_early", narrow, forward_situation(noise(64, 4)))
    with torch.no_grad():
        for rows in (64, 5):
            found = applied.model(noise(rows, 4, seed=rows))
            assert found.dtype == torch.float32 and torch.equal(found, narrow(noise(rows, 4, seed=rows)))
    assert len(applied.model.graphs) == 1


def test_the_graph_runs_on_the_very_parameters_and_buffers_of_the_model():
    private = Convolutions().eval()
    own = {id(t) for t in (*private.parameters(), *private.buffers())}
    applied = STRATEGY.apply("release_early", private, forward_situation(noise(4, 3, 10, 10)))
    run = applied.model.graphs[0].run
    assert {id(t) for t in run.parameters()} == {id(t) for t in private.parameters()}
    assert {id(t) for t in run.buffers()} <= own
    with torch.no_grad():
        private.first.weight.zero_()
        assert same(private(noise(2, 3, 10, 10)), applied.model(noise(2, 3, 10, 10)))


def forward_situation(x):
    situation = copy.copy(decode_situation())
    workload = type(situation.workload)("forward", "forward", x.shape[0])
    return type(situation)((x,), lambda m, i: m(*i), workload)


def peak(model, x):
    with torch.inference_mode():
        return allocated_peak(lambda: model(x))


def test_the_peak_of_held_locals_falls_to_two_results():
    model, x = KeepsLocals().eval(), noise(4096, 4)
    applied = apply("release_early", model, x)
    result = 4096 * 4 * 4
    # Scalars that operators wrap into tensors are a few bytes more.
    assert peak(model, x) == pytest.approx(5 * result, abs=64)
    assert peak(applied.model, x) == pytest.approx(2 * result, abs=64)
    assert (
        f"{2 * result / 1e6:.2f} MB at the peak of the example call instead of {5 * result / 1e6:.2f} MB"
        in (applied.changes[0])
    )


def test_a_copy_of_the_module_has_parameters_and_graphs_of_its_own():
    applied = apply("release_early", KeepsLocals(), noise(64, 4))
    copied = copy.deepcopy(applied.model)
    with torch.no_grad():
        copied.original.inner.weight.zero_()
        copied.original.inner.bias.zero_()
        assert torch.equal(copied(noise(3, 4)), torch.full((3, 4), 3 * torch.tensor(1.0).tanh()))
        assert not torch.equal(applied.model(noise(3, 4)), copied(noise(3, 4)))


def test_another_form_of_call_is_exported_in_its_turn_until_there_are_enough():
    model = Aliases().eval()
    applied = apply("release_early", model, noise(8, 6))
    x = noise(3, 6, seed=5)
    with torch.inference_mode():
        for count in range(2, MOST_GRAPHS + 1):
            assert same(model(x, factor=float(count) + 1), applied.model(x, factor=float(count) + 1))
            assert len(applied.model.graphs) == count
        assert same(model(x), applied.model(x))
        with pytest.raises(StrategyUnsupported, match=r"none holds for float32\[3, 6\]"):
            applied.model(x, factor=-1.0)


def test_a_model_that_holds_nothing_too_long_is_refused_with_both_peaks():
    with pytest.raises(StrategyUnsupported, match="nothing is saved by freeing results early"):
        apply("release_early", nn.Sequential(nn.Linear(8, 8), nn.ReLU()), noise(512, 8))
    assert 0 < WORTH_SHARE < 0.1


class AsksItsData(nn.Module):
    def forward(self, x):
        y = x * 2
        return y.exp() if float(y.sum()) > 0 else y.sin()


def test_what_no_graph_can_follow_is_refused():
    with pytest.raises(StrategyUnsupported, match="AsksItsData cannot be exported as a graph"):
        apply("release_early", AsksItsData(), noise(8, 4))
    with pytest.raises(StrategyUnsupported, match="growing key-value cache"):
        STRATEGY.apply("release_early", TinyDecoder().eval(), decode_situation())
    with pytest.raises(StrategyUnsupported, match="training mode"):
        STRATEGY.apply("release_early", KeepsLocals().train(), forward_situation(noise(8, 4)))


class AsksForABatchOfOne(KeepsLocals):
    def forward(self, x):
        y = super().forward(x)
        return y - 1 if x.shape[0] == 1 else y


def test_code_that_asks_for_a_batch_of_one_gets_a_graph_of_its_own_for_it():
    model = AsksForABatchOfOne().eval()
    applied = apply("release_early", model, noise(64, 4))
    with torch.no_grad():
        for rows in (64, 1):
            assert same(model(noise(rows, 4, seed=3)), applied.model(noise(rows, 4, seed=3)))
    assert len(applied.model.graphs) == 2
