"""What a session keeps outside PyTorch is found to a stated tolerance on models whose sizes arithmetic gives."""

import gc
import weakref

import pytest
import torch
from torch import nn

from hybrid_core.measurement import memory
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.registry import get_strategy

SIDE = 4096
LARGE = SIDE * SIDE * 4  # 67 MB
# Kernels keep a little beside the weights, and the first call makes small tables.
TOLERANCE, SMALL = 0.03, 4_000_000


class TwoLargeResults(nn.Module):
    """Both results are alive when they are multiplied; no weights at all."""

    def forward(self, x):
        return (torch.softmax(x, -1) * torch.softmax(-x, -1)).sum(-1)


def session_of(setting, model, inputs):
    situation = Situation((inputs,), lambda m, i: m(*i), Workload("forward", "forward", len(inputs)))
    return get_strategy("kernel_fusion").apply(setting, model.eval().requires_grad_(False), situation).model


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def large_layer(request):
    return request.param, session_of(request.param, nn.Linear(SIDE, SIDE, bias=False), torch.randn(16, SIDE))


def test_a_large_layer_is_held_with_its_size(large_layer):
    setting, session = large_layer
    found = session.outside_memory()
    assert found.weights == pytest.approx(LARGE, rel=TOLERANCE)
    # OpenVINO keeps the weights as they were beside its packed copy; ONNX Runtime frees them.
    packed_copy = LARGE if setting == "openvino" else 0
    assert found.working == pytest.approx(packed_copy, rel=TOLERANCE, abs=SMALL)


def test_the_measurement_adds_what_a_session_holds_and_says_how_it_was_found(large_layer):
    _, session = large_layer
    use, warnings = memory.add_outside(session, memory.MemoryUse(0, 0))
    assert use.peak >= LARGE and use.weights == session.outside_memory().weights
    assert len(warnings) == 1 and "outside PyTorch" in warnings[0] and "by the growth of" in warnings[0]


def test_pytorch_alone_would_say_that_a_session_needs_nothing(large_layer):
    assert memory.weight_bytes(large_layer[1]) == 0


@pytest.mark.parametrize(("setting", "most"), [("onnxruntime", 4.2), ("openvino", 3.1)])
def test_large_activations_are_found(setting, most):
    """Two results at least, three if the product has a buffer of its own; ONNX Runtime's arena grows by doubling."""
    session = session_of(setting, TwoLargeResults(), torch.randn(1, SIDE, SIDE))
    found = session.outside_memory()
    assert found.weights < SMALL
    assert 2 * LARGE * (1 - TOLERANCE) <= found.working <= most * LARGE


def test_a_call_of_other_sizes_adds_what_it_needs():
    session = session_of("onnxruntime", nn.Linear(64, 64), torch.randn(4, 64))
    before = session.outside_memory()
    session(torch.randn(50_000, 64))
    assert session.outside_memory().working - before.working >= 50_000 * 64 * 4


@pytest.mark.parametrize("bias", [True, False])
def test_the_weights_of_the_pytorch_model_are_freed(bias):
    """The exporter's optimizer keeps parts of graphs it has seen, which would count the model twice."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(2), nn.Linear(36, 8, bias=bias))
    weights = [weakref.ref(weight) for weight in model.parameters()]
    session = session_of("onnxruntime", model, torch.randn(4, 1, 8, 8))
    del model
    gc.collect()
    assert session is not None and [weight() for weight in weights] == [None] * len(weights)
