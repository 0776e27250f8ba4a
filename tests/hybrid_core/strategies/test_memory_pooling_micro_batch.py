import copy

import pytest
import torch
from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation
from tests.hybrid_core.strategies.pooling_pieces import (
    STRATEGY,
    TinyDecoder,
    apply,
    decode_situation,
    noise,
    peak_bytes,
)


def wide_mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 512), nn.GELU(), nn.Linear(512, 4)).eval()


def test_micro_batch_lowers_the_peak_to_about_a_quarter():
    model, x = wide_mlp(), noise(64, 16)
    changed = apply("micro_batch", model, x).model
    torch.testing.assert_close(changed(x), model(x), rtol=1e-5, atol=1e-6)
    assert peak_bytes(changed, x) < 0.3 * peak_bytes(model, x)


def test_micro_batch_runs_as_many_slices_as_it_says_and_keeps_order_for_odd_sizes():
    calls = []
    model = nn.Sequential(wide_mlp())
    model[0].register_forward_pre_hook(lambda m, a: calls.append(a[0].shape[0]))
    x = noise(10, 16)
    changed = apply("micro_batch", model, x).model
    calls.clear()
    out = changed(x)
    assert calls == [3, 3, 3, 1]
    torch.testing.assert_close(out, model(x), rtol=1e-5, atol=1e-6)
    for batch in (1, 2, 5, 33):
        x = noise(batch, 16, seed=batch)
        torch.testing.assert_close(changed(x), model(x), rtol=1e-5, atol=1e-6)


def test_the_sliced_model_is_still_the_same_object_of_its_class():
    model, x = wide_mlp(), noise(8, 16)
    situation = Situation((x,), lambda m, i: m(*i), Workload("forward", "forward", 8))
    changed = STRATEGY.apply("micro_batch", model, situation).model
    assert changed is model and isinstance(changed, nn.Sequential) and len(changed) == 3
    twin = copy.deepcopy(changed)
    with torch.no_grad():
        model[0].weight.zero_()
    assert not torch.equal(twin(x), model(x))


class AcrossRows(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class LosesBatch(nn.Module):
    def forward(self, x):
        return x.sum()


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y.sum()


def test_micro_batch_is_refused_where_slices_are_not_the_whole():
    with pytest.raises(StrategyUnsupported, match="depend on each other"):
        apply("micro_batch", AcrossRows().eval(), noise(8, 4))
    with pytest.raises(StrategyUnsupported, match="first dimension"):
        apply("micro_batch", LosesBatch().eval(), noise(8, 4))
    with pytest.raises(StrategyUnsupported, match="share a first dimension"):
        apply("micro_batch", TwoInputs().eval(), noise(8, 4), noise(3, 4))
    with pytest.raises(StrategyUnsupported, match="batch is 1"):
        apply("micro_batch", wide_mlp(), noise(1, 16))
    with pytest.raises(StrategyUnsupported, match="one cache for the whole batch"):
        STRATEGY.apply("micro_batch", TinyDecoder().eval(), decode_situation())


def test_several_outputs_keep_their_structure():
    class Two(nn.Module):
        def forward(self, x):
            return {"a": x * 2, "b": (x.sum(1), x.argmax(1))}

    x = noise(9, 4)
    out = apply("micro_batch", Two().eval(), x).model(x)
    assert torch.equal(out["a"], x * 2) and torch.equal(out["b"][1], x.argmax(1)) and isinstance(out["b"], tuple)


class OneBatchOnly(nn.Module):
    """As exported with a static batch."""

    def forward(self, x):
        if x.shape[0] != 8:
            raise AssertionError(f"Guard failed: x.size()[0] == 8\ngot {x.shape[0]}")
        return x * 2


def test_micro_batch_says_so_where_the_model_takes_one_batch_only():
    with pytest.raises(StrategyUnsupported, match="slices of 2 rows instead of the batch of 8.*Guard failed"):
        apply("micro_batch", OneBatchOnly().eval(), noise(8, 4))
