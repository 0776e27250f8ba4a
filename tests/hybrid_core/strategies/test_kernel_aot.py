"""A real package of a minimal model: its answers, its sizes, its memory, its file; refusals need no compiler."""

import copy
import gc
from pathlib import Path

import pytest
import torch
from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.measurement import memory
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.kernels import aot
from hybrid_core.strategies.kernels.compilation import no_compiler_reason
from hybrid_core.strategies.registry import get_strategy

SIDE = 4096
LARGE = SIDE * SIDE * 4  # 67 MB
needs_compiler = pytest.mark.skipif(no_compiler_reason("cpu") is not None, reason=str(no_compiler_reason("cpu")))


class Nested(nn.Module):
    """A keyword, a constant, and a nested answer that holds an input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x, *, scale=1.0):
        return {"out": self.layer(x).relu() * scale, "same": (x,)}


def situation(inputs, kind="forward", call=lambda m, i: m(*i)):
    return Situation(inputs, call, Workload("forward", kind, len(inputs[0])))


@pytest.mark.slow
@needs_compiler
def test_a_package_answers_other_batches_and_refuses_other_forms_and_is_gone_with_its_module():
    torch.manual_seed(0)
    model, x = Nested().eval(), torch.randn(1, 6)
    given = situation((x,), call=lambda m, i: m(*i, scale=2.0))
    applied = aot.compile_ahead(copy.deepcopy(model), given)
    module = applied.model
    for batch in (1, 2, 7):
        fresh = torch.randn(batch, 6)
        with torch.no_grad():
            torch.testing.assert_close(module(fresh, scale=2.0), model(fresh, scale=2.0))
    first = module(x, scale=2.0)["out"]
    kept = first.clone()
    module(-x, scale=2.0)
    assert torch.equal(first, kept)
    for args, kwargs in (((x,), {"scale": 3.0}), ((x.double(),), {"scale": 2.0}), ((x[:, :3],), {"scale": 2.0})):
        with pytest.raises(StrategyUnsupported, match="cannot answer one with"):
            module(*args, **kwargs)
    path = Path(module.package_path)
    assert path.stat().st_size > 0 and "any batch" in applied.changes[0]
    assert list(memory.model_storages(module)) == []
    del module, applied
    gc.collect()
    assert not path.exists()


@pytest.mark.slow
@needs_compiler
def test_the_weights_exist_once_and_are_counted_where_they_lie():
    model = nn.Linear(SIDE, SIDE, bias=False).eval().requires_grad_(False)
    before = memory.live_storages()
    module = get_strategy("kernel_fusion").apply("aot", model, situation((torch.randn(2, SIDE),))).model
    del model
    after = memory.live_storages()
    assert sum(size for key, size in after.items() if key not in before) < 4_000_000 and LARGE not in after.values()
    found = module.outside_memory()
    assert found.weights == pytest.approx(LARGE, rel=0.03) and found.working < 4_000_000
    assert memory.weight_bytes(module) == 0
    use, warnings = memory.add_outside(module, memory.MemoryUse(0, 0))
    assert use.weights == found.weights and "outside PyTorch" in warnings[0]


def test_a_decode_is_refused():
    reason = aot.refuse_what_cannot_be_exported(Nested(), situation((torch.ones(1, 6),), "decode"))
    assert "cache object" in reason


def test_a_compiled_or_packed_or_moved_module_is_refused_by_name():
    x = torch.randn(2, 6)
    compiled = nn.Sequential(nn.Linear(6, 6))
    compiled[0].compile()
    packed = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6, 6)).eval(), {nn.Linear})
    moved = nn.Sequential(aot.PackagedModule(torch.device("cpu")))
    hooked = nn.Linear(6, 6)
    hooked.register_forward_pre_hook(lambda module, args: None)
    assert "hooks change the inputs" in aot.refuse_what_cannot_be_exported(hooked, situation((x,)))
    for model, words in ((compiled, "'0' is already compiled"), (packed, "packed"), (moved, "outside PyTorch")):
        assert words in aot.refuse_what_cannot_be_exported(model, situation((x,)))


def test_experts_that_look_at_the_data_are_refused_in_one_sentence():
    class Routed(nn.Module):
        def forward(self, x):
            return x * 2 if bool(x.sum() > 0) else x.nonzero()[0] + x

    with pytest.raises(StrategyUnsupported, match="cannot be compiled ahead of time") as refusal:
        aot.compile_ahead(Routed(), situation((torch.ones(2, 6),)))
    assert "\n" not in str(refusal.value)


def test_batch_and_token_lengths_stay_open_and_images_do_not():
    assert aot.sizes_of_data(torch.zeros(4, 3, 8, 8)) == (0,)
    assert aot.sizes_of_data(torch.zeros(4, 16, dtype=torch.long)) == (0, 1)
    assert aot.sizes_of_data(torch.zeros(1, 16, dtype=torch.long)) == (1,)
    assert aot.sizes_of_data(torch.tensor(1.0)) == ()
