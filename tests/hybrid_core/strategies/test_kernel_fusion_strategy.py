import copy

import pytest
import torch
from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.attention.search import count_fused_calls
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.kernels import compilation
from hybrid_core.strategies.kernels.compilation import CompiledCall
from hybrid_core.strategies.kernels.fold import plain_norm
from hybrid_core.strategies.registry import get_strategy

STRATEGY = get_strategy("kernel_fusion")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(model):
    torch.manual_seed(0)
    for part in model.modules():
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None and tensor.is_floating_point():
                nn.init.uniform_(tensor, 0.5, 1.5) if name == "running_var" else nn.init.normal_(tensor)
    return model.eval()


def situation(*example, kind="forward"):
    return Situation(example, lambda m, i: m(*i), Workload(kind, kind, example[0].shape[0]))


def fold(model, *example):
    return STRATEGY.apply("fold", copy.deepcopy(model), situation(*example))


def kinds(model):
    return [type(m).__name__ for m in model.modules() if not m._modules]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5), nn.ReLU()), (2, 3, 9)),
        (nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)), (2, 3, 9, 9)),
        (nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4, affine=False)), (2, 2, 4, 4, 4)),
        (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh()), (7, 6)),
    ],
    ids=["conv1d", "conv2d", "conv3d", "linear"],
)
def test_a_batch_norm_disappears_and_the_answer_stays(model, shape):
    model = made(model)
    applied = fold(model, noise(*shape))
    assert not any("BatchNorm" in kind for kind in kinds(applied.model))
    fresh = noise(*shape, seed=9)
    torch.testing.assert_close(applied.model(fresh), model(fresh), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.LayerNorm(8, eps=1e-2), nn.RMSNorm(8, eps=1e-5)], ids=str)
def test_the_scale_and_shift_of_a_norm_move_into_all_its_readers(norm):
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.a, self.b = norm, nn.Linear(8, 3), nn.Linear(8, 4, bias=False)

        def forward(self, x):
            x = self.norm(x)
            return torch.cat((self.a(x), self.b(x)), -1)

    model = made(Heads())
    applied = fold(model, noise(2, 5, 8))
    assert not list(applied.model.norm.parameters())
    fresh = noise(4, 3, 8, seed=7)
    torch.testing.assert_close(applied.model(fresh), model(fresh), rtol=1e-4, atol=1e-4)


class HandNorm(nn.Module):
    def __init__(self, width, eps=1e-5, wrong=False):
        super().__init__()
        self.weight, self.eps, self.wrong = nn.Parameter(torch.ones(width)), eps, wrong

    def forward(self, x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps * (2 if self.wrong else 1))
        return x * scale * self.weight


def test_a_norm_written_by_hand_is_recognised_by_its_numbers_and_replaced():
    model = made(nn.Sequential(HandNorm(8), nn.Linear(8, 3)))
    applied = fold(model, noise(4, 8))
    assert type(applied.model[0]) is nn.RMSNorm and not list(applied.model[0].parameters())
    torch.testing.assert_close(applied.model(noise(4, 8, seed=1)), model(noise(4, 8, seed=1)), rtol=1e-4, atol=1e-4)


def test_a_norm_that_is_almost_the_library_one_is_left_alone():
    assert plain_norm(made(HandNorm(8, eps=1e-5))) is not None
    assert plain_norm(made(HandNorm(8, eps=1e-5, wrong=True))) is None
    assert plain_norm(made(nn.BatchNorm1d(8))) is None


class Residual(nn.Module):
    """Somebody besides the linear layer reads the norm."""

    def __init__(self):
        super().__init__()
        self.norm, self.up = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.norm(x)
        return x + self.up(x)


class OfAView(nn.Module):
    """The linear layer sees a transposed view, whose last dimension is another one."""

    def __init__(self):
        super().__init__()
        self.norm, self.up = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        return self.up(self.norm(x).transpose(1, 2))


class Returned(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.norm(x)
        return self.up(x), x


class ReaderReadsMore(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        return self.up(self.norm(x)) + self.up(x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.norm, self.head = nn.Embedding(5, 8), nn.LayerNorm(8), nn.Linear(8, 5, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x):
        return self.head(self.norm(self.table(x.abs().long().clamp(max=4))))[..., 0]


class ConvReadTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class BatchNormOfSequences(nn.Module):
    """On three dimensions the channels of a batch norm are not the features of the linear layer."""

    def __init__(self):
        super().__init__()
        self.up, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(self.up(x))


@pytest.mark.parametrize(
    "kind",
    [Residual, OfAView, Returned, ReaderReadsMore, Tied, ConvReadTwice, BatchNormOfSequences],
    ids=lambda k: k.__name__,
)
def test_nothing_is_folded_that_somebody_else_sees(kind):
    with pytest.raises(StrategyUnsupported, match="nothing can be folded"):
        fold(made(kind()), noise(2, 8, 8))


def test_training_mode_is_refused():
    with pytest.raises(StrategyUnsupported, match="training mode"):
        fold(nn.Sequential(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5)).train(), noise(2, 3, 9))


def test_folding_needs_no_compiler_and_compiling_says_what_is_missing(monkeypatch):
    compilation.no_compiler_reason.cache_clear()
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: "/no/such/compiler")
    try:
        assert STRATEGY.unavailable("fold", "cpu") is None
        assert "no working C++ compiler" in STRATEGY.unavailable("compile", "cpu")
    finally:
        compilation.no_compiler_reason.cache_clear()


def test_compiling_keeps_the_object_and_its_attributes_and_is_seen_by_a_call(monkeypatch):
    monkeypatch.setattr(compilation.torch, "compile", lambda call, **_: lambda *a, **k: ("compiled", call(*a, **k)))
    monkeypatch.setattr(STRATEGY.__class__, "unavailable", lambda self, setting, device: None)
    model = made(nn.Sequential(nn.Linear(4, 4)))
    model.cache_factory = len
    applied = STRATEGY.apply("compile", model, situation(noise(2, 4)))
    assert applied.model is model and model.cache_factory is len
    assert model(noise(2, 4))[0] == "compiled"
    assert isinstance(copy.deepcopy(model)(noise(2, 4)), torch.Tensor)


def test_a_bare_module_of_the_library_is_really_compiled():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = CompiledCall(nn.Sequential(nn.Linear(4, 4)).eval(), dynamic=False, freezing=False, backend="eager")
    with torch.no_grad():
        compiled(noise(2, 4))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_running_out_of_compilations_is_an_error_and_not_a_silent_slow_run():
    compiled = CompiledCall(nn.Linear(4, 4).eval(), dynamic=False, freezing=False, backend="eager")
    with torch._dynamo.config.patch(recompile_limit=2), torch.no_grad():
        compiled(noise(2, 4))
        compiled(noise(3, 4))
        with pytest.raises(StrategyUnsupported, match="made 2 forms of one function and met yet another"):
            compiled(noise(5, 4))
    torch._dynamo.reset()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.RMSNorm(16, eps=1e-5), nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = (z.view(*x.shape[:2], 2, 8).transpose(1, 2) for z in self.qkv(self.norm(x)).chunk(3, -1))
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        return x + self.out(((q @ k.mT * 0.35 + mask).softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.slow
def test_attention_and_int8_and_compiling_and_slicing_stack_on_one_decoder():
    model, x = nn.Sequential(Block()).eval(), noise(4, 12, 16)
    situation_ = situation(x)
    steps = [("attention_fusion", "sdpa"), ("quantization", "int8_dynamic")]
    changed = copy.deepcopy(model)
    for strategy, setting in steps:
        changed = get_strategy(strategy).apply(setting, changed, situation_).model
    assert count_fused_calls(lambda: changed(x)) == 1
    with torch.no_grad():
        eager = changed(x)
    for strategy, setting in [("kernel_fusion", "compile"), ("memory_pooling", "micro_batch")]:
        changed = get_strategy(strategy).apply(setting, changed, situation_).model
    with torch.no_grad():
        assert (changed(x) - eager).norm() < 0.05 * eager.norm()  # each slice chooses int8 input scales of its own
        assert (changed(x) - model(x)).norm() < 0.1 * model(x).norm()
    torch._dynamo.reset()
