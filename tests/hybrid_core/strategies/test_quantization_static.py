"""Static int8: ranges from calibration, kernels probed for this processor, compiled, refused where it cannot be."""

import copy
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.measurement.compiling import read_counts
from hybrid_core.measurement.memory import weight_bytes
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.precision import int8_static, saturation
from hybrid_core.strategies.registry import get_strategy

ROOT = Path(__file__).parents[3]
STRATEGY = get_strategy("quantization")
needs_kernels = pytest.mark.skipif(
    STRATEGY.unavailable("int8_static", "cpu") is not None, reason="no int8 kernels or no compiler here"
)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def images(seed=0, count=8):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def situation_of(call=lambda m, i: m(*i), kind="forward"):
    return Situation((images(),), call, Workload(kind, kind, 8))


@pytest.fixture
def uncompiled(monkeypatch):
    """What is compiled afterwards, to look at it without waiting for the compiler."""
    monkeypatch.setattr(int8_static, "compile_in_place", lambda model, s, freezing: int8_static.Applied(model, ("c",)))


def apply(model, situation=None):
    return STRATEGY.apply("int8_static", copy.deepcopy(model).eval(), situation or situation_of())


@needs_kernels
def test_products_and_convolutions_are_int8_and_close_to_float32(uncompiled):
    model = Small().eval()
    applied = apply(model)
    assert applied.changes[0].startswith("gave 2 products and convolutions int8 operands")
    with torch.inference_mode():
        expected, found = model(images(5)), applied.model(images(5))
    assert 0 < (found - expected).norm() < 0.05 * expected.norm()


@needs_kernels
def test_the_error_is_what_rounding_of_inputs_and_weights_allows(uncompiled):
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32), torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    found = apply(nn.Sequential(layer), Situation((x,), lambda m, i: m(*i), Workload("forward", "forward", 16))).model(
        x
    )
    levels = saturation.static_range()
    step_x, step_w = (x.max() - x.min()) / levels, layer.weight.abs().amax(1) / 127.0
    clipped = 0.05 * x.abs().max()  # the histogram may cut the ends of the range
    bound = 64 * ((step_x / 2 + clipped) * layer.weight.abs().amax(1) + step_w * x.abs().max() / 2)
    assert ((found - layer(x)).abs() <= bound).all()


@needs_kernels
def test_the_float_weights_are_gone_and_the_original_is_untouched(uncompiled):
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64)).eval()
    before, x = copy.deepcopy(model.state_dict()), torch.randn(8, 256)
    applied = apply(model, Situation((x,), lambda m, i: m(*i), Workload("forward", "forward", 8)))
    assert weight_bytes(applied.model) < weight_bytes(model) / 3.5
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@needs_kernels
def test_a_processor_that_saturates_gets_seven_bits(uncompiled, monkeypatch):
    honest = saturation._static_product
    monkeypatch.setattr(saturation, "_static_product", lambda top: honest(top).clamp(max=259.0 if top == 255 else 1e9))
    assert saturation.static_range() == 127
    assert "activations in 7 bits" in apply(Small()).changes[0]
    monkeypatch.setattr(saturation, "_static_convolution", lambda top: torch.zeros(4))
    assert "add wrongly" in STRATEGY.unavailable("int8_static", "cpu")


@needs_kernels
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the limit is one of x86 processors")
def test_kernels_as_on_processors_without_vnni_are_found_to_saturate():
    """oneDNN can be held to older instructions, but only before it starts."""
    script = (
        "from hybrid_core.strategies.precision import saturation as s; "
        "print(round(float(s._static_product(255)[0])), s.static_range())"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-W", "ignore", "-c", script]
    said = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    total, largest = said.stdout.split()
    assert int(total) != 512 and largest == "127"


@needs_kernels
def test_the_compiled_form_answers_like_the_graph_it_was_made_from():
    model, graphs = Small().eval(), read_counts()
    applied = apply(model)
    with torch.inference_mode():
        expected, found = model(images(5)), applied.model(images(5))
        rounded = copy.deepcopy(applied.model)(images(5))  # copies run uncompiled
    assert read_counts().since(graphs).graphs == 1
    assert found.dtype == torch.float32 and (found - rounded).norm() < 0.02 * rounded.norm()
    assert 0 < (found - expected).norm() < 0.05 * expected.norm()


@needs_kernels
def test_an_example_of_one_row_does_not_fix_the_batch(uncompiled):
    model, one = Small().eval(), Situation((images(0, 1),), lambda m, i: m(*i), Workload("forward", "forward", 1))
    changed = apply(model, one).model
    with torch.inference_mode():
        for count in (1, 2, 5):
            expected, found = model(images(5, count)), changed(images(5, count))
            assert found.shape == expected.shape and (found - expected).norm() < 0.1 * expected.norm()


def test_calls_that_are_not_one_plain_call_are_refused():
    with pytest.raises(StrategyUnsupported, match="decode"):
        apply(Small(), situation_of(kind="decode"))
    if STRATEGY.unavailable("int8_static", "cpu") is None:
        with pytest.raises(StrategyUnsupported, match="calls the model 2 times"):
            apply(Small(), situation_of(call=lambda m, i: m(*i) + m(*i)))


def test_models_without_products_and_other_devices_are_refused():
    assert "no nn.Linear" in STRATEGY.unsupported("int8_static", nn.Sequential(nn.ReLU()).eval(), situation_of())
    assert "CPU only" in STRATEGY.unavailable("int8_static", "cuda:0")
