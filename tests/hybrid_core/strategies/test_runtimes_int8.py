"""Fewer bits inside other runtimes: sums are right, calibration sees other inputs, combinations do what they say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.recipes import apply_steps, check_recipe
from hybrid_core.records import Recipe, Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.registry import get_strategy
from hybrid_core.strategies.runtimes import openvino_low
from hybrid_core.strategies.runtimes.onnx_int8 import needs_reduced_range, processor_flags
from hybrid_core.strategies.runtimes.session import RuntimeModule

ROOT = Path(__file__).parents[3]
LOW = ["onnx_int8_dynamic", "openvino_int8", "openvino_int8_weights", "openvino_bf16"]
QUANTIZATION = get_strategy("quantization")


class Network(nn.Module):
    """A convolution with its norm, one attention written out, and two products."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 16, 4, stride=4), nn.BatchNorm2d(16)
        self.query, self.key, self.value, self.head = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        x = self.norm(self.conv(x)).flatten(2).mT
        scores = self.query(x) @ self.key(x).mT / 4
        return self.head(torch.softmax(scores, -1) @ self.value(x))


def network():
    torch.manual_seed(0)
    model = Network().eval().requires_grad_(False)
    model.norm.running_mean.normal_(generator=torch.Generator().manual_seed(5))
    return model


def images(seed, batch=4):
    return (torch.randn(batch, 1, 16, 16, generator=torch.Generator().manual_seed(seed)),)


def situation_of(inputs, fresh_inputs=None):
    workload = Workload("forward", "forward", len(inputs[0]))
    return Situation(inputs, lambda model, given: model(*given), workload, fresh_inputs=fresh_inputs)


def relative_error(expected, found):
    return float((found - expected).norm() / expected.norm())


def available(setting):
    reason = QUANTIZATION.unavailable(setting, "cpu")
    return pytest.param(setting, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))


@pytest.mark.parametrize("setting", [available(name) for name in LOW])
def test_fewer_bits_change_the_answers_a_little_and_at_any_batch(setting):
    applied = QUANTIZATION.apply(setting, network(), situation_of(images(1), images))
    assert isinstance(applied.model, RuntimeModule) and len(applied.changes) >= 1
    for batch in (4, 9):
        expected, found = network()(*images(7, batch)), applied.model(*images(7, batch))
        assert found.dtype == torch.float32 and 1e-5 < relative_error(expected, found) < 0.1


@pytest.mark.parametrize("setting", [available("onnx_int8_dynamic"), available("openvino_int8")])
def test_int8_sums_of_the_largest_values_do_not_saturate(setting):
    """512 products of ones: full-range kernels without VNNI would give about 256."""
    layer = nn.Linear(512, 64, bias=False).eval().requires_grad_(False)
    nn.init.ones_(layer.weight)
    inputs = (torch.ones(4, 512),)
    session = QUANTIZATION.apply(setting, layer, situation_of(inputs, lambda turn: inputs)).model
    assert (session(*inputs) - 512).abs().max() < 512 * 0.02


def test_weights_take_about_a_quarter_of_the_bytes():
    model = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024)).eval()
    plain = sum(p.numel() * 4 for p in model.parameters())
    inputs = (torch.randn(8, 1024),)
    session = QUANTIZATION.apply("onnx_int8_dynamic", model, situation_of(inputs)).model
    assert 0.24 * plain < session.outside_memory().weights < 0.32 * plain


@pytest.mark.parametrize("setting", [available("openvino_int8_weights")])
def test_int8_weights_in_openvino_answer_as_weights_rounded_by_the_textbook_and_float_inputs_do(setting):
    """A scale and a zero for each output: 256 steps between its smallest and largest weight, zero among them."""
    torch.manual_seed(3)
    layer = nn.Linear(256, 48).eval().requires_grad_(False)
    inputs = (torch.randn(8, 256),)
    applied = QUANTIZATION.apply(setting, layer, situation_of(inputs))
    assert "1 weights as int8" in applied.changes[1]
    low, high = layer.weight.amin(1, keepdim=True).clamp(max=0), layer.weight.amax(1, keepdim=True).clamp(min=0)
    step = (high - low) / 255
    zero = (-low / step).round()
    rounded = (((layer.weight / step).round() + zero).clamp(0, 255) - zero) * step
    found, expected, plain = applied.model(*inputs), nn.functional.linear(*inputs, rounded, layer.bias), layer(*inputs)
    assert relative_error(expected, found) < 1e-3 < relative_error(plain, found) < 0.02
    with pytest.raises(StrategyUnsupported, match="no constant weight"):
        QUANTIZATION.apply(setting, nn.Softmax(-1).eval(), situation_of((torch.randn(4, 8),)))


def test_calibration_sees_fresh_inputs_and_never_the_example():
    seen = []

    def fresh(turn):
        seen.append(turn)
        return images(100 + turn)

    applied = QUANTIZATION.apply("openvino_int8", network(), situation_of(images(1), fresh))
    assert seen == list(range(openvino_low.CALIBRATION_ITEMS // 4))  # four pictures a call
    assert "found on 16 calibration calls" in applied.changes[1]


def test_single_items_are_calibrated_with_more_calls_and_the_brightest_of_them_is_not_cut_off():
    """Every eighth picture reaches 9; averaged over calls, the range would end near 4."""

    def fresh(turn):
        return (images(100 + turn, batch=1)[0].clamp(-3, 3) * (3.0 if turn % 8 == 0 else 1.0),)

    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 32)).eval().requires_grad_(False)
    applied = QUANTIZATION.apply("openvino_int8", model, situation_of(fresh(1), fresh))
    assert f"found on {openvino_low.CALIBRATION_ITEMS} calibration calls" in applied.changes[1]
    bright = fresh(808)
    assert relative_error(model(*bright), applied.model(*bright)) < 0.03


class Pooled(nn.Module):
    """A mean over places, then a product; the softmax makes it a transformer to NNCF."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(32, 96), nn.Linear(96, 64)

    def forward(self, x):
        places = self.before(x)
        return self.after(places.mean(1)), torch.softmax(places, -1)


def test_the_product_behind_a_mean_stays_float32_because_a_range_inside_a_mean_is_computed_wrongly():
    """Else the error is 0.21."""
    torch.manual_seed(2)
    model = Pooled().eval().requires_grad_(False)
    nn.init.normal_(model.before.bias)

    def places(turn):
        return (torch.randn(16, 108, 32, generator=torch.Generator().manual_seed(turn)),)

    applied = QUANTIZATION.apply("openvino_int8", model, situation_of(places(1), places))
    assert "1 products behind a mean or sum stay float32" in applied.changes[1]
    assert relative_error(model(*places(99))[0], applied.model(*places(99))[0]) < 0.02


def test_without_fresh_inputs_noisy_copies_of_the_example_stand_in():
    situation = situation_of((*images(1), torch.arange(8).reshape(2, 4)))
    first, second = (openvino_low._noisy(situation.example_inputs, torch.Generator().manual_seed(s)) for s in (1, 2))
    assert not torch.equal(first[0], second[0]) and torch.equal(first[1].sort(1).values, torch.arange(8).reshape(2, 4))


def test_a_graph_without_constant_weights_is_refused():
    with pytest.raises(StrategyUnsupported, match="no constant weight"):
        QUANTIZATION.apply("onnx_int8_dynamic", nn.Softmax(-1).eval(), situation_of((torch.randn(4, 8),)))


@pytest.mark.parametrize(
    "steps",
    [
        {"kernel_fusion": "onnxruntime", "attention_fusion": "sdpa"},
        {"kernel_fusion": "openvino", "attention_fusion": "sdpa"},
    ],
)
def test_attention_is_fused_before_the_model_moves(steps):
    applied = apply_steps(network(), Recipe.from_dict(steps), situation_of(images(1)))
    assert isinstance(applied.model, RuntimeModule) and len(applied.changes) >= 2
    assert relative_error(network()(*images(2)), applied.model(*images(2))) < 1e-4


@pytest.mark.parametrize("setting", ["openvino_int8", "onnx_int8_dynamic"])
def test_norms_are_folded_before_the_model_moves(setting):
    steps = Recipe.from_dict({"kernel_fusion": "fold", "quantization": setting})
    applied = apply_steps(network(), steps, situation_of(images(1), images))
    assert isinstance(applied.model, RuntimeModule)
    assert relative_error(network()(*images(2)), applied.model(*images(2))) < 0.1


def test_a_runtime_excludes_whatever_else_would_run_the_model():
    fusion = get_strategy("kernel_fusion")
    runners = [s.name for s in fusion.settings if s.stage >= 90]
    assert {"compile", "onnxruntime", "openvino"} <= set(runners)
    for runner in runners:
        for low in LOW:
            with pytest.raises(InvalidInput, match="runs the whole model|quantize inside the runtime"):
                check_recipe({"kernel_fusion": runner, "quantization": low})
    for runtime in ("onnxruntime", "openvino"):
        for other, setting in (("quantization", "int8_dynamic"), ("memory_pooling", "micro_batch")):
            with pytest.raises(InvalidInput, match="cannot be combined"):
                check_recipe({"kernel_fusion": runtime, other: setting})


def test_the_reduced_range_follows_the_processor(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor: 0\nflags\t\t: fpu avx2 avx_vnni\n")
    assert processor_flags(cpuinfo) == {"fpu", "avx2", "avx_vnni"}
    assert processor_flags(tmp_path / "absent") == frozenset()
    assert not needs_reduced_range("x86_64", processor_flags(cpuinfo))
    assert needs_reduced_range("AMD64", frozenset()) and not needs_reduced_range("arm64", frozenset())


def test_bfloat16_is_refused_where_it_would_be_emulated(monkeypatch):
    monkeypatch.setattr(openvino_low, "processor_flags", lambda: frozenset({"avx2"}))
    assert "no bfloat16 units" in str(QUANTIZATION.unavailable("openvino_bf16", "cpu"))


@pytest.mark.parametrize(("setting", "library"), [("openvino_int8", "nncf"), ("onnx_int8_dynamic", "onnxruntime")])
def test_an_absent_library_is_named_with_what_to_install(setting, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    assert f"pip install {library}" in str(QUANTIZATION.unavailable(setting, "cpu"))


def test_nothing_is_reported_over_the_network_and_no_file_is_left_at_home(tmp_path):
    """OpenVINO and NNCF write an identity into the home folder before they report."""
    program = (
        "import socket, threading\n"
        "def refuse(*a): print('connects to', a[1:], flush=True); raise OSError('no network here')\n"
        "socket.socket.connect = socket.socket.connect_ex = refuse\n"
        "socket.getaddrinfo = lambda *a, **k: refuse(*a)\n"
        "import torch\nfrom torch import nn\n"
        "from hybrid_core.records import Workload\n"
        "from hybrid_core.strategies.base import Situation\n"
        "from hybrid_core.strategies.registry import get_strategy\n"
        "x = torch.randn(4, 16)\n"
        "s = Situation((x,), lambda m, i: m(*i), Workload('forward', 'forward', 4))\n"
        "done = get_strategy('quantization').apply('openvino_int8', nn.Linear(16, 16).eval(), s)\n"
        "done.model(x)\n"
        "print(*[t.name for t in threading.enumerate() if t.name != 'tqdm_monitor'], sep=',')\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "NNCF_CI")} | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "MainThread", done.stdout
    assert [p.name for p in tmp_path.iterdir()] == []
