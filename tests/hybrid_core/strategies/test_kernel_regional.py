import copy

import pytest
import torch
from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.kernels import regional
from hybrid_core.strategies.kernels.regional import SharedCode, compile_regions


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.up(self.norm(x)).tanh()


class Stack(nn.Module):
    def __init__(self, depth, widths=None):
        super().__init__()
        self.layers = nn.ModuleList(Block(width) for width in widths or [8] * depth)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x[..., : layer.up.in_features])
        return x


def situation(x):
    return Situation((x,), lambda m, i: m(*i), Workload("forward", "forward", x.shape[0]))


@pytest.mark.parametrize("depth", [4, 12])
def test_the_number_of_compiled_graphs_does_not_grow_with_depth_and_each_block_keeps_its_weights(depth, monkeypatch):
    torch.manual_seed(0)
    graphs = []

    def note(graph, inputs):
        graphs.append(graph)
        return graph.forward

    class Noted(SharedCode):
        def __init__(self, dynamic, backend=note, whole=False):
            super().__init__(dynamic, backend, whole)

    model, x = Stack(depth).eval(), torch.randn(2, 8)
    monkeypatch.setattr(regional, "SharedCode", Noted)
    applied = compile_regions(copy.deepcopy(model), situation(x))
    graphs.clear()
    fresh = torch.randn(2, 8)
    with torch.no_grad():
        torch.testing.assert_close(applied.model(fresh), model(fresh))
    assert len(graphs) == 1
    assert f"{depth} x layers.0" in applied.changes[0]


def test_tracing_to_find_out_counts_as_no_compiled_graph():
    before = dict(torch._dynamo.utils.counters["stats"])
    compile_regions(Stack(3).eval(), situation(torch.randn(2, 8)))
    assert dict(torch._dynamo.utils.counters["stats"]) == before


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), Stack(0, [8, 6])], ids=str)
def test_a_model_without_equal_blocks_is_refused(model):
    with pytest.raises(StrategyUnsupported, match="no region to compile once"):
        compile_regions(model.eval(), situation(torch.randn(2, 8)))
