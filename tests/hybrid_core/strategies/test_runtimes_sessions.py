"""Sessions of other runtimes answer as PyTorch does, for every form of call, or refuse; they never run it eagerly."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.models.registry import get_entry
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation, tensors_in
from hybrid_core.strategies.registry import STRATEGIES, get_strategy
from hybrid_core.strategies.runtimes.call_form import record_call
from hybrid_core.strategies.runtimes.graph_file import export_call, quiet_export
from hybrid_core.strategies.runtimes.session import RuntimeModule

ROOT = Path(__file__).parents[3]
RUNTIMES = ["onnxruntime", "openvino"]
HEAVY = ("onnxruntime", "onnx", "onnxscript", "openvino", "nncf")


class Answers(nn.Module):
    """Two inputs of different types, nested answers, one of them an input; a fixed number of learned positions."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)
        self.positions = nn.Parameter(torch.randn(32, 8))

    def forward(self, tokens, mask, scale=2.0, extra=None):
        x = self.table(tokens) + self.positions[: tokens.shape[1]]
        x = x.masked_fill(mask.unsqueeze(-1), 0.0) * scale
        return {"logits": self.head(x), "parts": (x.mean(1), mask), "tokens": tokens, "none": extra}


def example(batch, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(50, (batch, length), generator=generator)
    return tokens, torch.rand(batch, length, generator=generator) < 0.3


def situation_of(inputs, call=lambda model, inputs: model(*inputs), kind="forward"):
    return Situation(inputs, call, Workload(kind, kind, int(inputs[0].shape[0])))


def seeded(build):
    torch.manual_seed(0)
    return build().eval().requires_grad_(False)


@pytest.fixture(scope="module", params=RUNTIMES)
def answers(request):
    model = seeded(Answers)
    applied = get_strategy("kernel_fusion").apply(request.param, seeded(Answers), situation_of(example(4, 16)))
    return model, applied.model


def assert_same(expected, found):
    assert torch.utils._pytree.tree_structure(expected) == torch.utils._pytree.tree_structure(found)
    for one, other in zip(tensors_in(expected), tensors_in(found), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("batch", "length"), [(4, 16), (7, 16), (1, 16), (3, 5)])
def test_a_session_answers_as_the_model_at_other_sizes_than_the_example(answers, batch, length):
    model, session = answers
    inputs = example(batch, length, seed=batch)
    assert_same(model(*inputs), session(*inputs))


def test_an_answer_keeps_its_values_when_the_next_question_is_asked(answers):
    _, session = answers
    first = session(*example(4, 16, 1))
    copies = [t.clone() for t in tensors_in(first)]
    session(*example(4, 16, 2))
    assert all(torch.equal(a, b) for a, b in zip(copies, tensors_in(first), strict=True))


def test_a_session_leaves_its_inputs_alone_and_does_not_alias_them(answers):
    _, session = answers
    inputs = example(4, 16, 3)
    kept = [t.clone() for t in inputs]
    found = session(*inputs)
    found["tokens"].zero_()
    assert all(torch.equal(a, b) for a, b in zip(kept, inputs, strict=True))


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m(*example(4, 40)),  # longer than the positions, which a runtime would cut short silently
        lambda m: m(*example(4, 16), scale=3.0),  # another constant
        lambda m: m(example(4, 16)[0].int(), example(4, 16)[1]),  # another type
        lambda m: m(*example(4, 16), extra=torch.ones(1)),  # another form
    ],
)
def test_a_call_that_the_graph_does_not_hold_for_is_refused_and_never_run_by_pytorch(answers, call):
    with pytest.raises(StrategyUnsupported, match="cannot answer one with"):
        call(answers[1])


def test_nothing_of_the_pytorch_model_is_left(answers):
    _, session = answers
    assert type(session) is RuntimeModule and sum(p.numel() for p in session.parameters()) == 0
    assert [type(m) for m in session.modules()] == [RuntimeModule]


@pytest.mark.parametrize("setting", RUNTIMES)
def test_a_decode_is_refused_because_of_its_cache(setting):
    entry = get_entry("llama")
    workload = next(w for w in entry.workloads("tiny") if w.kind == "decode")
    inputs = entry.make_inputs("tiny", workload, torch.Generator().manual_seed(0))
    situation = Situation(inputs, lambda m, i: entry.call(m, workload, i), workload)
    with pytest.raises(StrategyUnsupported, match="cache"):
        get_strategy("kernel_fusion").apply(setting, entry.build("tiny", 0), situation)


class GrowingCache:
    pass


@pytest.mark.parametrize("setting", RUNTIMES)
@pytest.mark.parametrize(
    ("model", "call", "reason"),
    [
        (nn.Linear(8, 8), lambda m, i: m.weight @ i[0].mT, "never calls the model itself"),
        (nn.Sequential(nn.Linear(8, 8)), lambda m, i: m(i[0]) + m[0].bias, "more of Sequential than its call"),
    ],
)
def test_a_workload_that_needs_more_than_the_call_is_refused(setting, model, call, reason):
    with pytest.raises(StrategyUnsupported, match=reason):
        get_strategy("kernel_fusion").apply(setting, model.eval(), situation_of((torch.randn(4, 8),), call))


class DependsOnValues(nn.Module):
    def forward(self, x):
        return x * 2 if float(x.sum()) > 0 else x


@pytest.mark.parametrize("setting", RUNTIMES)
def test_a_model_that_cannot_be_exported_is_refused_with_what_stands_in_the_way(setting):
    with pytest.raises(StrategyUnsupported, match="DependsOnValues cannot be exported to ONNX .*; leave"):
        get_strategy("kernel_fusion").apply(setting, DependsOnValues().eval(), situation_of((torch.randn(4, 8),)))


@pytest.mark.parametrize("setting", RUNTIMES)
def test_an_absent_library_is_named_with_what_to_install(setting, monkeypatch):
    monkeypatch.setitem(sys.modules, setting, None)
    reason = get_strategy("kernel_fusion").unavailable(setting, "cpu")
    assert reason is not None and setting in reason and "pip install" in reason


@pytest.mark.parametrize("setting", RUNTIMES)
def test_a_gpu_is_refused(setting):
    reason = get_strategy("kernel_fusion").unavailable(setting, "cuda:0")
    assert reason is not None and "CPU" in reason


def test_asking_what_is_available_imports_no_runtime():
    settings = [
        (strategy.name, setting.name)
        for strategy in STRATEGIES
        for setting in strategy.settings
        if "runtimes" in strategy.method(setting.name).apply.__module__
    ]
    assert len(settings) >= len(RUNTIMES)
    program = (
        "import sys\nfrom hybrid_core.strategies.registry import get_strategy\n"
        f"for strategy, setting in {settings!r}: get_strategy(strategy).unavailable(setting, 'cpu')\n"
        f"sys.exit(sum(name in sys.modules for name in {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_graph_file_disappears_with_the_module(tmp_path):
    situation = Situation((torch.randn(4, 8),), lambda m, i: m(*i), Workload("forward", "forward", 4), scratch=tmp_path)
    module = get_strategy("kernel_fusion").apply("onnxruntime", nn.Linear(8, 8).eval(), situation).model
    assert len(list(tmp_path.iterdir())) == 1
    del module
    assert list(tmp_path.iterdir()) == []


class OneHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out((q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1) @ v)


def test_attention_that_was_fused_on_a_batch_of_one_answers_other_sizes_from_a_session_too():
    model, x = seeded(lambda: nn.Sequential(OneHead())), torch.randn(1, 6, 8)
    fused = get_strategy("attention_fusion").apply("sdpa", seeded(lambda: nn.Sequential(OneHead())), situation_of((x,)))
    changed = get_strategy("kernel_fusion").apply("onnxruntime", fused.model, situation_of((x,))).model
    assert isinstance(changed, RuntimeModule)
    for shape in ((1, 6, 8), (3, 9, 8)):
        given = torch.randn(*shape, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(changed(given), model(given), rtol=1e-4, atol=1e-5)


def test_images_may_come_in_another_number_and_in_no_other_size():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()))
    images = torch.randn(5, 3, 8, 6)
    session = get_strategy("kernel_fusion").apply("onnxruntime", model, situation_of((images[:2],))).model
    torch.testing.assert_close(session(images), model(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(StrategyUnsupported, match="leave this setting off for such calls"):
        session(torch.randn(2, 3, 9, 6))


@pytest.mark.parametrize("name", ["brandkit", "vit", "convnet", "viral_clipper"])
def test_shipped_models_are_exported_from_one_item_for_any_number_of_them(name):
    """Their quality tasks have batches of their own; `len(tensor)` in a model's code would fix the number."""
    entry = get_entry(name)
    (workload,) = (w for w in entry.workloads("tiny") if w.name in ("analyse_single", "forward_single"))
    model = entry.build("tiny", 0).eval().requires_grad_(False)
    one = entry.make_inputs("tiny", workload, torch.Generator().manual_seed(0))
    form, example_of_one, _ = record_call(model, situation_of(one))
    with quiet_export(), torch.no_grad():
        _, fits = export_call(model, form, example_of_one, lambda tensor: (0,))
    for count in (1, 3):
        assert fits([torch.cat([tensor] * count) for tensor in example_of_one])
